"""`manage.py poolctl`: steer the pools of all live processes, from another shell."""

from __future__ import annotations

import json
import math
from argparse import ArgumentParser, ArgumentTypeError
from contextlib import suppress
from typing import Any, Final

from django.core.management.base import CommandError

from django_poolkit.conf.control import ControlConfig, control_config
from django_poolkit.control import steer
from django_poolkit.control.client import explain_none
from django_poolkit.control.directory import DirectoryRefused
from django_poolkit.control.orders import LONGEST
from django_poolkit.control.outcome import REFUSED, Outcome
from django_poolkit.control.steer import LeaseId, Target
from django_poolkit.control.tables import draw, printable
from django_poolkit.management.teaching import TeachingCommand, refuse, verify_pooled

# By command, the options that it takes.
_TAKES: Final = {
    "pause": {"database", "pid", "all", "for", "wait"},
    "resume": {"database", "pid", "all"},
    "recycle": {"database", "pid", "all", "wait"},
    "resize": {"database", "pid", "all", "min_size", "max_size", "wait"},
    "drain": {"pid", "all"},
    "undrain": {"pid", "all"},
    "kill-lease": {"lease", "wait"},
}
_OPTIONS: Final = ("database", "pid", "all", "for", "wait", "min_size", "max_size", "lease")
_PAUSE: Final = 60.0
_WAIT: Final = {"pause": 30.0, "kill-lease": 10.0}


