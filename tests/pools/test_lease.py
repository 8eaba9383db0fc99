"""The lease by itself, with a stand-in for its pool."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from django_poolkit.pools.lease import STACK_DEPTH, Lease, capture_stack, format_stack

pytestmark = pytest.mark.core


class Home:
    name = "home"
    statements = None
    greeting: object = None

    def __init__(self):
        self.calls = []

    def adrift(self, lease):
        raise NotImplementedError

    def count_pin(self, reason):
        raise NotImplementedError

    def rest(self, lease):
        raise NotImplementedError

    def rouse(self, lease, depth, skip):
        raise NotImplementedError

    def end_rest(self, lease):
        raise NotImplementedError

    def release(self, lease):
        self.calls.append("release")
        lease.released, lease._connection = True, None

    def discard(self, lease):
        self.calls.append("discard")
        lease.released, lease._connection = True, None

    def lost(self, lease):
        self.calls.append("lost")


@pytest.fixture
def home():
    return Home()


@pytest.fixture
def lend(home):
    def lend():
        lease = Lease(home, 1, ())
        lease._connection = object()
        return lease

    return lend


def test_the_verbs_go_to_the_pool(home, lend):
    lend().release()
    lend().discard()
    assert home.calls == ["release", "discard"]


def test_a_block_releases_at_its_end(home, lend):
    lease = lend()
    with lease as connection:
        assert connection is lease.connection
        assert home.calls == []
    assert home.calls == ["release"]


def test_a_block_that_fails_releases(home, lend):
    with pytest.raises(KeyError), lend():
        raise KeyError
    assert home.calls == ["release"]


def test_a_block_that_released_by_itself_does_so_once(home, lend):
    with (lease := lend()):
        lease.discard()
    assert home.calls == ["discard"]


def test_a_dropped_lease_reports_itself(home, lend):
    lend()
    assert home.calls == ["lost"]


def test_a_dropped_lease_in_a_cycle_reports_itself_when_the_cycle_is_found(home, lend):
    circle = [lend()]
    circle.append(circle)
    del circle
    assert home.calls == []
    gc.collect()
    assert home.calls == ["lost"]


def test_a_released_lease_dies_in_silence(home, lend):
    lend().release()
    assert home.calls == ["release"]


def test_a_lease_that_was_never_served_dies_in_silence(home):
    Lease(home, 1, ())
    assert home.calls == []


def test_half_a_lease_dies_in_silence():
    Lease.__new__(Lease)  # as when an interrupt hits __init__


def test_the_connection_may_be_held_weakly(lend):
    class Connection:
        pass

    connection, lease = Connection(), lend()
    lease._connection = weakref.ref(connection)
    assert lease.connection is connection
    del connection
    assert lease.connection is None


def test_the_first_reason_for_a_reset_stays(lend):
    lease = lend()
    assert lease.dirty is None
    lease.mark_dirty("SET")
    lease.mark_dirty("LISTEN")
    assert lease.dirty == "SET"


def test_a_lease_knows_its_thread(home):
    names = []
    thread = threading.Thread(target=lambda: names.append(Lease(home, 1, ()).thread), name="mine")
    thread.start()
    thread.join()
    assert names == ["mine"]


def test_its_representation_says_how_long(lend):
    lease = lend()
    assert repr(lease).startswith("<Lease of 'home', ")
    lease.release()
    assert repr(lease) == "<Lease of 'home', released>"


def test_a_stack_names_the_callers_innermost_first():
    def inner():
        return capture_stack(skip=0)

    def outer():
        return inner()

    lines = format_stack(outer())
    assert (
        lines[0]
        .split()[1]
        .endswith("test_a_stack_names_the_callers_innermost_first.<locals>.inner")
    )
    assert lines[1].split()[1].endswith(".outer")
    assert lines[0].split()[0].startswith(f"{__file__}:")


def test_a_stack_is_bounded():
    def deep(n):
        return deep(n - 1) if n else capture_stack()

    assert len(deep(200)) == STACK_DEPTH


def test_a_stack_shallower_than_its_skip_is_empty():
    assert capture_stack(skip=10_000) == ()


def test_a_stack_keeps_no_caller_alive():
    class Thing:
        pass

    def caller():
        thing = Thing()
        return weakref.ref(thing), capture_stack()

    reference, stack = caller()
    assert stack
    assert reference() is None
