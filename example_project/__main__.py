"""`python3 -m example_project`: the example shop under load, from nothing but a Python."""

import sys

from example_project.bootstrap import enter
from example_project.options import parse


def main() -> int:
    """Enter the environment, then run what the command line asks for."""
    if sys.argv[1:2] != ["manage"] and {"-h", "--help"}.intersection(sys.argv):
        parse(["--help"])
    arguments = enter("example_project", ["demo"])
    # Only now: these need what the environment brings.
    if arguments[:1] == ["manage"]:
        from example_project.manage import on_the_shop

        return on_the_shop(arguments[1:])
    from example_project.stage import main as stage

    return stage(arguments)


if __name__ == "__main__":
    try:
        status = main()
    except KeyboardInterrupt:  # while modules are loaded: nothing has been started yet
        status = 130
    sys.exit(status)
