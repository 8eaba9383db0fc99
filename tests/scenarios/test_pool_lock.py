"""A pool of which each thread wants two connections: it must not wait for itself."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from time import monotonic
from typing import Any

import psycopg_pool
import pytest
from django.db import OperationalError, connection, connections, transaction

from django_poolkit import PoolDeadlock, PoolTimeout
from tests.app.models import Item
from tests.pools.support import Call, queue_up

# A pool that does not notice takes this long.
LONG = 60.0
AT_ONCE = 5.0


def ask(wrapper: Any) -> int:
    """Ask by a wrapper of one's own, as by another alias of the same pool."""
    with wrapper.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM app_item")
        (count,) = cursor.fetchone()
    return int(count)


def nested(meet: threading.Barrier) -> int:
    """Hold one connection, and ask for another when all others hold theirs."""
    second = connections["default"].copy()
    try:
        with transaction.atomic():
            Item.objects.count()
            meet.wait(AT_ONCE)
            return ask(second)
    finally:
        second.close()
        connections.close_all()


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_as_many_threads_as_connections(pooled: Any, mode: str) -> None:
    pool = pooled(timeout=LONG, mode=mode, max_size=4, stacks="all")
    started = monotonic()
    meet = threading.Barrier(4)
    calls = [Call(nested, meet) for _ in range(4)]
    for call in calls:
        call.join(AT_ONCE)
    errors = [call._error for call in calls if call._error is not None]
    # One is refused, and the three others go on with what it gives back.
    assert monotonic() - started < AT_ONCE
    assert [type(error).__name__ for error in errors] == ["PoolDeadlock"]
    [error] = errors
    for kind in (PoolDeadlock, PoolTimeout, OperationalError, psycopg_pool.PoolTimeout):
        assert isinstance(error, kind)
    held, _, asked = str(error).partition("and asks for another at:")
    assert "all 4 connections are held by threads that wait for a further one" in held
    assert "used 4/4" in held
    assert "of the alias 'default', since 0." in held
    # Both acquires, by line.
    assert re.search(r"test_pool_lock.py:\d+ nested", held)
    assert re.search(r"test_pool_lock.py:\d+ ask", asked)
    assert "max_size" in asked
    stats = pool.stats()
    assert (stats.used, stats.waiters, stats.timeouts, stats.acquired) == (0, 0, 1, 7)


def test_nobody_is_refused_while_somebody_can_go_on(pooled: Any) -> None:
    pool = pooled(timeout=LONG, max_size=4)
    meet = threading.Barrier(3)
    with pool.lease():  # a fourth, who waits for nothing
        calls = [Call(nested, meet) for _ in range(3)]
        while pool.stats().waiters < 3:
            assert not any(call._error for call in calls)
    assert [call.result() for call in calls] == [0, 0, 0]
    assert pool.stats().timeouts == 0


def test_one_thread_with_the_only_connection(pooled: Any) -> None:
    pool = pooled(max_size=1, timeout=LONG)
    Item.objects.count()
    with pytest.raises(PoolDeadlock, match=r"asks for another at:\n  .*test_pool_lock") as refused:
        pool.acquire()
    assert refused.value.waited < AT_ONCE
    assert "stacks='all'" in str(refused.value) or "acquired at" in str(refused.value)
    connection.close()
    pool.acquire().release()


def test_blocks_of_a_bare_pool_in_one_another(make_pool: Any) -> None:
    pool = make_pool(max_size=2, timeout=LONG)
    with pool.lease(), pool.lease(), pytest.raises(PoolDeadlock), pool.lease():
        pass
    assert (pool.stats().idle, pool.stats().timeouts) == (2, 1)


def test_it_is_told_of(make_pool: Any) -> None:
    heard: list[tuple[str, str]] = []

    def hear(event: str, facts: Mapping[str, Any]) -> None:
        heard.append((event, facts.get("kind", "")))

    pool = make_pool(max_size=1, timeout=LONG)
    pool.events.subscribe(hear)
    with pool.lease(), pytest.raises(PoolDeadlock):
        pool.acquire()
    assert ("pool_timeout", "deadlock") in heard


def test_leases_that_others_may_give_back_are_waited_for(make_pool: Any) -> None:
    """One thread may acquire for others: its own wait proves nothing."""
    pool = make_pool(max_size=2, timeout=LONG)
    leases = [pool.acquire(), pool.acquire()]
    worker = threading.Timer(0.1, leases.pop().release)
    worker.start()
    pool.acquire().release()
    worker.join()
    leases.pop().release()


def test_a_connection_that_threads_share_is_waited_for(pooled: Any) -> None:
    pool = pooled(timeout=LONG, max_size=1)
    connection.inc_thread_sharing()
    second = connection.copy()
    try:
        Item.objects.count()
        call = queue_up(pool, lambda: pool.acquire().release())
        other = threading.Timer(0.1, connection.close)
        other.start()
        assert ask(second) == 0
        second.close()
        other.join()
        call.result()
    finally:
        connection.dec_thread_sharing()
