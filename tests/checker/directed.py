"""Short runs in which one thing surely happens, for defects that chance may miss.

Each is what a run does, in a known order and by one thread: so that what it needs is there when it
is needed, whatever else the machine does.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from django_poolkit.testing.waiting import wait_until
from tests.checker.history import Fault, History
from tests.checker.nemesis import Nemesis
from tests.checker.run import OLDEST, conclude, staged
from tests.checker.servers import Servers
from tests.checker.stage import Shape
from tests.checker.visitors import Visitor, World

COUNT = 6
"""Visitors: one of each kind."""
_SITE = Shape(servers=("wsgi",), workers=1, jobs=False)


@dataclass(slots=True)
class Scene:
    """Where a directed run takes place."""

    servers: Servers
    world: World
    nemesis: Nemesis
    present: list[Visitor]

    def one(self, kind: str) -> Visitor:
        """Return the first visitor of a kind."""
        return next(each for each in self.present if each.kind == kind)

    def catch_up(self) -> None:
        """Wait for the replicas to have all there is."""
        for node in self.servers.replicas:
            self.servers.primary.wait_caught_up(node)

    @contextmanager
    def all_paused(self) -> Iterator[None]:
        """Have no replica get anything new for the length of a block."""
        with self.nemesis.struck("pause replay", "a"), self.nemesis.struck("pause replay", "b"):
            yield
        self.catch_up()


def behind(scene: Scene) -> None:
    """All replicas are late, and those who have written look at it."""
    with scene.all_paused():
        for kind in ("browser", "member", "api", "stranger"):
            visitor = scene.one(kind)
            for _ in range(2):
                visitor.append(f"list {visitor.who} 0", random.Random(1))
                visitor.look(f"list {visitor.who} 0")


def barely_behind(scene: Scene) -> None:
    """All replicas are late by nothing but the one commit that is looked for."""
    visitor = scene.one("browser")
    target = f"counter {visitor.who}"
    for _ in range(4):
        scene.catch_up()
        with scene.all_paused():
            visitor.do("bump", {"bump": target}, random.Random(1))
            visitor.look(target)


def enqueued(scene: Scene) -> None:
    """All replicas are late, and a job looks at what was written where it was enqueued."""
    visitor = scene.one("browser")
    with scene.all_paused():
        for _ in range(3):
            # By this chance the job itself writes nothing: it would read the primary.
            visitor.enqueue(f"list {visitor.who} 0", random.Random(2))
        wait_until(lambda: scene.world.collect() == 0, 30.0, "the jobs are not run")


def one_behind(scene: Scene) -> None:
    """One replica is late, and one who has written nothing looks at what others write."""
    # Whoever has logged in has something to see already, and perhaps knows of one replica alone
    # that it is there.
    writer, reader = scene.one("browser"), scene.one("api")
    with scene.nemesis.struck("pause replay", "b"):
        writer.append("list shared0 0", random.Random(1))
        scene.servers.primary.wait_caught_up(scene.servers.nodes["a"])
        for _ in range(16):
            reader.look("list shared0 0")


def by_turns(scene: Scene) -> None:
    """One replica is late; one who keeps no cookie of ours reads another one each time."""
    writer, reader = scene.one("browser"), scene.one("device")
    scene.catch_up()
    with scene.nemesis.struck("pause replay", "b"):
        writer.append("list shared0 0", random.Random(1))
        scene.servers.primary.wait_caught_up(scene.servers.nodes["a"])
        for _ in range(8):
            reader.look("list shared0 0")


def late(scene: Scene) -> None:
    """One replica is so late that it must not be read any more."""
    writer, reader = scene.one("browser"), scene.one("stranger")
    until = time.monotonic() + 7.0
    with scene.nemesis.struck("pause replay", "b"):
        reader.look("list shared0 0")
        while time.monotonic() < until:
            writer.append("list shared0 0", random.Random(1))
            time.sleep(0.3)
        for _ in range(8):
            reader.look("list shared0 0")


def undisturbed(scene: Scene) -> None:
    """Nothing happens to anybody, who writes in transactions."""
    writer = scene.one("browser")
    for _ in range(12):
        writer.append("list shared0 0", random.Random(1))


def broken(scene: Scene) -> None:
    """Connections to a replica are cut under the reads of one who is sent there each time."""
    reader, servers = scene.one("api"), scene.servers
    name = reader.look("list shared0 0").reads[0].node
    slot = next(slot for slot in "ab" if servers.nodes[slot].name == name)
    with scene.nemesis.struck("slow network", slot):
        servers.gates[slot].latency = 0.3
        looking = threading.Thread(target=reader.look, args=("list shared0 0",))
        looking.start()
        while looking.is_alive():
            servers.nodes[slot].kill_backends()


def usurped(scene: Scene) -> None:
    """A replica takes over that had less than another one, which goes on to show what is lost."""
    servers, visitor = scene.servers, scene.one("browser")
    rival = servers.nodes["b"]
    visitor.append(f"list {visitor.who} 0", random.Random(1))
    scene.catch_up()
    visitor.look(f"list {visitor.who} 0")

    def more() -> None:
        servers.primary.execute("CREATE TABLE more AS SELECT generate_series(1, 20000)")
        servers.primary.wait_caught_up(rival)

    old, began = servers.primary, time.monotonic()
    promotion = servers.take_over("a", lossy=True, meanwhile=more)
    scene.world.recorder.promotion(promotion)
    scene.world.recorder.fault(
        Fault("promote, lossy", old.name, "primary", began, time.monotonic())
    )
    for _ in range(4):
        visitor.append(f"list {visitor.who} 0", random.Random(1))
        visitor.look(f"list {visitor.who} 0")
    servers.rejoin("a", lossy=True)


@dataclass(frozen=True, slots=True)
class Direction:
    """What happens, at what kind of site, and what must be noticed of a defect."""

    happens: Callable[[Scene], None]
    promise: str
    shape: Shape = _SITE
    oldest: float = OLDEST


BY_DEFECT: dict[str, Direction] = {
    "token_dropped": Direction(behind, "own writes"),
    "floor_too_low": Direction(barely_behind, "own writes"),
    "job_token_dropped": Direction(enqueued, "jobs", Shape(servers=("wsgi",), workers=1)),
    "cache_of_writes_alone": Direction(
        by_turns,
        "monotonic reads",
        Shape(servers=("wsgi",), workers=1, jobs=False, choice="round_robin"),
    ),
    "host_forgotten": Direction(one_behind, "monotonic reads"),
    "never_evicted": Direction(
        late,
        "no replica too old",
        Shape(servers=("wsgi",), workers=1, jobs=False, looks=(0.3, 0.5), max_lag=1.0),
        oldest=4.0,
    ),
    "write_lost": Direction(undisturbed, "no write lost"),
    "read_not_repeated": Direction(broken, "errors"),
    "by_number": Direction(
        usurped,
        "own writes",
        Shape(servers=("wsgi",), workers=1, jobs=False, looks=(60.0, 60.0)),
    ),
}
"""For each defect, by its name, the run in which it must be noticed."""


def play(
    servers: Servers, direction: Direction, path: Path, *, planted: str, prepared: bool
) -> History:
    """Make a directed run; return its history."""
    shape = replace(direction.shape, planted=planted)
    with staged(servers, shape, COUNT, path, oldest=direction.oldest, prepared=prepared) as (
        world,
        present,
    ):
        scene = Scene(servers, world, Nemesis(servers, world.recorder, 0), present)
        direction.happens(scene)
        conclude(world, servers)
    return world.recorder.history
