"""The recorder by itself: what it counts, what it forgets, and that it needs little room."""

from __future__ import annotations

import gc
import json
import sys
import threading
import weakref
from collections import Counter
from types import FrameType

import pytest

from django_poolkit.pools import observe
from django_poolkit.pools.lease import Lease
from django_poolkit.pools.observe import Observation, Observations, Recorder, line_of
from django_poolkit.pools.session_state import Residue

pytestmark = pytest.mark.core


class Home:
    name = "home"
    statements = None
    greeting: object = None

    def __init__(self):
        self.pins: Counter[str] = Counter()

    def count_pin(self, reason):
        self.pins[reason] += 1


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(observe, "monotonic", clock)
    return clock


class Scene:
    """A recorder whose sites, and whose leases' needs, the test decides."""

    def __init__(self, clock):
        self.clock = clock
        self.recorder = Recorder()
        self.recorder.site = lambda frame: self.site
        self.site = "start:1"
        self.idle = True
        self.changed = False
        self.home = Home()

    def lease(self):
        lease = Lease(self.home, 1, ())  # type: ignore[arg-type]
        lease.since = self.clock.now
        watch = self.recorder.watch(
            lease, frame(), idle=lambda lease: self.idle, changed=lambda: self.changed
        )
        return lease, watch

    def passes(self, seconds):
        self.clock.now += seconds

    def rows(self):
        return [(row.site, row.reason, row.count, row.seconds) for row in self.recorder.snapshot()]


@pytest.fixture
def scene(clock):
    return Scene(clock)


def frame() -> FrameType:
    return sys._getframe(0)


def run(scene, lease, watch, site, residue=None, seconds=1.0):
    """Run a statement that takes some seconds, from a line of code."""
    scene.site = site
    watch.resumed()  # by the cursor
    watch.statement(lease, residue, frame())
    scene.passes(seconds)
    watch.on_idle(lease)


def test_gaps_belong_to_the_line_before_them(scene):
    lease, watch = scene.lease()
    scene.passes(2.0)
    run(scene, lease, watch, "view:1")
    scene.passes(5.0)
    run(scene, lease, watch, "view:2")
    scene.passes(3.0)
    run(scene, lease, watch, "view:1")
    scene.passes(4.0)
    scene.recorder.end(lease)
    assert scene.rows() == [
        ("view:1", "idle", 2, 9.0),
        ("view:2", "idle", 1, 3.0),
        ("start:1", "idle", 1, 2.0),
    ]
    found = scene.recorder.snapshot()
    assert (found.held, found.idle) == (17.0, 14.0)
    assert found.share == pytest.approx(14 / 17)


def test_what_is_needed_is_no_gap(scene):
    scene.idle = False
    lease, watch = scene.lease()
    run(scene, lease, watch, "view:1")
    scene.passes(5.0)
    scene.recorder.end(lease)
    assert scene.rows() == []
    found = scene.recorder.snapshot()
    assert (found.held, found.idle, found.share) == (6.0, 0.0, 0.0)


def test_what_is_too_short_to_give_back_is_no_gap(scene):
    lease, watch = scene.lease()
    scene.passes(0.00005)
    run(scene, lease, watch, "view:1")
    scene.recorder.end(lease)
    assert scene.rows() == []
    assert scene.recorder.snapshot().held == pytest.approx(1.00005)


def test_a_gap_begins_once(scene):
    lease, watch = scene.lease()
    scene.passes(2.0)
    watch.on_idle(lease)
    scene.passes(2.0)
    watch.resumed()
    scene.passes(2.0)
    watch.resumed()
    assert scene.rows() == [("start:1", "idle", 1, 4.0)]


def test_a_pin_is_paid_for_by_the_line_that_made_it_first(scene):
    lease, watch = scene.lease()
    run(scene, lease, watch, "view:1")
    scene.passes(1.0)
    run(scene, lease, watch, "middleware:7", Residue.SET)
    scene.passes(10.0)
    run(scene, lease, watch, "view:2")
    scene.passes(20.0)
    run(scene, lease, watch, "view:3", "listen")
    scene.passes(30.0)
    scene.recorder.end(lease)
    assert scene.rows() == [
        ("middleware:7", "set", 1, 60.0),
        ("view:1", "idle", 1, 1.0),
        ("view:3", "listen", 1, 0.0),
    ]
    assert repr(scene.rows()[0][1]) == "'set'"  # a word, and no member of an enumeration
    assert scene.recorder.snapshot().idle == 1.0
    assert scene.home.pins == {"set": 1}
    assert lease.dirty is None  # it is only looked at


def test_each_lease_is_pinned_by_itself(scene):
    for _ in range(3):
        lease, watch = scene.lease()
        run(scene, lease, watch, "view:1", "set")
        scene.passes(1.0)
        scene.recorder.end(lease)
    assert ("view:1", "set", 3, 3.0) in scene.rows()
    assert scene.home.pins == {"set": 3}


