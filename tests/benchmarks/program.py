"""All benchmarks as one program: runs the parts, sums up, writes JSON, pictures and a page.

Each part is a program of its own, run in a process of its own, in which its contestants take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tests.benchmarks import machine, page, reach
from tests.benchmarks.figures import Table, text
from tests.benchmarks.joined import joined
from tests.benchmarks.parts import BY_NAME, PARTS, Part

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / ".poolkit" / "benchmarks"
PAGE: Final = ROOT / "docs" / "explanation" / "performance.md"
END_WITHIN: Final = 20.0
TELL_EVERY: Final = 30.0
"""Seconds."""
AT_MOST: Final = {"short": 900.0, "long": 14_400.0}
"""Seconds, by form: a part that takes longer hangs, and is ended. What it prints then counts."""
ENDED: Final = 124
"""The status of a part that was, as timeout(1) has it."""

Run = dict[str, Any]

READING: Final = """
how to read the tables:
  Below each measure stands a line for each contestant: the median of the rounds, in brackets the
  lowest and the highest, and its ratio to the contestant that the title names. "none": it failed,
  or gave up. Compare within a measure, and figures of one run. What each part measures, and how
  to read it, its own --help says: python -m tests.benchmarks.NAME --help

what is written:
  run.json and pictures of its tables, into --folder, after each part. With --page also the page of
  documentation, with its pictures beside it. Neither says the name of this machine, nor where
  anything is. At the end stands what was to be reached, and whether it was: that is no promise of
  the program's, and changes no status.

exit code:
  0 if all parts were run and found nothing wrong; 1 if one of them failed, or misses what it
  promises (its --help says what that is); 2 for a command line that makes no sense.

examples:
  python3 -m tests.benchmarks                           all in short form: half an hour
  python3 -m tests.benchmarks --only pool peers         these alone
  python3 -m tests.benchmarks --long --page             for figures that are to be quoted
  python3 -m tests.benchmarks --from run.json --page    the page of an earlier run
  python3 -m tests.benchmarks --from a.json b.json --page    of two, on the same machine
