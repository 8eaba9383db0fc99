"""`python -m tests.checker`: visitors, faults, and whether what is promised was kept."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.checker import report
from tests.checker.history import History, load
from tests.checker.verify import all_violations

KEPT, BROKEN, UNABLE, INCONCLUSIVE = 0, 1, 2, 3

READING = """
what it does:
  A small site is served by gunicorn and by uvicorn, with a worker of jobs, on a primary and two
  replicas behind proxies. Visitors of all kinds write and read lists and counters: with cookies,
  with several tabs, logged in, logged in on a device that keeps no cookie of ours, by Authorization
  and a header, and with nothing at all. Meanwhile replay is paused, streaming cut, servers frozen,
  killed and started again, networks cut and slowed, connections terminated, replicas promoted with
  and without loss. Everything is entered in a history, which is looked at in the end.

what is promised, and looked for in the history:
  own writes          who has written reads it, on each page that is asked for after the answer
  monotonic reads     who is known by session or Authorization never goes back
  jobs                a job sees what was written where it was enqueued
  no write lost       what was acknowledged is there in the end, but what a promotion lost with its
                      primary's last moments
  no replica too old  nobody reads what is older than max_lag and the time to see that it is
  errors              none without the primary's being away, nor later than 10 s after that; and
                      while it is away, none for what needs no primary
  nothing made up     nothing is read that was not written, or whose write was refused

exit codes:
  0  all of it was kept
  1  something was not: the history is kept, and its path is told
  2  the run could not be made, or the history not be read
  3  all was kept, but the faults bit nobody: not even a stranger has read before its own write

examples:
  python -m tests.checker
  python -m tests.checker --minutes 20 --seed 7
  python -m tests.checker --replay /tmp/checker-7.jsonl
  python -m tests.checker --seconds 20 --planted token_dropped
"""


def parse(arguments: list[str] | None) -> Any:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.checker",
        description=__doc__,
        epilog=READING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, help="for how long there are faults")
    parser.add_argument("--seconds", type=float, help="the same in seconds (default: 30)")
    parser.add_argument("--seed", type=int, help="of faults and visitors (default: a random one)")
    parser.add_argument("--visitors", type=int, default=14, help="(default: 14)")
    parser.add_argument("--think", type=float, default=0.35, help="mean seconds (default: 0.35)")
    parser.add_argument("--calm", type=float, default=2.0, help="s between faults (default: 2)")
    parser.add_argument("--longest", type=float, default=8.0, help="s of a fault (default: 8)")
    parser.add_argument("--planted", default="", metavar="DEFECT", help="put one into the site")
    parser.add_argument("--history", type=Path, help="where it is written (default: temporary)")
    parser.add_argument("--keep", action="store_true", help="keep the history in any case")
    parser.add_argument("--replay", type=Path, metavar="HISTORY", help="only look at one again")
    options = parser.parse_args(arguments)
    if options.minutes is not None and options.seconds is not None:
        parser.error("--minutes and --seconds are the same: give one of them")
    options.seconds = options.seconds or (60.0 * options.minutes if options.minutes else 30.0)
    if min(options.seconds, options.visitors, options.think, options.calm, options.longest) <= 0:
        parser.error("numbers must be above 0")
    if options.seed is None:
        options.seed = random.randrange(10_000)
    return options


def main(arguments: list[str] | None = None) -> int:
    """Make a run or look at one again, print what it comes to, and return the exit code."""
    options = parse(arguments)
    if options.replay is not None:
        try:
            return _judge(load(options.replay), options.replay, keep=True)
        except (OSError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return UNABLE
    path = options.history or Path(tempfile.gettempdir()) / f"checker-{options.seed}.jsonl"
    try:
        history = _made(options, path)
    except Exception as error:
        print(f"error: {type(error).__name__}: {error}\nseed {options.seed}, {path}")
        return UNABLE
    return _judge(history, path, keep=options.keep or options.history is not None)


def _made(options: Any, path: Path) -> History:
    from tests.checker.run import Plan, run, shape_of

    began = time.monotonic()

    def tell(text: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {text}", flush=True)

    print(f"seed {options.seed}: {options.seconds:g} s of faults", flush=True)
    plan = Plan(
        seconds=options.seconds,
        seed=options.seed,
        visitors=options.visitors,
        think=options.think,
        calm=options.calm,
        longest=options.longest,
        shape=replace(shape_of(options.seed), planted=options.planted),
        tell=tell,
    )
    return run(plan, path)


def _judge(history: History, path: Path, *, keep: bool) -> int:
    violations = all_violations(history)
    print()
    print(report.summary(history, violations))
    if violations:
        print(f"\nseed {history.facts['seed']}; the history is kept: {path}")
        return BROKEN
    if not keep:
        path.unlink()
    if not report.is_conclusive(history):
        print("\nnot conclusive: no fault has bitten anybody; give it more time")
        return INCONCLUSIVE
    return KEPT


if __name__ == "__main__":
    sys.exit(main())
