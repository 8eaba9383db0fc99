"""What hurts users of database pools, one by one: here it does not."""

from __future__ import annotations

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import psycopg_pool
import pytest
from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.db import DatabaseError, OperationalError, connection, connections, transaction
from django.http import HttpResponse
from django.test import override_settings
from django.urls import path

from django_poolkit import registry
from django_poolkit.asgi import Poolkit
from django_poolkit.pools.errors import PoolError, PoolTimeout, PoolWarning, TooManyWaiters
from django_poolkit.testing.waiting import wait_until
from tests.app.models import Item
from tests.scenarios.conftest import NAME
from tests.scenarios.crowd import Crowd, in_a_fork

pytestmark = pytest.mark.core

# A pool that sleeps between two dead connections needs 7 s and more for what is done here.
AT_ONCE = 1.0


def in_a_thread(work: Any) -> Any:
    """Run `work` in a thread that ends before this returns, and closes nothing."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(work).result(30.0)


def fill(pool: Any, count: int) -> set[int]:
    """Have `count` idle connections; return their backends."""
    leases = [pool.acquire(30.0) for _ in range(count)]
    pids = {lease.connection.info.backend_pid for lease in leases}
    for lease in leases:
        lease.release()
    return pids


def backend() -> int:
    connection.ensure_connection()
    pid: int = connection.connection.info.backend_pid
    return pid


# -- 1: a restarted server


def test_a_lone_request_after_a_restart_is_served_at_once(pooled, primary):
    pool = pooled(max_size=8)
    fill(pool, 8)
    primary.restart()
    started = monotonic()
    assert Item.objects.count() == 0
    assert monotonic() - started < AT_ONCE
    stats = pool.stats()
    assert stats.closed["dead"] == 8
    assert stats.size == stats.used == 1


def test_a_burst_after_all_backends_were_killed_meets_no_error(pooled, primary):
    pool = pooled(max_size=8)
    dead = fill(pool, 8)
    primary.kill_backends(NAME)

    def request(_: int) -> tuple[float, int]:
        started = monotonic()
        try:
            Item.objects.count()
            return monotonic() - started, backend()
        finally:
            connection.close()

    with ThreadPoolExecutor(16) as threads:
        served = list(threads.map(request, range(64)))
    assert max(seconds for seconds, _ in served) < 2 * AT_ONCE
    assert not {pid for _, pid in served} & dead
    assert pool.stats().closed["dead"] == 8


def test_the_loss_of_a_backend_in_a_request_costs_that_request_alone(pooled, primary):
    pool = pooled(max_size=2)
    Item.objects.create(name="before")
    primary.kill_backend(backend())
    with pytest.raises(OperationalError):
        Item.objects.count()
    connection.close()
    started = monotonic()
    assert Item.objects.count() == 1
    assert monotonic() - started < AT_ONCE
    assert pool.stats().used == 1


def test_a_client_that_waits_through_an_outage_is_served_as_the_server_comes_back(pooled, primary):
    pool = pooled(max_size=4, timeout=60.0)
    fill(pool, 4)
    primary.stop()
    served: list[float] = []

    def wait_for_it() -> None:
        try:
            Item.objects.count()
            served.append(monotonic())
        finally:
            connection.close()

    waiter = threading.Thread(target=wait_for_it)
    waiter.start()
    # Two failures at least, so that a back-off is under way.
    wait_until(lambda: pool.stats().connect_errors >= 2, 30.0)
    primary.start()
    back = monotonic()
    waiter.join(30.0)
    assert served
    assert served[0] - back < 2.0 * 1.1 + AT_ONCE  # the cap of the back-off, with its jitter


# -- 2: threads that never say goodbye


def test_threads_that_end_without_closing_leave_their_slots(pooled, primary):
    def forgetful() -> None:
        Item.objects.count()

    def four_threads() -> float:
        for _ in range(3):
            in_a_thread(forgetful)
        started = monotonic()
        Item.objects.count()
        return monotonic() - started

    pool = pooled(max_size=3)
    with pytest.warns(PoolWarning, match="dropped without being released") as warned:
        assert four_threads() < AT_ONCE
    assert len(warned) == 3
    assert "forgetful" in str(warned[0].message)  # where it was acquired
    stats = pool.stats()
    assert (stats.used, stats.leaks) == (1, 3)
    assert len(primary.sessions(NAME)) == stats.size <= 3


def test_a_thread_that_ends_in_a_transaction_is_rolled_back(pooled):
    def begin() -> None:
        transaction.set_autocommit(False)
        Item.objects.create(name="never")

    pooled(max_size=1)
    in_a_thread(begin)
    with pytest.warns(PoolWarning):
        assert not Item.objects.exists()
    assert transaction.get_autocommit()


# -- 3: requests that are cancelled or cannot answer


async def count_and_wait(request: Any) -> HttpResponse:
    await sync_to_async(Item.objects.count)()
    reached.set()
    if request.path == "/wait/":
        await asyncio.Event().wait()
    return HttpResponse("ok")


reached = asyncio.Event()
urlpatterns = [path("wait/", count_and_wait), path("answer/", count_and_wait)]


async def asgi_request(app: Any, where: str) -> None:
    async def receive() -> dict[str, Any]:
        if not body_sent:
            body_sent.append(True)
            return {"type": "http.request"}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        raise OSError("the client is gone")

    body_sent: list[bool] = []
    scope = {"type": "http", "method": "GET", "path": where, "headers": [], "query_string": b""}
    await app(scope, receive, send)


@pytest.mark.filterwarnings("ignore:Unclosed file <tempfile.SpooledTemporaryFile:ResourceWarning")
@pytest.mark.parametrize("fate", ["/wait/", "/answer/"])
def test_requests_that_are_cut_off_leave_their_slots(pooled, fate):
    async def main() -> None:
        for _ in range(6):
            reached.clear()
            task = asyncio.create_task(asgi_request(app, fate))
            if fate == "/wait/":
                await asyncio.wait(
                    [task, asyncio.ensure_future(reached.wait())],
                    return_when=asyncio.FIRST_COMPLETED,
                )
                task.cancel()
            with pytest.raises((asyncio.CancelledError, OSError)):
                await task
            assert reached.is_set()

    pool = pooled(max_size=3, timeout=2.0)
    with override_settings(ROOT_URLCONF=__name__):
        app = Poolkit(ASGIHandler())
        asyncio.run(main())
    gc.collect()
    wait_until(lambda: pool.stats().used == 0, 5.0)
    assert pool.stats().leaks == 0
    assert pool.stats().timeouts == 0


# -- 4: forks


def test_a_child_forked_after_use_has_its_own_backend(pooled, primary):
    pool = pooled(max_size=2)
    fill(pool, 2)
    mine = backend()
    before = {session.pid for session in primary.sessions(NAME)}

    def child() -> None:
        with transaction.atomic():
            Item.objects.create(name="child")
        assert backend() not in before
        with connections["default"].cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'scenario'"
            )
            assert cursor.fetchone() == (len(before) + 1,)

    children = [in_a_fork(child)() for _ in range(3)]
    assert children == [0, 0, 0]
    assert backend() == mine
    assert Item.objects.count() == 3
    # Whatever the children did to their copies, the parent's are whole.
    connection.close()
    assert fill(pool, 2) == before
    wait_until(lambda: {session.pid for session in primary.sessions(NAME)} == before, 5.0)


def test_a_fork_in_a_transaction_is_an_error_in_the_child_alone(pooled):
    def child() -> None:
        with pytest.raises(DatabaseError, match="atomic block"):
            Item.objects.count()

    pooled(max_size=2)
    with transaction.atomic():
        Item.objects.create(name="parent")
        assert in_a_fork(child)() == 0
    assert Item.objects.count() == 1


# -- 5: a pool that is closed under its users, as Celery does after each task


def test_closing_the_pool_under_six_threads_disturbs_nobody(pooled, primary):
    pooled(max_size=4, timeout=30.0)
    closings: list[float] = []
    crowd = Crowd(60.0)

    def request(_: object) -> None:
        try:
            with transaction.atomic():
                Item.objects.create(name="x")
            Item.objects.count()
        finally:
            connection.close()

    def close(_: object) -> None:
        before = sum(crowd.steps.values())
        connection.close_pool()  # type: ignore[attr-defined]
        closings.append(monotonic())
        # Each time somebody has to have got through.
        wait_until(lambda: sum(crowd.steps.values()) > before + 6 or crowd.unexpected, 30.0)
        if len(closings) == 20:
            crowd.deadline = 0.0

    for index in range(6):
        crowd.add(f"request-{index}", request)
    crowd.add("closer", close)
    crowd.run()
    assert len(closings) == 20
    assert Item.objects.count() == sum(crowd.steps[f"request-{index}"] for index in range(6))
    connection.close()
    assert len(registry.pools) == 1
    wait_until(
        lambda: len(primary.sessions(NAME)) == sum(pool.stats().size for pool in registry.pools),
        10.0,
    )


# -- 10: an exhausted pool


def test_exhaustion_is_told_soon_and_by_every_name(pooled):
    pool = pooled(max_size=1, timeout=0.2)
    lease = pool.acquire()
    started = monotonic()
    with pytest.raises(OperationalError) as refused:
        Item.objects.count()
    assert 0.2 <= monotonic() - started < 0.2 + AT_ONCE
    error = refused.value
    for kind in (PoolTimeout, PoolError, psycopg_pool.PoolTimeout, TimeoutError):
        assert isinstance(error, kind)
    assert "pool 'default': no connection within 0.20 s (used 1/1, idle 0" in str(error)
    lease.release()
    assert Item.objects.count() == 0


def test_a_full_queue_refuses_without_waiting(pooled):
    pool = pooled(max_size=1, max_waiting=1, timeout=30.0)
    lease = pool.acquire()
    waiter = ThreadPoolExecutor(1)
    waiting = waiter.submit(pool.acquire)
    wait_until(lambda: pool.stats().waiters == 1)
    started = monotonic()
    with pytest.raises(OperationalError) as refused:
        Item.objects.count()
    assert monotonic() - started < AT_ONCE
    assert isinstance(refused.value, (TooManyWaiters, psycopg_pool.TooManyRequests))
    lease.release()
    waiting.result(10.0).release()
    waiter.shutdown()
