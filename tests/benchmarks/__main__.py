"""`python3 -m tests.benchmarks`: all benchmarks, from nothing but a Python."""

import sys

from example_project.bootstrap import enter


def main() -> int:
    """Enter the environment, then measure."""
    arguments = enter("tests.benchmarks", ["dev"])
    from tests.benchmarks import program

    try:
        return program.main(arguments)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
