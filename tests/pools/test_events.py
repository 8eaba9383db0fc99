"""Who is told of what, and that nobody's error is another's."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from django_poolkit.pools.events import Events

pytestmark = pytest.mark.core


@pytest.fixture
def heard() -> list[tuple[str, dict[str, Any]]]:
    return []


@pytest.fixture
def note(heard):
    return lambda event, facts: heard.append((event, dict(facts)))


@pytest.fixture
def events() -> Events:
    return Events()


def test_an_observer_is_told_from_its_subscription_to_its_end(events, heard, note):
    events.tell("pin", pool="a", reason="set")
    events.subscribe(note)
    events.subscribe(note)
    events.tell("pin", pool="b", reason="set")
    events.unsubscribe(note)
    events.unsubscribe(note)
    events.tell("pin", pool="c", reason="set")
    assert heard == [("pin", {"pool": "b", "reason": "set"})]


def test_of_each_lease_it_is_told_where_it_asked_for_that(events, heard, note):
    events.subscribe(note)
    events.tell("lease_acquired", pool="a")
    assert not events.of_leases
    events.subscribe(note, leases=True)
    events.tell("lease_acquired", pool="b")
    events.tell("pin", pool="b")
    events.unsubscribe(note, leases_only=True)
    events.tell("lease_released", pool="c")
    events.tell("pin", pool="c")
    assert [(event, facts["pool"]) for event, facts in heard] == [
        ("lease_acquired", "b"),
        ("pin", "b"),
        ("pin", "c"),
    ]


def test_who_asks_for_no_waits_is_told_of_none(events, heard, note):
    events.subscribe(note, waits=False)
    assert not events.of_waits
    events.tell("lease_waited", pool="a")
    events.tell("pin", pool="a")
    events.subscribe(note)
    events.unsubscribe(note, leases_only=True)
    events.tell("lease_waited", pool="b")
    events.unsubscribe(note)
    assert not events.of_waits
    events.tell("lease_waited", pool="c")
    assert [(event, facts["pool"]) for event, facts in heard] == [
        ("pin", "a"),
        ("lease_waited", "b"),
    ]


def test_an_error_of_one_is_logged_and_the_others_are_told(events, heard, note, caplog):
    def broken(event, facts):
        raise ValueError("broken")

    events.subscribe(broken)
    events.subscribe(note)
    events.tell("pin", pool="orders")
    assert heard == [("pin", {"pool": "orders"})]
    assert "pool=orders event=observer_failed observed=pin" in caplog.text


def test_what_an_observer_brings_about_is_not_told(events, heard, note):
    events.subscribe(lambda event, facts: events.tell("pin", pool="inner"))
    events.subscribe(note)
    events.tell("pin", pool="outer")
    assert [facts["pool"] for _, facts in heard] == ["outer"]
    thread = threading.Thread(target=events.tell, args=("pin",), kwargs={"pool": "other thread"})
    thread.start()
    thread.join()
    assert len(heard) == 2


def test_an_interrupt_in_an_observer_does_not_silence_the_thread(events, heard, note):
    def interrupted(event, facts):
        raise KeyboardInterrupt

    events.subscribe(interrupted)
    with pytest.raises(KeyboardInterrupt):
        events.tell("pin", pool="a")
    events.unsubscribe(interrupted)
    events.subscribe(note)
    events.tell("pin", pool="b")
    assert len(heard) == 1


def test_an_error_before_a_pool_opens_is_logged(events, caplog):
    called: list[Any] = []

    def broken(pool):
        raise ValueError("broken")

    events.before_open = (broken, called.append)
    pool = SimpleNamespace(name="orders")
    events.opening(pool)
    assert called == [pool]
    assert "pool=orders event=observer_failed observed=open" in caplog.text


def test_a_forked_child_tells_again(events, heard, note):
    def fork(event, facts):
        events.after_fork()  # as in a child, of a thread that was telling
        events.unsubscribe(fork)
        events.tell("pin", pool="child")

    events.subscribe(note)
    events.subscribe(fork)
    with events._lock:
        events.after_fork()
    events.tell("pin", pool="parent")
    assert [facts["pool"] for _, facts in heard] == ["parent", "child"]
