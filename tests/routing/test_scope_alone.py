"""What a scope knows, and where it begins and ends: without a server, and without a router."""

from __future__ import annotations

import contextvars
import os
import signal
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from django_poolkit.backends.request import RequestScope, entered
from django_poolkit.pools.chance import chance
from django_poolkit.routing import scope, scopes
from django_poolkit.routing.floors import Floor, Position
from django_poolkit.routing.scopes import CommandBlock, Scope, Settled
from tests.routing.offline import settled


@pytest.fixture(autouse=True)
def unpinned():
    scopes._pins.set({})
    yield
    scopes._pins.set({})


def floor(lsn: int, timeline: int = 1, expires: float = 10.0) -> Floor:
    return Floor(Position(1, timeline, lsn), expires)


def over(here: Scope) -> bool:
    """Return whether it has ended, which a type checker would take to be as it was."""
    return here.over


# -- what it knows


def test_a_new_scope_has_done_nothing():
    here = Scope()
    assert (here.unsafe, here.command, here.over) == (False, False, False)
    assert here.wrote == here.unplaced == here.placed == here.behind == here.fallen == set()
    assert here.strays == set()
    assert not any((here.replicas, here.hosts, here.floors, here.settled))
    assert here.visitor is None
    assert here.decisions is None


def test_scopes_take_part_in_trials_each_by_its_own_draw():
    state = chance.getstate()
    try:
        chance.seed(31)
        draws = [Scope().draw for _ in range(1000)]
    finally:
        chance.setstate(state)
    assert all(0.0 <= draw < 1.0 for draw in draws)
    assert 400 < sum(draw < 0.5 for draw in draws) < 600


def test_a_floor_only_rises():
    here = Scope()
    here.raise_floor("default", floor(5))
    here.raise_floor("default", floor(3, expires=20.0))
    here.raise_floor("other", floor(1))
    assert here.floors == {"default": floor(5, expires=20.0), "other": floor(1)}


def test_what_it_has_placed_itself_takes_the_place_of_what_came_in_and_then_rises():
    here = Scope()
    here.raise_floor("default", floor(900, timeline=2, expires=50.0))
    here.raise_floor("other", floor(7))
    here.place("default", floor(5))
    assert here.floors == {"default": floor(5), "other": floor(7)}
    assert here.placed == {"default"}
    here.place("default", floor(4, expires=11.0))
    assert here.floors["default"] == floor(5, expires=11.0)


def test_a_time_pin_takes_nothing_away_that_had_come_in():
    here = Scope()
    here.raise_floor("default", floor(900, expires=50.0))
    here.place("default", Floor(None, 5.0))
    assert here.floors["default"] == Floor(None, 50.0)


def test_a_replica_that_is_of_no_use_stays_known_and_has_no_host():
    here = Scope()
    here.settled = {
        "default": settled(near={"r1", "r2"}, far=None),
        "other": settled(near={"r1"}),
    }
    before = here.settled
    scopes.unsettle(here, "default", "near")
    assert here.settled == {
        "default": Settled({"near": frozenset(), "far": None}),
        "other": settled(near={"r1"}),
    }
    # It is replaced: another thread may be reading what was there.
    assert before["default"] == settled(near={"r1", "r2"}, far=None)


def test_a_child_that_is_forked_while_a_floor_is_raised_can_raise_its_own():
    begun, over = threading.Event(), threading.Event()

    def raises() -> None:
        with scopes._raising:
            begun.set()
            over.wait(30.0)

    holder = threading.Thread(target=raises)
    holder.start()
    try:
        assert begun.wait(10.0)
        with warnings.catch_warnings():
            # Of a fork with threads: which this is about.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            status = 1
            try:
                signal.alarm(10)  # ends it where it waits for a lock that nobody has any more
                here = Scope()
                here.raise_floor("default", floor(5))
                here.place("default", floor(6))
                status = 0 if here.floors == {"default": floor(6)} else 1
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        over.set()
        holder.join()


# -- where it begins and ends


def test_outside_of_everything_there_is_none():
    assert scopes.current() is None


@pytest.mark.parametrize(
    ("method", "unsafe"),
    [*((each, True) for each in ("POST", "PUT", "PATCH", "DELETE")), ("GET", False), ("", False)],
)
def test_a_request_has_one_scope_from_its_first_question_on(method, unsafe):
    request = RequestScope(method=method)
    with entered(request):
        first = scopes.current()
        assert first is not None
        assert (first.unsafe, first.command) == (unsafe, False)
        assert scopes.current() is first
        with scope() as joined:
            assert joined is first
        assert not first.over  # the end of a block in it is none of the request
    assert scopes.current() is None


