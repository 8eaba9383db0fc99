"""A pool that is too small, the size that `pooladvise` gives it, and whether that helps as it said.

Visitors ask, wait for the answer, and look at it for a while. In session mode most of their
requests hold a connection while the supplier is asked.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from example_project.bootstrap import ROOT
from example_project.load import Plan, drive, drive_alone
from example_project.measures import Measures
from example_project.options import WORKERS
from example_project.processes import ChildFailed, url_of
from example_project.report import milliseconds
from example_project.runs import CROWD_MIX, UPSTREAM_SECONDS
from example_project.serving import Shape, site
from example_project.verdicts import Verdict

PAUSE: Final = 2.0
"""Seconds for which a visitor looks at a page, on average: who waits hardly comes less often."""
LOAD: Final = 0.85
"""Of what the connections can do: more would be a queue without an end, less hardly one."""
_LEASE: Final = 0.9 * UPSTREAM_SECONDS
"""Seconds for which a request holds a connection, about: four of five ask the supplier."""
_WARM_UP: Final = 8
"""Requests one by one: the first ones import, and compile templates."""
_ASKED_AFTER: Final = 0.8
"""Of a run: while it goes on, as one asks in the busy hour."""
_VARIABLES: Final = {
    "SHOP_BACKEND": "poolkit", "SHOP_POOL_MODE": "session", "SHOP_ROUTING": "off"
}  # fmt: skip


def visitors(connections: int) -> int:
    """Return how many visitors keep so many connections as busy as `LOAD` says."""
    return round(LOAD * connections / _LEASE * (PAUSE + _LEASE))


@dataclass(frozen=True, kw_only=True)
class Waits:
    """What acquires wait, as predicted or as measured."""

    queued: float
    """Share that waits at all: of what is measured, for longer than half a millisecond."""
    p99: float | None
    """Seconds. Of what is measured, the bound of a bucket; None beyond the last."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What `pooladvise` says of the busiest process."""

    size: int
    """The present `max_size`."""
    advised: int | None
    measured: Waits
    predicted: Mapping[int, Waits]
    """By `max_size`."""

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Answer:
        """Read it from what the command writes as JSON.

        Raises:
            ChildFailed: it has nothing to say.
        """
        pools = [pool for pool in document["pools"] if pool["kind"]["waits"] and pool["now"]]
        if not pools:
            why = "; ".join(document["problems"]) or document["status"]
            raise ChildFailed(f"pooladvise has no advice; have --seconds longer? It says: {why}")
        pool = pools[0]
        return cls(
            size=pool["kind"]["max_size"],
            advised=pool["advised"],
            measured=_waits(pool["kind"]["waits"]),
            predicted={each["size"]: _waits(each) for each in pool["predictions"]},
        )


def _waits(found: Mapping[str, Any]) -> Waits:
    return Waits(queued=found["queued"], p99=found["p99"])


@dataclass(frozen=True, kw_only=True)
class Found:
    """One run: what the visitors met, and what is said of the pools meanwhile."""

    answer: Answer
    measures: Measures


def show(
    options: argparse.Namespace,
    listener: socket.socket,
    environment: Mapping[str, str],
    home: Path,
    console: Console,
) -> bool:
    """Have visitors come twice, say what came of it, and return whether it is as predicted."""
    count = visitors(WORKERS * options.pool_size)
    print(
        f"{count} visitors with pauses of {PAUSE:g} s on average, in session mode; most ask for"
        f" what takes the supplier {UPSTREAM_SECONDS:g} s",
        flush=True,
    )
    ground = _Ground(listener, environment, home, options.seconds, count)
    before = ground.run(options.pool_size)
    after = None
    if before.answer.advised is not None:
        after = ground.run(before.answer.advised)
        console.print("", table(before, after))
    print("What is promised:")
    judged = list(verdicts(before, after))
    for verdict in judged:
        print(f"  {'ok  ' if verdict.kept else 'FAIL'}  {verdict.sentence}", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(_as_json(before, after), indent=1) + "\n")
    return all(verdict.kept for verdict in judged)


@dataclass(frozen=True)
class _Ground:
    """What both runs have in common."""

    listener: socket.socket
    environment: Mapping[str, str]
    home: Path
    seconds: float
    visitors: int

    def run(self, size: int) -> Found:
        """Serve the site with pools of this size to the visitors, and ask for advice meanwhile.

        Both runs have fresh processes: so nothing of the first is in the figures of the second.
        """
        print(f"  max_size {size} ...", flush=True)
        variables = {**self.environment, **_VARIABLES}
        # No request waits for a thread: it is the pool that is looked at.
        shape = Shape(pool_size=size, threads=self.visitors)
        plan = Plan(url_of(self.listener), self.seconds, self.visitors, mix=CROWD_MIX, pause=PAUSE)
        with site(self.listener, shape, variables, self.home / f"site-advised-{size}.log"):
            return asyncio.run(_visited(plan, variables))


