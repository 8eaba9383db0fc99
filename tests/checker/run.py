"""One run: servers, a site, visitors and a nemesis; then what its history comes to."""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django_poolkit.testing.waiting import wait_until
from tests.checker import servers, stage, visitors
from tests.checker.history import History, Recorder
from tests.checker.nemesis import Nemesis
from tests.checker.servers import Servers
from tests.checker.stage import MAX_AGE, MAX_LAG, PIN, Shape
from tests.checker.visitors import Visitor, World

BOUND = 10.0
"""Seconds after a fault of the primary has been undone, in which there may still be errors."""
# A look each 5 seconds at most, which takes 2.4; that a replica is late is seen by one that comes
# after it has been so for long enough, and the machine may be busy.
OLDEST = MAX_LAG + 2 * (5.0 + 2.4) + 5.0
"""Seconds that what a replica shows may be old, while the primary is well."""
# Seconds without faults in the end, in which all must be well again.
_QUIET = 3.0
_PATIENCE = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long, and with whom."""

    seconds: float
    seed: int
    visitors: int = 14
    think: float = 0.35
    calm: float = 2.0
    longest: float = 8.0
    shape: Shape = field(default_factory=Shape)
    tell: Callable[[str], None] = lambda text: None


def shape_of(seed: int) -> Shape:
    """Return how the site of a seed is set up: each of the ways has its turn."""
    choices = ("visitor", "visitor", "round_robin", "latency", "least_used", "random")
    return Shape(aliases=("hosts", "aliases")[seed % 2], choice=choices[seed // 2 % len(choices)])


def run(plan: Plan, path: Path) -> History:
    """Make a run, whose history is written to a file while it happens; return that history."""
    with servers.started() as made:
        return run_on(made, plan, path)


def run_on(made: Servers, plan: Plan, path: Path) -> History:
    """Make a run on servers that are there already."""
    with staged(made, plan.shape, plan.visitors, path, seed=plan.seed) as (world, present):
        nemesis = Nemesis(made, world.recorder, plan.seed, tell=plan.tell)
        haunting = threading.Thread(target=nemesis.haunt, args=(plan.calm, plan.longest))
        with at_the_site(present, plan):
            haunting.start()
            try:
                _watch(world, nemesis, haunting, plan)
            finally:
                nemesis.ended.set()
                haunting.join()
            if nemesis.failed is not None:
                raise nemesis.failed
            plan.tell("quiet")
            made.heal()
            # From here on nothing excuses anything.
            _pause(world, BOUND + _QUIET)
        conclude(world, made)
    return world.recorder.history


@contextmanager
def staged(
    made: Servers,
    shape: Shape,
    count: int,
    path: Path,
    *,
    seed: int = 0,
    oldest: float = OLDEST,
    prepared: bool = False,
) -> Iterator[tuple[World, list[Visitor]]]:
    """Serve the site, and have visitors at its door; close the history in the end."""
    recorder = Recorder(path)
    recorder.facts(
        seed=seed,
        max_age=MAX_AGE,
        pin=PIN,
        bound=BOUND,
        oldest=oldest,
        shape=shape.aliases,
        choice=shape.choice,
        planted=shape.planted,
        date=time.strftime("%Y-%m-%d"),
        **versions(),
    )
    kinds = visitors.crowd(None, count)  # type: ignore[arg-type]  # only for their names
    names = sorted({each.who for each in kinds if each.kind in ("member", "device")})
    names = [] if prepared else names
    try:
        with stage.staged(made, shape, names) as site:
            world = World(site, made, recorder)
            present = visitors.crowd(world, count)
            _make_counters(made, {each.who for each in present} | {"shared"})
            for each in present:
                each.enter()
            for node in made.replicas:
                made.primary.wait_caught_up(node)
            yield world, present
    finally:
        recorder.close()


@contextmanager
def at_the_site(present: list[Visitor], plan: Plan) -> Iterator[None]:
    """Have visitors use the site for the length of a block."""
    ended = threading.Event()
    failed: list[BaseException] = []

    def stay(visitor: Visitor, seed: str) -> None:
        try:
            visitor.stay(seed, plan.think * visitor.tabs, ended)
        except BaseException as error:
            failed.append(error)
            raise

    threads = [
        threading.Thread(target=stay, args=(each, f"{plan.seed} {each.name} {tab}"), daemon=True)
        for each in present
        for tab in range(each.tabs)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join(2 * visitors.PATIENCE)
    if failed:
        raise failed[0]


def conclude(world: World, made: Servers) -> None:
    """Wait for the jobs that were enqueued, and enter what there is in the end."""
    wait_until(
        lambda: world.collect() == 0, _PATIENCE, "jobs are left that nobody has run", interval=0.1
    )
    world.stage.check()
    world.recorder.final(_final(made))


def versions() -> dict[str, str]:
    """Return what a run is of."""
    import django
    import psycopg

    import django_poolkit

    return {
        "poolkit": django_poolkit.__version__,
        "django": django.get_version(),
        "python": platform.python_version(),
        "psycopg": psycopg.__version__,
    }


def _watch(world: World, nemesis: Nemesis, haunting: threading.Thread, plan: Plan) -> None:
    """Wait for the end of the time, and look after those who are at work meanwhile."""
    until = time.monotonic() + plan.seconds
    said = time.monotonic()
    while (now := time.monotonic()) < until:
        haunting.join(min(1.0, until - now))
        world.collect()
        world.stage.check()
        if nemesis.failed is not None:
            return
        if now - said >= 15.0:
            said = now
            known = world.recorder.history
            failed = sum(op.outcome != "ok" for op in list(known.ops))
            plan.tell(f"{until - now:.0f} s to go, {len(known.ops):,} operations, {failed} failed")


def _pause(world: World, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.5)
        world.collect()
        world.stage.check()


def _make_counters(made: Servers, names: set[str]) -> None:
    with made.primary.connect(dbname=servers.DATABASE) as connection:
        for name in sorted(names):
            connection.execute(
                "INSERT INTO site_counter (target, value) VALUES (%s, 0)"
                " ON CONFLICT (target) DO UPDATE SET value = 0",
                (f"counter {name}",),
            )
        connection.execute("TRUNCATE site_entry")


def _final(made: Servers) -> dict[str, Any]:
    with made.primary.connect(dbname=servers.DATABASE) as connection:
        counters = connection.execute("SELECT target, value FROM site_counter").fetchall()
        lists = connection.execute(
            "SELECT target, array_agg(element) FROM site_entry GROUP BY target"
        ).fetchall()
    return {**dict(counters), **dict(lists)}
