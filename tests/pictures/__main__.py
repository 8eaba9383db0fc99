"""Make the drawn pictures of the documentation: `python -m tests.pictures NAME ...`.

timeline   the same load on Django's pool and on ours, from a run of some three minutes
terminal   what `poolstatus` prints, from a run of half a minute
diagrams   those of the explanations
redraw     timeline again, from its figures
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.pictures import diagrams, terminal, timeline

IMAGES = Path(__file__).parents[2] / "docs" / "images"
MAKERS = {
    "timeline": timeline.take,
    "terminal": terminal.take,
    "diagrams": diagrams.draw,
    "redraw": timeline.draw,
}


def main() -> int:
    """Make them; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.pictures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="+", choices=MAKERS)
    for name in parser.parse_args().name:
        MAKERS[name](IMAGES)
    return 0


if __name__ == "__main__":
    sys.exit(main())