"""


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.benchmarks",
        description=__doc__,
        epilog=READING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--list", action="store_true", help="name the parts, and end")
    parser.add_argument(
        "--only", nargs="+", choices=list(BY_NAME), metavar="NAME", help="run these parts alone"
    )
    parser.add_argument("--long", action="store_true", help="longer rounds, and more of them")
    parser.add_argument(
        "--minutes", type=float, metavar="N", help="end then: what has not been run is left out"
    )
    parser.add_argument("--folder", type=Path, help="to write to (.poolkit/benchmarks)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="for the JSON (in the folder)")
    parser.add_argument(
        "--from", type=Path, nargs="+", metavar="FILE", dest="sources",
        help="run nothing: read this JSON; of several, each part from the first that has it",
    )  # fmt: skip
    parser.add_argument(
        "--page", type=Path, nargs="?", const=PAGE, metavar="FILE",
        help="write the page of documentation (docs/explanation/performance.md)",
    )  # fmt: skip
    return parser


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    reader = parser()
    options = reader.parse_args(arguments)
    if options.sources and (options.only or options.long or options.minutes):
        reader.error("--from runs nothing: leave out --only, --long and --minutes")
    if options.minutes is not None and options.minutes <= 0:
        reader.error("--minutes has to be above 0")
    if options.sources and not all(source.is_file() for source in options.sources):
        reader.error("--from: there is no such file")
    options.folder = options.folder or FOLDER
    return options


def say(line: str) -> None:
    """Tell how far it is."""
    print(line, file=sys.stderr, flush=True)


def run_part(part: Part, *, long: bool, within: float) -> dict[str, Any]:
    """Run a part, and read what it found. Blocks until it has ended, or is ended."""
    arguments = part.arguments(long=long)
    started = time.monotonic()
    command = [sys.executable, "-m", part.module, *arguments, "--json"]
    status, printed = _output(command, part.name, within)
    why = f"it was ended after {within:.0f} s." if status == ENDED else ""
    tables: list[Table] = []
    try:
        found = json.loads(printed)
        read = [reading.table(found) for reading in part.readings]
        tables = [table for table in read if table.figures]
    except (ValueError, LookupError, TypeError) as error:
        why = why or f"it has printed no figures ({type(error).__name__})."
        say(f"{part.name}: {why}")
        status = status or 1
    return {
        "name": part.name,
        "title": part.title,
        "sentence": part.sentence,
        "command": " ".join(["python", "-m", part.module, *arguments]),
        "seconds": round(time.monotonic() - started, 1),
        "status": status,
        "why": why,
        "tables": [table.as_json() for table in tables],
    }


def _output(command: Sequence[str], name: str, within: float) -> tuple[int, str]:
    """Run a command; return its status and what it printed. Ended if we are interrupted."""
    with tempfile.TemporaryFile("w+") as printed:
        # Of its own session: what it starts is ended with it, and by nobody else.
        process = subprocess.Popen(command, cwd=ROOT, stdout=printed, start_new_session=True)
        started = time.monotonic()
        status = None
        try:
            while process.poll() is None:
                left = started + within - time.monotonic()
                try:
                    process.wait(max(0.01, min(TELL_EVERY, left)))
                except subprocess.TimeoutExpired:
                    say(f"  {name}: {time.monotonic() - started:.0f} s")
                    if left <= TELL_EVERY:
                        status = ENDED
                        _end(process)
        except BaseException:
            _end(process)
            raise
        printed.seek(0)
        return process.returncode if status is None else status, printed.read()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a part and what it started: as Ctrl-C does, so that it stops its servers, or else not."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_WITHIN)
            return


def run_all(
    parts: Sequence[Part], *, long: bool, minutes: float | None, keep: Callable[[Run], None]
) -> Run:
    """Run parts one after the other; return all of it, for a file.

    `keep` is given what there is after each part, so that little is lost with what comes after.
    """
    started, load = time.monotonic(), machine.load()
    form = "long" if long else "short"
    found: list[dict[str, Any]] = []
    run: Run = {
        "day": datetime.now(UTC).date().isoformat(),
        "form": form,
        "machine": machine.describe(),
        "seconds": 0.0,
        "load": [load, load],
        "parts": found,
        "left_out": [],
    }
    for index, part in enumerate(parts, start=1):
        gone = time.monotonic() - started
        left = AT_MOST[form] if minutes is None else minutes * 60 - gone
        if left <= 0:
            say(f"without {part.name}: --minutes are over")
            run["left_out"].append(part.name)
            continue
        say(f"[{index}/{len(parts)}] {part.name}, after {gone:.0f} s: {part.sentence}")
        found.append(done := run_part(part, long=long, within=min(left, AT_MOST[form])))
        show(done)
        run["seconds"] = round(time.monotonic() - started, 1)
        run["load"] = [load, machine.load()]
        keep(run)
    return run


def show(part: dict[str, Any]) -> None:
    """Print what a part has found."""
    print(f"\n== {part['title']} ({part['seconds']:.0f} s): {part['command']}", flush=True)
    for values in part["tables"]:
        print(text(Table.from_json(values)), end="\n\n", flush=True)
    if part["status"]:
        print(f"{part['name']} ended with status {part['status']}. {part['why']}", flush=True)


def listed() -> str:
    """Return the parts for people."""
    return "\n".join(f"{part.name:15} {part.sentence}" for part in PARTS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; return 1 where a part has failed, else 0."""
    options = parsed(arguments)
    if options.list:
        print(listed())
        return 0
    if options.sources:
        try:
            run = joined([json.loads(source.read_text()) for source in options.sources])
        except ValueError as error:
            print(f"--from: {error}", file=sys.stderr)
            return 2
    else:
        chosen = [part for part in PARTS if not options.only or part.name in options.only]
        run = run_all(
            chosen, long=options.long, minutes=options.minutes, keep=lambda run: write(run, options)
        )
        print(f"figures: {file_of(options)}, pictures beside it")
    print(reach.shown(reach.verdicts(run)))
    if options.page:
        options.page.parent.mkdir(parents=True, exist_ok=True)
        page.write_page(run, options.page)
        print(
            f"the page: {options.page.name}, its pictures beside it; docs/index.md has to name it"
        )
    failed = [part["name"] for part in run["parts"] if part["status"]]
    if failed:
        print(f"not as promised: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def write(run: Run, options: argparse.Namespace) -> None:
    """Write a run as JSON and in pictures."""
    charts = options.folder / "charts"
    for part in PARTS:  # those of another run would be taken for this one's
        for old in charts.glob(f"{part.name}-[0-9]*.svg"):
            old.unlink()
    page.write_charts(run, charts)
    target = file_of(options)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(run, indent=1) + "\n")


def file_of(options: argparse.Namespace) -> Path:
    """Return where the figures go."""
    target: Path = options.json or options.folder / "run.json"
    return target