class Command(TeachingCommand):
    """Pause, resume, recycle, resize or drain the pools of the running server; kill a lease."""

    help = (
        "Steer the pools of every live process of this project on this host, and say what was\n"
        "done in each. Needs POOLKIT['CONTROL']['STEERING'] in the settings of those processes.\n\n"
        "commands:\n"
        "  pause       give out nothing, let leases end, close all connections, and return when\n"
        "              nothing is leased any more: then PostgreSQL can be restarted, and who\n"
        "              asks meanwhile waits, up to the timeout of its pool. Also holds for\n"
        "              processes that start meanwhile. Ends by itself\n"
        "  resume      end a pause\n"
        "  recycle     replace every connection: idle ones now, leased ones as they come home\n"
        "  resize      change min_size, max_size or both, until the process ends\n"
        "  drain       have a load balancer send no more requests: readiness fails, pools go on\n"
        "  undrain     take that back\n"
        "  kill-lease  cancel what a lease runs and take its connection away from the owner"
    )

    epilog = (
        "examples:\n"
        "  manage.py poolctl pause --database default && systemctl restart postgresql;\n"
        "  manage.py poolctl resume --database default        a restart that no request sees\n"
        "  manage.py poolctl pause --all --for 300 --wait 60\n"
        "  manage.py poolctl recycle --database default       after a change of the password\n"
        "  manage.py poolctl resize --database default --max-size 20\n"
        "  manage.py poolctl drain --pid 4711\n"
        "  manage.py poolstatus --leases                      shows who holds what\n"
        "  manage.py poolctl kill-lease 4711/default/17\n\n"
        "exit codes:\n"
        "  0  done, in every process\n"
        "  1  not in every process, or not yet: it says where, and which leases it waits for\n"
        "  2  refused, or the command line makes no sense\n"
        "  3  no live process: it says where it looked, and what the usual causes are"
    )

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        """Return a parser that takes a lease behind an option, too."""
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        # CPython before 3.12.7 does not by itself (gh-59317).
        parser.parse_args = parser.parse_intermixed_args
        return parser

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument("command", choices=tuple(_TAKES), help="see above")
        # Without a default argparse would name it among what is missing.
        parser.add_argument(
            "lease", nargs="*", default=[], type=_lease, help="of kill-lease: <pid>/<pool>/<n>"
        )
        parser.add_argument(
            "--database",
            action="append",
            metavar="ALIAS",
            help="the pools of this alias; may be given again for more",
        )
        parser.add_argument(
            "--pid", action="append", type=int, help="this process only; may be given again"
        )
        parser.add_argument("--all", action="store_true", help="all pools of all processes")
        parser.add_argument(
            "--for",
            type=_seconds,
            metavar="SECONDS",
            help=f"how long a pause lasts if nobody ends it (default: {_PAUSE:g}, at most "
            f"{LONGEST:g})",
        )
        parser.add_argument(
            "--wait",
            type=_seconds,
            metavar="SECONDS",
            help=f"how long to wait until it is done (default: pause {_WAIT['pause']:g}, "
            f"kill-lease {_WAIT['kill-lease']:g}, others 0)",
        )
        parser.add_argument("--min-size", type=int, metavar="N", help="of resize")
        parser.add_argument("--max-size", type=int, metavar="N", help="of resize")
        parser.add_argument(
            "--format", choices=("table", "json"), default="table", help="json: one document"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Carry out one command, and say what became of it; end with the exit code."""
        _verify(options)
        config = control_config()
        try:
            outcome = _carry_out(config, options)
        except (DirectoryRefused, OSError) as error:
            text = f"no standing order could be left, so nothing was done: {error}"
            raise CommandError(text, returncode=REFUSED) from error
        if options["format"] == "json":
            self.stdout.write(json.dumps(outcome.as_dict()))
        elif outcome.answers:
            self.stdout.write(draw(outcome.tables(), color=False), ending="")
        if not outcome.answers and not outcome.missing:
            raise CommandError(explain_none(config), returncode=outcome.code)
        if problem := outcome.problem():
            raise CommandError(printable(problem), returncode=outcome.code)


def _lease(text: str) -> LeaseId:
    try:
        return LeaseId.parse(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (seconds := float(text)) < math.inf:
            return seconds
    raise ArgumentTypeError(f"must be seconds, 0 or more, not {text}")


def _verify(options: dict[str, Any]) -> None:
    """Refuse what makes no sense."""
    command = options["command"]
    takes = _TAKES[command]
    named = {name for name in _OPTIONS if _is_named(options[name])}
    if odd := sorted(named - takes):
        flags = ", ".join("a lease" if name == "lease" else _flag(name) for name in odd)
        refuse(f"{command} does not take {flags}")
    if command == "kill-lease":
        if not options["lease"]:
            refuse("which lease? `poolstatus --leases` shows their names: <pid>/<pool>/<number>")
    elif not named & {"database", "pid", "all"}:
        what = " or ".join(_flag(name) for name in ("database", "pid", "all") if name in takes)
        refuse(f"{command} what? Name it by {what}")
    elif options["all"] and named & {"database", "pid"}:
        refuse("--all goes without --database and --pid")
    if command == "resize" and not named & {"min_size", "max_size"}:
        refuse("resize to what? Name --max-size, --min-size, or both")
    if options["for"] is not None and not 0 < options["for"] <= LONGEST:
        refuse(f"--for must be above 0 and at most {LONGEST:g} seconds")
    verify_pooled(options["database"] or ())


def _is_named(value: object) -> bool:
    # By identity: a size of 0 is one, though 0 == False.
    return value is not None and value is not False and value != []


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _carry_out(config: ControlConfig, options: dict[str, Any]) -> Outcome:
    command: str = options["command"]
    wait = options["wait"] if options["wait"] is not None else _WAIT.get(command, 0.0)
    target = Target(
        databases=tuple(options["database"]) if options["database"] else None,
        pids=frozenset(options["pid"]) if options["pid"] else None,
    )
    match command:
        case "pause":
            return steer.pause(config, target, seconds=options["for"] or _PAUSE, wait=wait)
        case "recycle":
            return steer.recycle(config, target, wait=wait)
        case "resize":
            wanted = {name: options[name] for name in ("min_size", "max_size")}
            sizes = {name: size for name, size in wanted.items() if size is not None}
            return steer.resize(config, target, wait=wait, sizes=sizes)
        case "kill-lease":
            return steer.kill(config, options["lease"], wait=wait)
        case "resume":
            return steer.resume(config, target)
        case "drain":
            return steer.drain(config, target)
        case _:
            return steer.undrain(config, target)
