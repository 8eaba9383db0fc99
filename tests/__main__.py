"""`python3 -m tests [pytest arguments]`: the test suite, from nothing but a Python.

`--python` and `--django` choose the pair it runs on, `--slow` adds what CI leaves out,
`--coverage` says what the tests pass, `--pair` only names the pair.
"""

import sys

from example_project.bootstrap import enter


def main() -> int:
    """Enter the environment, then hand over to pytest."""
    arguments = enter("tests", ["dev"])
    if arguments == ["--pair"]:
        import django

        pair = sys.version_info[:2], django.VERSION[:2]
        print(*(".".join(map(str, version)) for version in pair))
        return 0
    if "--coverage" in arguments:
        from tests import covered

        return covered.run([each for each in arguments if each != "--coverage"])
    from tests import again

    return again.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