def test_a_reported_change_is_a_pin_of_the_statement_before(scene):
    lease, watch = scene.lease()
    scene.changed = True
    run(scene, lease, watch, "view:1")
    scene.passes(5.0)
    run(scene, lease, watch, "view:2")
    scene.recorder.end(lease)
    assert scene.rows()[0] == ("view:1", "parameter", 1, 5.0)
    assert scene.home.pins == {"parameter": 1}


def test_foreign_access_is_a_pin(scene):
    lease, watch = scene.lease()
    scene.site = "report:3"
    watch.touched(lease, frame())
    watch.on_idle(lease)
    scene.passes(5.0)
    scene.recorder.end(lease)
    assert scene.rows()[0] == ("report:3", "raw", 1, 5.0)


def test_what_was_marked_by_hand_saves_nothing(scene):
    lease, watch = scene.lease()
    run(scene, lease, watch, "view:1")
    lease.mark_dirty("mine")
    run(scene, lease, watch, "view:2")
    scene.passes(5.0)
    scene.recorder.end(lease)
    assert scene.rows()[0] == ("view:2", "mine", 0, 5.0)
    assert scene.recorder.snapshot().idle == 0.0


def test_a_live_lease_counts_as_far_as_its_last_gap(scene):
    lease, watch = scene.lease()
    run(scene, lease, watch, "view:1")
    scene.passes(5.0)
    assert scene.recorder.snapshot().held == 0.0
    run(scene, lease, watch, "view:1")
    assert scene.recorder.snapshot().held == 6.0
    assert scene.recorder.snapshot().idle == 5.0
    assert lease.keeper is watch


def test_the_end_of_an_unknown_lease_is_nothing(scene):
    scene.recorder.end(Lease(scene.home, 1, ()))
    assert scene.recorder.snapshot() == Observations(rows=(), held=0.0, idle=0.0)


def test_the_table_is_bounded(scene, monkeypatch):
    monkeypatch.setattr(observe, "MOST_ROWS", 3)
    for line in range(10):
        scene.recorder.add(f"view:{line}", "set", 1, 1.0, 0.0)
    scene.recorder.add("view:9", "idle", 1, 1.0, 0.0)
    scene.recorder.add("view:1", "set", 1, 1.0, 0.0)
    assert scene.rows() == [
        ("other", "set", 7, 7.0),
        ("view:1", "set", 2, 2.0),
        ("other", "idle", 1, 1.0),
        ("view:0", "set", 1, 1.0),
        ("view:2", "set", 1, 1.0),
    ]


def test_nothing_piles_up_while_nobody_looks(scene):
    for _ in range(5000):
        scene.recorder.add("view:1", "set", 1, 0.0, 0.0)
        assert len(scene.recorder._inbox) <= observe._MOST_WAITING
    assert scene.rows() == [("view:1", "set", 5000, 0.0)]


def test_a_finalizer_inside_the_table_does_not_wait(scene):
    # As one that the garbage collector runs in the thread that holds the lock.
    with scene.recorder._lock:
        for _ in range(1000):
            scene.recorder.add("view:1", "set", 1, 0.0, 0.0)
    assert scene.rows() == [("view:1", "set", 1000, 0.0)]


def test_threads_lose_no_count(scene):
    start = threading.Barrier(5)

    def work():
        start.wait()
        for n in range(3000):
            scene.recorder.add(f"view:{n % 7}", "set", 1, 1.0, 1.0)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    start.wait()
    while any(thread.is_alive() for thread in threads):
        scene.recorder.snapshot()
    for thread in threads:
        thread.join()
    found = scene.recorder.snapshot()
    assert sum(row.count for row in found) == 12000
    assert found.held == sum(row.seconds for row in found) == 12000.0


def test_a_child_starts_anew_whatever_its_parent_was_doing(scene):
    scene.recorder.add("view:1", "set", 1, 1.0, 1.0)
    scene.recorder.snapshot()
    scene.recorder.add("view:1", "set", 1, 1.0, 1.0)
    scene.recorder._lock.acquire()  # by a thread that the child has not got
    scene.recorder.forget()
    assert scene.recorder.snapshot() == Observations(rows=(), held=0.0, idle=0.0)


def test_a_watch_keeps_no_lease_alive(scene):
    lease, watch = scene.lease()
    gone = weakref.ref(lease)
    lease._connection = None
    del lease
    gc.collect()
    assert gone() is None
    assert not scene.recorder._watches
    assert watch is not None


def test_observations_are_a_sequence_and_plain_values():
    row = Observation(site="view:1", reason="set", count=2, seconds=1.5)
    found = Observations(rows=(row,), held=6.0, idle=1.5)
    assert (list(found), len(found), found[0]) == ([row], 1, row)
    assert json.loads(json.dumps(found.as_dict())) == {
        "rows": [{"site": "view:1", "reason": "set", "count": 2, "seconds": 1.5}],
        "held": 6.0,
        "idle": 1.5,
        "share": 0.25,
    }


def test_a_line_is_named_by_module_and_number():
    here = sys._getframe(0)
    assert line_of(here) == f"{__name__}:{here.f_lineno}"
