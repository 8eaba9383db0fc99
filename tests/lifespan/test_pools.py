"""Pools and client sessions as resources: opened at the start, closed for good at the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIHandler
from django.db import connection, connections
from django.test import override_settings

from django_poolkit import PoolClosed, client_sessions, connection_pools, lifespan, registry
from django_poolkit.asgi import Poolkit
from django_poolkit.lifespan import ResourceError, course
from django_poolkit.lifespan import keeper as keeper_module
from django_poolkit.lifespan import span as span_module
from django_poolkit.testing import Node
from django_poolkit.testing.lifespan import AsyncSite
from django_poolkit.testing.waiting import wait_until
from tests.lifespan.support import SECRET, Wire, looped, until

pytestmark = [pytest.mark.core, pytest.mark.django_db(transaction=True)]


APP = Poolkit(ASGIHandler())
OF_POOLS = "django_poolkit.lifespan"


@pytest.fixture
def anew() -> Iterator[None]:
    """Have the test begin and end without a pool."""
    connection.close()
    registry.pools.close_all()
    yield
    connection.close()
    registry.pools.close_all()


@pytest.fixture
def nowhere(anew: None) -> Iterator[Callable[[], None]]:
    """Lead the alias to a port where nobody listens; return what leads it back."""
    settings = connections.settings["default"]
    before = {key: settings[key] for key in ("HOST", "PORT")}
    own = {key: connection.settings_dict[key] for key in ("HOST", "PORT")}

    def lead(place: dict[str, Any]) -> None:
        for entry in (settings, connection.settings_dict):
            entry.update(place)

    lead({"HOST": "127.0.0.1", "PORT": "1"})
    yield lambda: lead(own)
    lead(before)


def test_a_pool_connects_as_the_server_starts_and_closes_as_it_ends(
    anew: None, primary: Node
) -> None:
    @looped
    async def main() -> None:
        wire = Wire(APP, **{OF_POOLS: {"pools": "optional"}})
        await wire.ask("startup")
        assert lifespan.status()["pool:default"] == ("ready", "")
        pool = wire.state["pool:default"]
        assert pool is connection_pools["default"]
        assert pool.stats().idle == 1
        await wire.ask("shutdown")
        assert pool.ended
        assert len(registry.pools) == 0
        with pytest.raises(PoolClosed):
            pool.acquire()
        with pytest.raises(PoolClosed, match="shutting down"):
            connection_pools["default"]
        course.forget()
        assert connection_pools["default"] is not pool

    main()


def test_pools_close_where_all_threads_of_the_loop_are_busy(anew: None) -> None:
    free = threading.Event()

    @looped
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        wire = Wire(APP)
        await wire.ask("startup")
        pool = connection_pools["default"]
        busy = loop.run_in_executor(None, free.wait)
        try:
            await wire.ask("shutdown")
            assert pool.ended
        finally:
            free.set()
            await busy

    main()


def test_a_pool_that_fails_to_close_is_told_of(
    anew: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(timeout: float) -> None:
        raise ConnectionError(SECRET)

    @looped
    async def main() -> None:
        wire = Wire(APP)
        await wire.ask("startup")
        with monkeypatch.context() as patch:
            patch.setattr(registry.pools, "shut_down", fail)
            assert (await wire.ask("shutdown"))["type"] == "lifespan.shutdown.complete"
        assert "resource=pools event=close_failed error=ConnectionError" in caplog.text
        assert SECRET not in caplog.text

    main()


def test_a_resource_may_use_a_pool_to_its_end(anew: None) -> None:
    done = []

    @lifespan.resource
    async def user() -> Any:
        yield
        lease = await asyncio.to_thread(connection_pools["default"].acquire)
        lease.release()
        done.append(True)

    @looped
    async def main() -> None:
        async with AsyncSite(APP, pools="optional"):
            pass

    main()
    assert done == [True]


def test_a_database_that_is_down_does_not_hinder_the_start(
    nowhere: Callable[[], None], monkeypatch: pytest.MonkeyPatch, primary: Node
) -> None:
    monkeypatch.setattr(span_module, "_PATIENCE", 0.2)
    monkeypatch.setattr(keeper_module, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(keeper_module, "_LONGEST_PAUSE", 0.05)

    @looped
    async def main() -> None:
        connection_pools["default"].timeout = 0.3
        async with AsyncSite(APP, pools="optional"):
            assert lifespan.status()["pool:default"].state == "pending"
            await until(lambda: lifespan.status()["pool:default"].state == "failed")
            assert lifespan.status()["pool:default"].text == "PoolTimeout"
            nowhere()
            await until(lambda: lifespan.status()["pool:default"].state == "ready")

    main()


def test_a_pool_that_is_required_fails_the_start(nowhere: Callable[[], None]) -> None:
    @looped
    async def main() -> None:
        connection_pools["default"].timeout = 0.1
        with pytest.raises(ResourceError, match="'pool:default': could not be opened: PoolTimeout"):
            async with AsyncSite(APP, pools="required"):
                raise AssertionError

    main()


def test_pools_that_are_lazy_connect_nowhere_and_close_nevertheless(anew: None) -> None:
    @looped
    async def main() -> None:
        wire = Wire(APP)
        await wire.ask("startup")
        assert lifespan.status() == {}
        pool = connection_pools["default"]
        assert pool.stats().size == 0
        await wire.ask("shutdown")
        assert pool.ended

    main()


@override_settings(POOLKIT={"HTTP": {"default": {}, "payments": {}}})
def test_client_sessions_open_after_the_pools_and_close_for_good(anew: None) -> None:
    @looped
    async def main() -> None:
        wire = Wire(APP, **{OF_POOLS: {"pools": "optional"}})
        await wire.ask("startup")
        assert list(lifespan.status()) == ["pool:default", "http:default", "http:payments"]
        session = wire.state["http:payments"]
        assert session is client_sessions["payments"]
        await wire.ask("shutdown")
        assert session.ended
        with pytest.raises(PoolClosed):
            client_sessions["payments"]

    main()
    course.forget()
    assert not client_sessions["payments"].ended
    registry.sessions.close_all()


def test_a_lease_that_is_out_at_the_end_comes_home_and_is_closed(anew: None, primary: Node) -> None:
    lease = connection_pools["default"].acquire()
    assert lease.connection is not None
    backend = lease.connection.info.backend_pid

    @looped
    async def main() -> None:
        async with AsyncSite(APP, pools="optional"):
            pass

    main()
    assert lease.connection.execute("SELECT 1").fetchone() is not None
    lease.release()
    wait_until(lambda: backend not in {session.pid for session in primary.sessions()})


def test_twenty_lifespans_leave_nothing_behind(anew: None, primary: Node) -> None:
    @lifespan.resource
    async def group() -> AsyncIterator[asyncio.TaskGroup]:
        async with asyncio.TaskGroup() as tasks:
            yield tasks

    async def once() -> None:
        async with AsyncSite(APP, pools="required") as site:
            assert (await group.aget()) is site.state["group"]
            assert (await site.client.get("/nowhere/")).status_code == 404

    def held() -> tuple[int, int, int]:
        files = len(list(Path("/proc/self/fd").iterdir()))
        threads = [each.name for each in threading.enumerate()]
        return files, len(threads), len(primary.sessions())

    def no_more_than(before: tuple[int, int, int]) -> bool:
        return all(now <= then for now, then in zip(held(), before, strict=True))

    asyncio.run(once())  # which starts what there is once in a process
    before = held()
    for _ in range(20):
        asyncio.run(once())
    # A server's process ends a moment after its connection.
    wait_until(lambda: no_more_than(before), 10.0, lambda: f"{held()}, before {before}")
