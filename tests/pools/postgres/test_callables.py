"""Users' callables, and uses past a release: what they do harms nobody else."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from django_poolkit import LeaseReleased, PoolTimeout, PoolWarning
from django_poolkit.pools.postgres import ConnectionPool, acquire
from django_poolkit.testing.faults import TCPProxy
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import queue_up

pytestmark = pytest.mark.core


def test_a_check_that_refuses_everything_backs_off_and_is_named(
    make_pool: Callable[..., ConnectionPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(acquire, "sleep", pauses.append)

    def refuse(connection: Any) -> None:
        raise LookupError("secret reasons")

    pool = make_pool(check=refuse, timeout=0.5, reconnect_cap=1.0)
    with pytest.raises(PoolTimeout) as caught:
        pool.acquire()
    assert pauses[:4] == pytest.approx([0.1, 0.2, 0.4, 0.5], abs=0.3)
    assert all(0.0 <= pause <= 0.5 for pause in pauses)
    assert "check refused a connection: LookupError" in str(caught.value)
    assert "secret" not in str(caught.value)
    stats = pool.stats()
    assert stats.closed["check_failed"] == stats.connects
    assert (stats.used, stats.idle) == (0, 0)


def test_a_check_that_refuses_an_old_connection_costs_no_pause(
    make_pool: Callable[..., ConnectionPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(acquire, "sleep", pauses.append)
    refused: list[Any] = []

    def refuse_the_old(connection: Any) -> None:
        if connection in refused:
            raise LookupError

    pool = make_pool(check=refuse_the_old)
    first = pool.acquire()
    refused.append(first.connection)
    first.release()
    second = pool.acquire()
    assert second.connection not in refused
    assert pauses == []
    assert pool.stats().last_connect_error is None
    second.release()


def test_psycopg_pools_statistics_know_the_size(
    make_pool: Callable[..., ConnectionPool],
) -> None:
    pool = make_pool()
    with pool.connection():
        assert pool.get_stats()["pool_size"] == 1
        assert pool.get_stats()["pool_available"] == 0
    assert pool.pop_stats()["pool_available"] == 1


def test_what_a_check_runs_is_not_the_callers_doing(
    make_pool: Callable[..., ConnectionPool],
) -> None:
    pool = make_pool(check=ConnectionPool.check_connection, reset="request")
    lease = pool.acquire()
    assert (lease.committed, lease.wrote, lease.foreign) == (False, False, False)
    lease.release()
    assert pool.stats().resets == 0


def test_a_callable_that_exits_does_not_end_the_pools_thread(
    make_pool: Callable[..., ConnectionPool],
) -> None:
    calls: list[int] = []

    def configure(connection: Any) -> None:
        calls.append(1)
        if len(calls) < 4:
            raise SystemExit("from an SDK")

    pool = make_pool(configure=configure, num_workers=1, timeout=10.0)
    pool.acquire().release()
    assert len(calls) == 4


def test_what_configure_set_survives_a_reset(make_pool: Callable[..., ConnectionPool]) -> None:
    def configure(connection: Any) -> None:
        connection.execute("SET ROLE pg_read_all_data")
        connection.commit()

    pool = make_pool(configure=configure, reset="always")
    for _ in range(3):
        with pool.lease() as connection:
            row = connection.execute("SELECT current_user").fetchone()
        assert row == ("pg_read_all_data",)
    assert (pool.stats().connects, pool.stats().resets) == (1, 3)


def test_where_configure_fails_after_a_reset_the_connection_goes(
    make_pool: Callable[..., ConnectionPool],
) -> None:
    seen: list[Any] = []

    def once(connection: Any) -> None:
        if connection in seen:
            raise LookupError
        seen.append(connection)

    pool = make_pool(configure=once, reset="always")
    pool.acquire().release()
    assert pool.stats().closed == {"reset_failed": 1}
    pool.acquire().release()
    assert len(seen) == 2


@pytest.mark.parametrize(
    "use",
    [
        lambda raw: raw.commit(),
        lambda raw: raw.rollback(),
        lambda raw: raw.execute("SELECT 1"),
        lambda raw: raw.transaction().__enter__(),
        lambda raw: raw.pipeline().__enter__(),
    ],
    ids=["commit", "rollback", "execute", "transaction", "pipeline"],
)
def test_a_connection_kept_after_release_is_refused(
    make_pool: Callable[..., ConnectionPool], use: Callable[[Any], Any]
) -> None:
    pool = make_pool()
    lease = pool.acquire()
    raw = lease.connection
    lease.release()
    if use.__code__.co_names[0] in ("commit", "rollback"):
        use(raw)  # at rest they send nothing, which harms nobody
    else:
        with pytest.raises(LeaseReleased):
            use(raw)
    with pool.lease() as connection:
        assert connection is raw
        assert connection.info.transaction_status == 0


def test_who_acquires_does_not_wait_for_what_others_leaked(
    make_pool: Callable[..., ConnectionPool], params: dict[str, Any]
) -> None:
    with TCPProxy(params["host"], params["port"]) as proxy:
        where = {"host": proxy.host, "port": proxy.port}
        pool = make_pool(kwargs=where, max_size=3, timeout=0.5)
        leaked = [pool.acquire() for _ in range(2)]
        for lease in leaked:
            lease.mark_dirty("test")
        proxy.stall()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PoolWarning)
            leaked.clear()
            del lease
            started = time.monotonic()
            with pytest.raises(PoolTimeout):
                pool.acquire()
        assert time.monotonic() - started < 3 * pool.timeout
        proxy.resume()


def test_a_pause_ends_by_the_clock_while_every_worker_is_busy(
    make_pool: Callable[..., ConnectionPool],
) -> None:
    gate, hold = threading.Event(), threading.Event()
    gate.set()

    def configure(connection: Any) -> None:
        hold.set()
        gate.wait(30.0)

    pool = make_pool(num_workers=1, max_size=2, configure=configure)
    try:
        held = pool.acquire()
        gate.clear()
        hold.clear()
        busy = queue_up(pool, pool.acquire)
        assert hold.wait(10.0)
        pool.pause(0.3)
        held.release()
        # The one worker is in `configure`, and so cannot end the pause: the clock does.
        wait_until(lambda: pool.stats().state == "open")
        gate.set()
        busy.result().release()
    finally:
        gate.set()