def test_the_end_of_a_request_is_that_of_its_scope():
    request = RequestScope()
    scopes.end_of(request)  # nobody has asked: there is nothing to end
    with entered(request):
        assert scopes.current() is not None
        here = scopes.current()
    assert here is not None
    assert not over(here)
    scopes.end_of(request)
    assert over(here)


def test_what_goes_on_after_its_request_opens_a_scope_of_its_own():
    request = RequestScope()
    with entered(request):
        here = scopes.current()
        request.over = True
        assert scopes.current() is here  # what is left of the request may still use it
        with scope() as own:
            assert own is not here
            assert scopes.current() is own
            assert not over(own)
        assert over(own)
        assert here is not None
        assert not over(here)


def test_what_goes_on_after_its_scope_opens_one_of_its_own():
    with scope() as here:
        left = contextvars.copy_context()
    assert over(here)

    def later() -> bool:
        assert scopes.current() is here
        with scope() as own:
            return own is not here and not over(own)

    assert left.run(later)


def test_blocks_in_blocks_are_one_scope_and_the_outermost_ends_it():
    with scope() as outer:
        with scope() as inner:
            assert inner is outer
        assert not over(outer)
        assert scopes.current() is outer
    assert over(outer)
    assert scopes.current() is None


def test_a_scope_around_a_server_is_none_of_its_requests():
    with scope() as around:
        request = RequestScope(method="GET")
        with entered(request):
            of_request = scopes.current()
            assert of_request is not around
            with scope() as inside:
                assert inside is of_request
        assert scopes.current() is around


def test_one_request_within_another_has_a_scope_of_its_own():
    with entered(RequestScope(method="POST")), scope() as one:
        assert one.unsafe
        with entered(RequestScope(method="GET")):
            other = scopes.current()
            assert other is not None
            assert not other.unsafe
        assert scopes.current() is one


def test_a_block_that_ends_out_of_order_takes_nothing_from_the_others():
    # A generator that was suspended within its block ends it in the midst of its consumer's.
    one, two, three = scope(), scope(), scope()
    here = one.__enter__()
    assert two.__enter__() is three.__enter__() is here
    two.__exit__(None, None, None)
    assert scopes.current() is here
    assert not over(here)
    one.__exit__(None, None, None)
    assert scopes.current() is here
    assert not over(here)
    three.__exit__(None, None, None)
    assert scopes.current() is None
    assert over(here)


def test_a_block_that_ends_where_it_was_not_entered_ends_nothing_there():
    block = scope()
    with ThreadPoolExecutor(1) as pool:
        elsewhere = pool.submit(block.__enter__).result()
    with scope() as here:
        block.__exit__(None, None, None)
        assert scopes.current() is here
        assert not over(here)
    assert not over(elsewhere)


def test_a_command_reads_the_primary_and_its_jobs_are_no_parts_of_one_work():
    with CommandBlock() as command:
        assert (command.command, command.unsafe) == (True, False)
        with scope() as first:
            assert first is not command
            assert not first.command
        assert over(first)
        assert scopes.current() is command
        with scope() as second:
            assert second is not first
    assert over(command)


def test_what_a_thread_does_is_known_where_it_was_given_the_context():
    with scope() as here, ThreadPoolExecutor(1) as pool:
        pool.submit(contextvars.copy_context().run, scopes.mark_written, "default").result()
        assert scopes.has_written(here, "default")
        pool.submit(scopes.mark_written, "other").result()
        assert not scopes.has_written(here, "other")


# -- writes


def test_a_scope_has_written_what_was_begun_in_it():
    with scope() as here:
        assert not scopes.has_written(here, "default")
        scopes.mark_written("default")
        assert scopes.has_written(here, "default")
        assert not scopes.has_written(here, "other")
        assert here.wrote == {"default"}
    # It is the scope's, and not that of who comes after it.
    assert scopes.pinned() == {}
    assert not scopes.has_written(None, "default")


def test_outside_of_one_a_thread_has_just_written_for_five_seconds(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(scopes, "monotonic", lambda: now)
    scopes.mark_written("default")
    now += 1.0
    scopes.mark_written("other")
    assert scopes.pinned() == {"default": 4.0, "other": 5.0}
    assert scopes.has_written(None, "default")
    assert not scopes.has_written(None, "third")
    with scope() as here:
        assert not scopes.has_written(here, "default")
    now += 3.75
    assert scopes.has_written(None, "default")
    assert scopes.pinned() == {"default": 0.25, "other": 1.25}
    now += 0.25  # now it is over, for both who ask
    assert not scopes.has_written(None, "default")
    assert scopes.pinned() == {"other": 1.0}


def test_a_pin_is_its_threads_and_of_whoever_began_after_it():
    scopes.mark_written("default")
    copied = contextvars.copy_context()
    scopes.mark_written("other")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(scopes.pinned).result() == {}
        assert pool.submit(copied.run, scopes.pinned).result().keys() == {"default"}
