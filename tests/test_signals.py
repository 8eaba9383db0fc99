"""What happens in pools, heard through Django's signals."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection, connections

from django_poolkit import PoolPaused, PoolTimeout, registry, signals
from django_poolkit.pools.errors import PoolWarning
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import queue_up

# With one app flushed, and nothing made anew, a test ends in a tenth of the time.
pytestmark = [
    pytest.mark.core,
    pytest.mark.django_db(transaction=True, available_apps=["django_poolkit", "tests.app"]),
]

Heard = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def pool(transactional_db: None) -> Iterator[ConnectionPool]:
    """A pool of the process's table, of two connections; nobody listens yet, nor at the end."""
    assert not registry.pools.events.of_leases
    connections.close_all()
    registry.pools.close_all()
    pool: ConnectionPool = connection.pool  # type: ignore[attr-defined]
    pool.resize(0, 2)
    yield pool
    connection.close()
    registry.pools.close_all()
    assert not any(signal.receivers for signal in signals.SIGNALS.values())


@pytest.fixture
def heard() -> Heard:
    return []


@pytest.fixture
def listen(heard):
    """Return a function that connects to signals by name, and keeps who listens alive."""
    receivers = []

    def connect(*names: str) -> None:
        for name in names:

            def receive(sender: Any, signal: Any, _name: str = name, **facts: Any) -> None:
                assert sender is ConnectionPool
                assert signal is signals.SIGNALS[_name]
                heard.append((_name, facts))

            receivers.append((name, receive))
            signals.SIGNALS[name].connect(receive)

    yield connect
    for name, receive in receivers:
        signals.SIGNALS[name].disconnect(receive)


def test_nobody_is_told_where_nobody_listens(pool):
    events = registry.pools.events
    assert signals._send not in events._observers
    assert not events.of_leases

    def receive(**facts: Any) -> None:
        """Hear of a pin."""

    signals.pin.connect(receive)
    assert signals._send in events._observers
    assert not events.of_leases
    assert signals._send not in events.of_waits
    signals.lease_acquired.connect(receive)
    assert signals._send in events.of_leases
    signals.lease_acquired.disconnect(receive)
    assert not events.of_leases
    signals.pin.disconnect(receive)
    assert signals._send not in events._observers


def test_a_connection_from_its_beginning_to_its_end(pool, heard, listen):
    listen("connection_opened", "connection_closed", "lease_acquired", "lease_released")
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    connection.close()
    pool.recycle()
    wait_until(lambda: len(heard) == 4)
    facts = dict(heard)
    assert 0 < facts["connection_opened"]["seconds"] < 30
    assert facts["connection_closed"] == {"pool": "default", "reason": "recycled"}
    assert 0 < facts["lease_acquired"]["waited"] < 30
    assert 0 < facts["lease_released"]["seconds"] < 30
    assert {found["pool"] for found in facts.values()} == {"default"}


def test_those_who_have_to_wait_and_those_who_wait_in_vain(pool, heard, listen):
    listen("pool_saturated", "pool_timeout")
    held = [pool.acquire(), pool.acquire()]
    assert heard == []  # to connect is to wait, too, but no saturation
    first = queue_up(pool, lambda: pool.acquire(timeout=0.3))
    second = queue_up(pool, lambda: pool.acquire(timeout=0.3))
    for call in (first, second):
        with pytest.raises(PoolTimeout):
            call.result()
    for lease in held:
        lease.release()
    assert [event for event, _ in heard] == ["pool_saturated", "pool_timeout", "pool_timeout"]
    assert heard[0][1]["pool"] == "default"
    assert heard[0][1]["waiters"] in (1, 2)
    for _, facts in heard[1:]:
        assert facts["kind"] == "timeout"
        assert 0.3 <= facts["waited"] < 3.0


def test_a_pause_is_another_kind_of_timeout(pool, heard, listen):
    listen("pool_timeout")
    pool.pause()
    with pytest.raises(PoolPaused):
        pool.acquire(timeout=0.01)
    pool.resume()
    assert [facts["kind"] for _, facts in heard] == ["paused"]


def test_a_lease_that_was_dropped(pool, heard, listen):
    listen("lease_leaked")
    pool.acquire().release()

    def careless() -> None:
        pool.acquire()

    pool._stack_due = 0.0
    careless()
    with pytest.warns(PoolWarning):
        pool.acquire().release()
    [(_, facts)] = heard
    assert (facts["kind"], facts["thread"], facts["where"]) == ("dropped", "MainThread", None)
    assert "careless" in facts["stack"][0]


def test_a_pin_says_why(pool, heard, listen):
    listen("pin")
    connections.settings["default"]["OPTIONS"]["pool"]["mode"] = "transaction"
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout TO '1s'")
        connection.close()
    finally:
        del connections.settings["default"]["OPTIONS"]["pool"]["mode"]
    assert [facts["reason"] for _, facts in heard] == ["set"]


def test_a_receiver_that_fails_breaks_nothing(pool, heard, listen, caplog):
    def broken(**facts: Any) -> None:
        raise ValueError("broken")

    signals.lease_acquired.connect(broken)
    try:
        listen("lease_acquired")
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        connection.close()
    finally:
        signals.lease_acquired.disconnect(broken)
    assert len(heard) == 1
    assert "broken" in caplog.text
    assert pool.stats().used == 0


def test_a_receiver_that_asks_the_database_is_not_told_of_itself(pool, heard):
    def ask(**facts: Any) -> None:
        heard.append(("lease_acquired", facts))
        with pool.lease() as other:
            other.execute("SELECT 1")

    signals.lease_acquired.connect(ask)
    try:
        pool.acquire().release()
    finally:
        signals.lease_acquired.disconnect(ask)
    assert len(heard) == 1
    assert pool.stats().acquired == 2


def test_events_can_be_logged(pool, caplog):
    caplog.set_level(logging.INFO, "django_poolkit.events")
    signals.log_events()
    try:
        held = [pool.acquire(), pool.acquire()]
        with pytest.raises(PoolTimeout):
            pool.acquire(timeout=0.01)
        for lease in held:
            lease.release()
        pool.recycle()
        wait_until(lambda: "event=connection_closed" in caplog.text)
    finally:
        for signal in signals.SIGNALS.values():
            signal.disconnect(signals.log_event)
    lines = {record.getMessage(): record.levelname for record in caplog.records}
    assert lines["pool=default event=pool_saturated waiters=1"] == "WARNING"
    assert lines["pool=default event=connection_closed reason=recycled"] == "INFO"
    [timeout] = [line for line in lines if "event=pool_timeout" in line]
    assert timeout.startswith("pool=default event=pool_timeout kind=timeout waited=0.01")
    assert lines[timeout] == "ERROR"
    assert "lease_acquired" not in caplog.text


def test_a_leak_is_logged_with_its_stack(pool, caplog):
    caplog.set_level(logging.INFO, "django_poolkit.events")
    signals.log_events("lease_leaked")
    try:
        pool.acquire()
        with pytest.warns(PoolWarning):
            pool.acquire().release()
    finally:
        signals.lease_leaked.disconnect(signals.log_event)
    [record] = caplog.records
    assert record.levelname == "WARNING"
    first, *stack = record.getMessage().split("\n  ")
    assert first.startswith("pool=default event=lease_leaked kind=dropped seconds=0.0")
    assert any("test_a_leak_is_logged_with_its_stack" in line for line in stack)


def test_an_event_that_is_none_cannot_be_logged():
    with pytest.raises(KeyError, match="lease_lost"):
        signals.log_events("lease_lost")
