"""Django's command line for the example shop: `python example_project/manage.py COMMAND`."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Run one management command."""
    # Not setdefault(): a shell often has the settings of another project in its environment.
    os.environ["DJANGO_SETTINGS_MODULE"] = "example_project.settings"
    from django.core.management import execute_from_command_line

    execute_from_command_line(["manage.py", *arguments])


def on_the_shop(arguments: Sequence[str]) -> int:
    """Run one management command on the shop that runs from this checkout."""
    from example_project import places

    if not places.saved_environment():
        print("note: no shop runs here; `python3 -m example_project` starts it", file=sys.stderr)
    main(list(arguments))
    return 0


if __name__ == "__main__":
    # Run as a script, this folder heads the path; the package is in the one above it.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    main(sys.argv[1:])