async def _visited(plan: Plan, variables: Mapping[str, str]) -> Found:
    await drive_alone(plan, Measures(), _WARM_UP)
    measures = Measures()
    # No group: what _ask() raises shall come out as it is. A load that is left over ends with the
    # event loop.
    load = asyncio.create_task(drive(plan, measures))
    await asyncio.sleep(_ASKED_AFTER * plan.seconds)
    answer = await asyncio.to_thread(_ask, variables)
    await load
    return Found(answer=answer, measures=measures)


def _ask(variables: Mapping[str, str]) -> Answer:
    """Run `manage.py pooladvise` beside the running site, as a person would."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "example_project.manage", "pooladvise"),
            *("--database", "default", "--format", "json"),
        ],
        env={**os.environ, **variables},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        return Answer.of(json.loads(done.stdout))
    except ValueError:
        raise ChildFailed(
            f"pooladvise ended with status {done.returncode}\n{done.stderr}"
        ) from None


def table(before: Found, after: Found) -> Table:
    """Return both sizes side by side, each with what was predicted before it was tried."""
    view = Table(title="What acquires wait", title_justify="left", title_style="bold")
    view.add_column("")
    for found in (before, after):
        view.add_column(f"max_size {found.answer.size}", justify="right")
    pairs = [_predicted(before, found) for found in (before, after)]
    measured = [found.answer.measured for found in (before, after)]
    view.add_row("have to queue, predicted", *(f"{each.queued:.1%}" for each in pairs))
    view.add_row("  measured", *(f"{each.queued:.1%}" for each in measured))
    view.add_row("p99, predicted", *(_shown(each.p99) for each in pairs))
    view.add_row("  measured", *(f"up to {_shown(each.p99)}" for each in measured))
    ran = [found.measures for found in (before, after)]
    view.add_row("requests", *(f"{each.requests:,}" for each in ran))
    view.add_row("  half within", *(milliseconds(each.percentile(0.5)) for each in ran))
    view.add_row("  99 of 100 within", *(milliseconds(each.percentile(0.99)) for each in ran))
    view.add_row("  failed", *(f"{each.failures.total():,}" for each in ran))
    return view


def _predicted(before: Found, found: Found) -> Waits:
    """Return what was predicted for a size from what the first run measured."""
    return before.answer.predicted[found.answer.size]


def _shown(seconds: float | None) -> str:
    return "a minute" if seconds is None else milliseconds(seconds)


def verdicts(before: Found, after: Found | None) -> Iterator[Verdict]:
    """Judge by shares and directions, with room for what two short runs have of chance."""
    answer = before.answer
    size, measured, predicted = answer.size, answer.measured, _predicted(before, before)
    yield Verdict(
        f"pooladvise finds max_size {size} too small, and advises {answer.advised}",
        answer.advised is not None and answer.advised > size,
    )
    yield Verdict(
        f"with {size}, {measured.queued:.0%} of the acquires had to queue, within 30 points of the"
        f" {predicted.queued:.0%} that were predicted to",
        measured.queued > 0.1 and abs(measured.queued - predicted.queued) < 0.3,
    )
    if after is None:
        return
    then, better = after.answer.measured, _predicted(before, after)
    yield Verdict(
        f"with {after.answer.size}, {then.queued:.1%} had to: less than half of that, and no more"
        f" than 20 points above the {better.queued:.1%} that were predicted to",
        then.queued < measured.queued / 2 and then.queued < better.queued + 0.2,
    )
    yield Verdict(
        f"99 of 100 waited up to {_shown(then.p99)}, before up to {_shown(measured.p99)}",
        (then.p99 or 60.0) < (measured.p99 or 60.0),
    )
    failed = after.measures.failures.total()
    yield Verdict(
        f"{failed} of {after.measures.requests:,} requests failed then, so none",
        bool(after.measures.requests) and not failed,
    )


def _as_json(before: Found, after: Found | None) -> dict[str, Any]:
    runs: Sequence[tuple[str, Found | None]] = [("before", before), ("after", after)]
    return {
        key: {"answer": asdict(found.answer), "measures": found.measures.as_json()}
        for key, found in runs
        if found is not None
    }
