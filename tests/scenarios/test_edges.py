"""What happens at the same moment as something else, made to happen so."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection

from django_poolkit.pools.errors import PoolTimeout
from django_poolkit.pools.postgres import shell
from django_poolkit.testing.waiting import wait_until
from tests.app.models import Item
from tests.scenarios.conftest import NAME
from tests.scenarios.crowd import in_a_fork

pytestmark = pytest.mark.core


def test_a_connect_that_began_before_a_recycle_is_recycled(make_pool):
    """It may lead to the server that the recycle was meant to leave."""

    def configure(raw: Any) -> None:
        made.append(raw.info.backend_pid)
        begun.set()
        assert go.wait(10.0)

    made: list[int] = []
    begun, go = threading.Event(), threading.Event()
    pool = make_pool(configure=configure, max_size=2)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pool.acquire)
        assert begun.wait(10.0)
        pool.recycle()
        go.set()
        lease = waiting.result(10.0)
    assert lease.connection.info.backend_pid != made[0]
    lease.release()
    assert pool.stats().closed == {"recycled": 1}


def test_a_thread_that_cannot_be_started_costs_no_slot(make_pool, monkeypatch):
    def spawn(function: Any, args: Any = (), name: str | None = None) -> Any:
        if "worker" in str(name):
            raise RuntimeError("can't start new thread")
        return real(function, args, name)

    real = shell.spawn  # type: ignore[attr-defined]
    pool = make_pool(max_size=1, timeout=0.1)
    monkeypatch.setattr(shell, "spawn", spawn)
    for _ in range(3):
        with pytest.raises(PoolTimeout):
            pool.acquire()
        assert pool.stats().size == 0
    monkeypatch.undo()
    pool.acquire(10.0).release()
    stats = pool.stats()
    assert (stats.size, stats.idle, stats.connecting) == (1, 1, 0)


def test_a_fork_after_the_pool_was_closed_under_another_thread(pooled, primary):
    """In the child that thread is no more, but its session goes on in the parent."""

    def request() -> int:
        try:
            Item.objects.count()
            leased.set()
            assert forked.wait(30.0)
            Item.objects.count()
            pid: int = connection.connection.info.backend_pid
            return pid
        finally:
            connection.close()

    leased, forked = threading.Event(), threading.Event()
    pooled(max_size=2)
    with ThreadPoolExecutor(1) as threads:
        serving = threads.submit(request)
        assert leased.wait(10.0)
        (session,) = primary.sessions(NAME)
        connection.close_pool()  # type: ignore[attr-defined]
        assert in_a_fork(lambda: None)() == 0
        forked.set()
        assert serving.result(10.0) == session.pid
    wait_until(lambda: not primary.sessions(NAME), 5.0)
