"""`manage.py poolcheck`: can this project reach what it needs? Once, for deploy scripts."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, ArgumentTypeError
from contextlib import suppress
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from django.db import connections

from django_poolkit import health
from django_poolkit.control.tables import Cell, Table, duration, printable
from django_poolkit.health.formats import as_json
from django_poolkit.health.report import Figures, Report, Result, Status
from django_poolkit.management.teaching import TeachingCommand, refuse
from django_poolkit.routing.monitor import monitor
from django_poolkit.routing.topology import role_of

EXIT_CODES: Final[dict[Status, int]] = {"pass": 0, "warn": 1, "fail": 2}

_SHORTEST, _LONGEST = 0.05, 3600.0  # seconds
_TONES: Final[dict[Status, str]] = {"pass": "good", "warn": "warn", "fail": "bad"}
_COLUMNS: Final = ("CHECK", "STATUS", "REASON", ">LATENCY", ">LAG", ">USED", ">SIZE", ">WAIT")
_NONE: Final = Cell("-")


class Command(TeachingCommand):
    """Probe every database, client session and check of this project once."""

    help = (
        "Probe every database, HTTP client session and health check of this project once, from\n"
        "this process, and say what each one says. Opens no pool, and changes nothing."
    )
    epilog = (
        "examples:\n"
        "  manage.py poolcheck                        everything, as a table\n"
        "  manage.py poolcheck && deploy              only where nothing fails or warns\n"
        "  manage.py poolcheck --database default     one database, and nothing else\n"
        "  manage.py poolcheck --timeout 5 --json     with patience, for a script\n\n"
        "exit codes:\n"
        "  0  all pass\n"
        "  1  one warns\n"
        "  2  one fails (or the command line makes no sense)\n"
        "  130 after Ctrl-C"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--database",
            action="append",
            default=[],
            metavar="ALIAS",
            help="only this alias, and nothing but databases; may be given again for more",
        )
        parser.add_argument(
            "--timeout",
            type=_seconds,
            metavar="SECONDS",
            help="how long a check may take; default: what POOLKIT['HEALTH']['TIMEOUT'] says",
        )
        parser.add_argument(
            "--format", choices=("table", "json"), default="table", help="json: one document"
        )
        parser.add_argument(
            "--json", action="store_const", const="json", dest="format", help="as --format json"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Probe, show what was found, and end with the exit code."""
        try:
            _look_at_clusters(options["database"])
            report = health.look(_names(options["database"]), options["timeout"])
        except ImproperlyConfigured as error:  # an own check that cannot be loaded
            raise CommandError(str(error), returncode=EXIT_CODES["fail"]) from None
        except KeyboardInterrupt:
            sys.exit(130)
        if options["format"] == "json":
            document = as_json(report)
            del document["group"], document["age"]  # it is none, and of now
            self.print(json.dumps(document))
        else:
            self.print(self.drawn([table(report)], options))
        if code := EXIT_CODES[report.status]:
            sys.exit(code)


def table(report: Report) -> Table:
    """Return a report with a row for each check, and above them how it stands as a whole."""
    title = Cell(report.status, _TONES[report.status])
    if not report.results:
        return Table(title=title, notes=[Cell("there is nothing to check")])
    return Table(title=title, columns=_COLUMNS, rows=[_row(each) for each in report.results])


def _row(result: Result) -> list[Cell]:
    tone = _TONES[result.status]
    return [
        Cell(printable(result.name)),
        Cell(result.status, tone),
        Cell(result.reason, tone) if result.reason else _NONE,
        _duration(result.latency),
        _duration(result.lag),
        *_pool(result.figures),
    ]


def _duration(seconds: float | None) -> Cell:
    return _NONE if seconds is None else Cell(duration(seconds))


def _pool(figures: Figures | None) -> list[Cell]:
    if figures is None:
        return [_NONE] * 3
    size = f"{figures.size}/{figures.max_size}"
    return [Cell(str(figures.used)), Cell(size), Cell(str(figures.waiters))]


def _look_at_clusters(aliases: list[str]) -> None:
    """Find out which replicas this process would not read, if any are to be probed."""
    if any(role_of(alias) == "replica" for alias in aliases or connections.settings):
        monitor.look()


def _names(aliases: list[str]) -> list[str]:
    for alias in aliases:
        if alias not in connections.settings:
            known = ", ".join(connections.settings) or "none"
            refuse(f"DATABASES has no {alias!r}; there are: {known}")
    if aliases:
        return [f"db:{alias}" for alias in dict.fromkeys(aliases)]
    # How this process is itself says nothing: it is no server, and ends in a moment.
    return health.names()


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if _SHORTEST <= (seconds := float(text)) <= _LONGEST:
            return seconds
    raise ArgumentTypeError(f"must be {_SHORTEST:g} to {_LONGEST:g} seconds, not {text}")
