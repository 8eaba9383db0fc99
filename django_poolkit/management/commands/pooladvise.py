"""`manage.py pooladvise`: how large the pools should be, from what they are really used for."""

from __future__ import annotations

import json
import math
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from django_poolkit.conf.moves import Move
from django_poolkit.conf.moving import moves
from django_poolkit.control import advising, migrating
from django_poolkit.control.advice import Advice, advise
from django_poolkit.control.collect import collect
from django_poolkit.control.supposed import AdviceError, Question
from django_poolkit.management.teaching import TeachingCommand, refuse, verify_pooled, while_read
from django_poolkit.pools.sizing import rules

# What says something of processes and loads, and has no default.
_SUPPOSED: Final = (
    "command", "since_start", "local", "requests_per_second", "leases_per_request", "use_seconds",
    "threads", "workers", "max_connections", "cores",
)  # fmt: skip
_NOTHING: Final = 3


def _number(low: float, *, above: bool = False) -> Callable[[str], float]:
    def read(text: str) -> float:
        with suppress(ValueError):
            value = float(text)
            if (low < value if above else low <= value) and value < math.inf:
                return value
        bound = f"above {low:g}" if above else f"{low:g} or more"
        raise ArgumentTypeError(f"must be a number {bound}, not {text}")

    return read


