"""`manage.py poolstatus`: the pools of all live processes, from another shell."""

from __future__ import annotations

import json
import math
import sys
from argparse import ArgumentParser, ArgumentTypeError
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

from django_poolkit.control import render, watch
from django_poolkit.control.collect import Report, collect
from django_poolkit.control.tables import printable
from django_poolkit.management.teaching import TeachingCommand, refuse, verify_pooled, while_read

_INTERVAL = 2.0  # seconds between two looks, where none are given
_SHORTEST = 0.1


class Command(TeachingCommand):
    """Show the pools of every live process of this project."""

    help = (
        "Show the pools of every live process of this project on this host: web workers, task\n"
        "workers, commands. Asks each over its socket, and the database servers what they count\n"
        "themselves. Opens no pool, changes nothing, and works while a database is down."
    )
    epilog = (
        "examples:\n"
        "  manage.py poolstatus                          all pools, and whether all is well\n"
        "  manage.py poolstatus --watch                  the same, live, until Ctrl-C\n"
        "  manage.py poolstatus --leases                 who holds what, and since when\n"
        "  manage.py poolstatus --pins                   would transaction mode be safe here?\n"
        "  manage.py poolstatus --database default --format json | jq .totals\n"
        "  manage.py poolstatus --watch 60 >> pools.log  one line a minute\n\n"
        "exit codes, the highest that applies:\n"
        "  0  all is well\n"
        "  1  saturated or degraded: somebody waits for a connection, a pool is paused or\n"
        "     fails to connect, a process is draining or does not answer, a replica is not\n"
        "     read, or a primary not taken for one\n"
        "  2  a database cannot be reached (or the command line makes no sense)\n"
        "  3  no live process: it says where it looked, and what the usual causes are\n"
        "  130 after Ctrl-C"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--database",
            action="append",
            default=[],
            metavar="ALIAS",
            help="only the pools of this alias; may be given again for more",
        )
        parser.add_argument(
            "--format",
            choices=("table", "json", "prometheus"),
            default="table",
            help="json: everything, one document; prometheus: the metrics, summed over processes",
        )
        parser.add_argument(
            "--watch",
            nargs="?",
            const=_INTERVAL,
            type=_seconds,
            metavar="SECONDS",
            help=f"look again and again (default: each {_INTERVAL:g} s); where the output is no "
            "terminal, one line each time",
        )
        parser.add_argument(
            "--leases", action="store_true", help="also who holds which connection, since when"
        )
        parser.add_argument(
            "--pins",
            action="store_true",
            help="also what pins or would pin, by line, and whether transaction mode is safe",
        )
        parser.add_argument(
            "--local",
            action="store_true",
            help="only the pools of this very process, for call_command() inside a server",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Show what there is, once or until Ctrl-C; end with the exit code."""
        _verify(options)
        try:
            with while_read():
                if options["watch"] is not None:
                    self._watch(options)
                code = self._once(options)
        except KeyboardInterrupt:
            sys.exit(130)
        if code:
            sys.exit(code)

    def _once(self, options: dict[str, Any]) -> int:
        report = _collect(options)
        if options["format"] == "table":
            self.print(self.drawn(render.tables(report), options))
        else:
            self.print(_document(report, options["format"]))
            for problem in report.problems:
                for line in problem.lines():
                    self.stderr.write(printable(line))
        return report.exit_code

    def _watch(self, options: dict[str, Any]) -> NoReturn:
        if options["format"] == "table" and self.on_terminal():
            with watch.screen(partial(self.print, ending="")) as show:
                watch.every(options["watch"], lambda: show(self._screen(options)))
        as_line = render.line if options["format"] == "table" else _json
        watch.every(options["watch"], lambda: self.print(as_line(_collect(options))))

    def _screen(self, options: dict[str, Any]) -> str:
        *others, conclusion = render.tables(_collect(options))
        # At the top: a screen is cut off below.
        return self.drawn([conclusion, *others], options)


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if _SHORTEST <= (seconds := float(text)) < math.inf:
            return seconds
    raise ArgumentTypeError(f"must be {_SHORTEST:g} seconds or more, not {text}")


def _verify(options: dict[str, Any]) -> None:
    """Refuse what makes no sense."""
    verify_pooled(options["database"])
    if options["format"] == "prometheus":
        for name in ("watch", "leases", "pins"):
            if options[name]:
                refuse(f"--{name} does not go with --format prometheus")


def _collect(options: dict[str, Any]) -> Report:
    return collect(
        options["database"],
        local=options["local"],
        leases=options["leases"],
        pins=options["pins"],
    )


def _document(report: Report, form: str) -> str:
    if form == "json":
        return _json(report)
    # Only here: the others are spared what metrics are made with.
    from django_poolkit.metrics.text import exposition

    return exposition(report.processes)


def _json(report: Report) -> str:
    return json.dumps(report.as_dict())
