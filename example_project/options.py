"""The command line of the example."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

# Nothing that needs the environment is imported here: --help makes none.
PORT = 8000
WORKERS = 2
"""Processes that serve the site."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; end the process where it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="python3 -m example_project",
        description="Run the example shop on a local PostgreSQL, put load on it in transaction "
        "mode, in session mode and on Django's own pool, say what came of it, and serve on. "
        "`manage COMMAND` runs one of Django's commands on it from another shell. "
        "`--python PATH_OR_VERSION` and `--django VERSION` choose what it runs on.",
        allow_abbrev=False,
    )
    parser.add_argument("--check", action="store_true", help="end with status 0 or 1, serve not on")
    parser.add_argument("--serve", action="store_true", help="serve at once, without any load")
    shown = "(default: %(default)s)"
    parser.add_argument(
        "--seconds", type=_seconds, default=8.0, metavar="S", help=f"of each run {shown}"
    )
    parser.add_argument(
        "--requests-in-flight", type=_count, default=48, metavar="N",
        help=f"of the everyday load, and while every backend is killed {shown}",
    )  # fmt: skip
    parser.add_argument(
        "--crowd", type=_count, default=200, metavar="N",
        help=f"requests in flight while the supplier is slow {shown}",
    )  # fmt: skip
    parser.add_argument(
        "--pool-size", type=_count, default=4, metavar="N",
        help=f"connections of each of the {WORKERS} workers, at most {shown}",
    )  # fmt: skip
    parser.add_argument(
        "--pgbouncer", action="store_true",
        help="put the load on it once more, through PgBouncer, which has to be installed",
    )  # fmt: skip
    parser.add_argument(
        "--advise", action="store_true",
        help="instead of all that: visitors of a site whose pools are too small, the size that"
        " `pooladvise` gives them, and the same visitors again; end with status 0 or 1",
    )  # fmt: skip
    parser.add_argument(
        "--flood", type=_flood, metavar="N",
        help="instead of all that: N requests at once on one process with an event loop, 10000 for"
        " example; end with status 0 or 1",
    )  # fmt: skip
    parser.add_argument(
        "--beside", type=_beside, default=500, metavar="N",
        help=f"requests at once on Django's own async ORM, after a flood; 0: none {shown}",
    )  # fmt: skip
    parser.add_argument(
        "--port", type=_port, default=PORT, help=f"of the site; a free one if it is taken {shown}"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the measurements to this file"
    )
    options = parser.parse_args(list(arguments))
    if options.check and options.serve:
        parser.error("--check has no result without load: leave --serve away")
    if options.pgbouncer and options.serve:
        parser.error("--pgbouncer has no result without load: leave --serve away")
    if options.flood and options.serve:
        parser.error("--flood serves a site of its own: leave --serve away")
    if options.flood and options.pgbouncer:
        parser.error("--flood runs without the ordinary load: leave --pgbouncer away")
    if options.advise and (options.serve or options.flood or options.pgbouncer):
        parser.error("--advise runs alone: leave --serve, --flood and --pgbouncer away")
    if options.advise or options.flood or options.serve:
        return options
    connections = WORKERS * options.pool_size
    if options.crowd < 2 * connections:
        parser.error(
            f"--crowd: {options.crowd} requests are no crowd for {connections} connections;"
            f" make it {2 * connections} or more, or --pool-size smaller"
        )
    return options


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 86_400:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and below a day")
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 0 < value <= 1_000:
        raise argparse.ArgumentTypeError(f"{text} is not within 1 and 1000")
    return value


def _flood(text: str) -> int:
    value = int(text)
    # Above that, the ports of one address would not do for the clients' connections.
    if not 100 <= value <= 20_000:
        raise argparse.ArgumentTypeError(f"{text} is not within 100 and 20000")
    return value


def _beside(text: str) -> int:
    value = int(text)
    # Each takes a thread of its own there.
    if not 0 <= value <= 2_000:
        raise argparse.ArgumentTypeError(f"{text} is not within 0 and 2000")
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65_535:
        raise argparse.ArgumentTypeError(f"{text} is not within 0 and 65535")
    return value