def _whole(low: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        with suppress(ValueError):
            if (value := int(text)) >= low:
                return value
        raise ArgumentTypeError(f"must be a whole number of at least {low}, not {text}")

    return read


class Command(TeachingCommand):
    """Say how large the pools should be."""

    help = (
        "Say how large the pools should be, from what the running processes use them for.\n\n"
        "Asks every live process of this project on this host, over its control socket, how\n"
        "often connections were acquired in each part of the last minute, for how long they\n"
        "were leased, and what was waited; asks the database servers how many connections they\n"
        "have. Then simulates a queue before pools of several sizes, and shows for each what\n"
        "would be waited. Changes nothing. Ask in a busy hour: a quiet one says little."
    )
    epilog = (
        "examples:\n"
        "  manage.py pooladvise                         which size keeps the p99 below 50 ms?\n"
        "  manage.py pooladvise --load 2                and if twice as much came?\n"
        "  manage.py pooladvise --workers 8 --hosts 3   the same on 3 hosts, each with as much\n"
        "                                               to do as this one, spread over 8 workers\n"
        "  manage.py pooladvise --requests-per-second 1000 --use-seconds 0.02 --workers 500\n"
        "                                               before anything runs: does it fit, or is\n"
        "                                               it time for PgBouncer?\n"
        "  manage.py pooladvise --format json | jq '.pools[].advised'\n"
        "  manage.py pooladvise --migrate               the pools that DATABASES has elsewhere,\n"
        "                                               as settings of this one\n\n"
        "exit codes:\n"
        "  0  every pool keeps the target, and the servers have enough for all;\n"
        "     with --migrate: what moves was shown\n"
        "  1  a change is advised: a pool is too small, or its server\n"
        "  2  the command line makes no sense, or says too little\n"
        "  3  nothing to say: no live process, or none that has had 100 leases yet;\n"
        "     with --migrate: no alias to move"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        add = parser.add_argument
        add("--database", action="append", default=[], metavar="ALIAS",
            help="only the pools of this alias; may be given again for more")  # fmt: skip
        add("--command", metavar="COMMAND",
            help="only those of processes that run this, as poolstatus names it")  # fmt: skip
        add("--target-p99", type=_number(0), default=0.05, metavar="SECONDS",
            help="what 99 of 100 acquires are to wait at most (default: 0.05)")  # fmt: skip
        add("--since-start", action="store_true",
            help="what happened since the processes began, not in the last minute")  # fmt: skip
        add("--format", choices=("table", "json"), default="table",
            help="json: everything, one document")  # fmt: skip
        add("--local", action="store_true",
            help="only this very process, for call_command() inside a server")  # fmt: skip
        add("--migrate", action="store_true",
            help="ask nobody: translate the settings of other pools in DATABASES, and show what "
                 "changes, with settings to paste")  # fmt: skip
        self._add_suppositions(parser)

    def _add_suppositions(self, parser: ArgumentParser) -> None:
        add = parser.add_argument_group("what if").add_argument
        add("--load", type=_number(0, above=True), default=1.0, metavar="TIMES",
            help="so many times as much is asked for")  # fmt: skip
        add("--requests-per-second", type=_number(0, above=True), metavar="RATE",
            help="so many requests come, to all processes together")  # fmt: skip
        add("--leases-per-request", type=_number(0, above=True), metavar="NUMBER",
            help="how often each acquires (session mode: 1)")  # fmt: skip
        add("--use-seconds", type=_number(0, above=True), metavar="SECONDS",
            help="for how long each holds a connection on average; exponential times")  # fmt: skip
        add("--threads", type=_whole(1), metavar="NUMBER",
            help="requests that one process serves at once at most: its threads")  # fmt: skip
        add("--workers", type=_whole(1), metavar="NUMBER",
            help="so many processes on each host")  # fmt: skip
        add("--hosts", type=_whole(1), default=1, metavar="NUMBER",
            help="so many hosts, each with as many processes as this one")  # fmt: skip
        add("--max-connections", type=_whole(1), metavar="NUMBER",
            help="so many on the server")  # fmt: skip
        add("--spare", type=_whole(0), default=5, metavar="NUMBER",
            help="left for migrations, monitoring and people (default: 5)")  # fmt: skip
        add("--cores", type=_whole(1), metavar="NUMBER",
            help="also show what published rules make of so many cores")  # fmt: skip
        add("--disks", type=_whole(0), default=1, metavar="NUMBER",
            help="of the database, for those rules (default: 1)")  # fmt: skip

    def handle(self, *args: Any, **options: Any) -> None:
        """Show what is advised; end with the exit code."""
        if options["migrate"]:
            self._migrate(options)
            return
        _verify(options)
        try:
            advice = advise(
                collect(local=options["local"], leases=True),
                _question(options),
                options["database"],
            )
        except AdviceError as error:
            refuse(str(error))
        with while_read():
            self._show(advice, options)
        if advice.exit_code:
            sys.exit(advice.exit_code)

    def _migrate(self, options: dict[str, Any]) -> None:
        _verify_alone(options)
        found = moves()
        if wanted := options["database"]:
            known = {each.alias for each in found}
            for alias in wanted:
                if alias not in known:
                    refuse(f"{alias!r} is no alias of DATABASES; these are: {', '.join(known)}")
            found = [each for each in found if each.alias in wanted]
        with while_read():
            if options["format"] == "json":
                self.print(json.dumps(migrating.document(found)))
            else:
                self.print(self.drawn(migrating.tables(found), options))
                self.print(migrating.settings_text(found))
        if not any(isinstance(each, Move) for each in found):
            sys.exit(_NOTHING)

    def _show(self, advice: Advice, options: dict[str, Any]) -> None:
        published = rules(options["cores"], options["disks"]) if options["cores"] else []
        if options["format"] == "json":
            document = advice.as_dict() | {"rules": [rule._asdict() for rule in published]}
            self.print(json.dumps(document))
            for problem in advice.problems:
                self.stderr.write(problem)
            return
        self.print(self.drawn(advising.tables(advice, published), options))


def _verify_alone(options: dict[str, Any]) -> None:
    """Refuse suppositions: settings are the same whatever is asked for."""
    for key in _SUPPOSED:
        if options[key]:
            refuse(f"--{key.replace('_', '-')} is nothing that --migrate could take into account")


def _verify(options: dict[str, Any]) -> None:
    """Refuse what makes no sense."""
    verify_pooled(options["database"])
    if options["leases_per_request"] is not None and options["requests_per_second"] is None:
        refuse("--leases-per-request needs --requests-per-second")


def _question(options: dict[str, Any]) -> Question:
    return Question(
        target=options["target_p99"],
        times=options["load"],
        since_start=options["since_start"],
        command=options["command"],
        requests_per_second=options["requests_per_second"],
        leases_per_request=options["leases_per_request"],
        use=options["use_seconds"],
        threads=options["threads"],
        workers=options["workers"],
        hosts=options["hosts"],
        max_connections=options["max_connections"],
        spare=options["spare"],
    )
