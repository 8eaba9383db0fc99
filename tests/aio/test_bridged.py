"""bridged(): the synchronous ORM in tasks, without a thread, on connections of each call's own."""

from __future__ import annotations

import asyncio
import threading
import unittest
from contextvars import ContextVar
from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connections, transaction
from django.test import TestCase, TransactionTestCase
from django.test.utils import CaptureQueriesContext

from django_poolkit.aio import aatomic, apinned, bridged, carrying, needed
from django_poolkit.backends import own
from tests.aio.support import Pooled, Run, apid, ascalar, count
from tests.app.models import Item
from tests.backends.transaction_mode.support import (
    PATIENCE,
    Broken,
    Server,
    backend,
    connection,
    create,
    fill,
    scalar,
)
from tests.pools.postgres.tasks import until

pytestmark = pytest.mark.core


seen: ContextVar[str] = ContextVar("seen", default="nothing")


def test_calls_of_a_gather_have_a_connection_each(
    pooled: Pooled, server: Server, run_on_each: Run
) -> None:
    pool = pooled(max_size=10)
    wants = "SELECT pg_backend_pid() FROM pg_advisory_xact_lock_shared(7)"

    async def main() -> None:
        server.run("SELECT pg_advisory_lock(7)")
        tasks = [asyncio.create_task(ascalar(wants)) for _ in range(10)]
        await until(lambda: list(server.backends.values()).count("active") == 10)
        server.run("SELECT pg_advisory_unlock(7)")
        assert len({*await asyncio.gather(*tasks)}) == 10
        assert pool.stats().used == 0

    run_on_each(main)


def test_fifty_calls_are_served_by_four_connections(pooled: Pooled, run_on_each: Run) -> None:
    pool = pooled(max_size=4)

    async def main() -> None:
        pids = await asyncio.gather(*(apid() for _ in range(50)))
        assert 1 <= len({*pids}) <= 4
        assert pool.stats().used == 0

    run_on_each(main)


def test_a_call_starts_no_thread(pooled: Pooled, run_on_each: Run) -> None:
    pooled()

    async def main() -> None:
        await apid()  # the pool has made its workers by then
        before = {*threading.enumerate()}
        threads = await bridged(lambda: (backend(), threading.current_thread())[1])()
        assert threads is threading.current_thread()
        assert {*threading.enumerate()} <= before

    run_on_each(main)


def test_the_orm_is_refused_outside_of_it(pooled: Pooled, run_on_each: Run) -> None:
    pooled()

    async def main() -> None:
        await apid()
        with pytest.raises(SynchronousOnlyOperation):
            count()
        async with aatomic():
            await apid()
            with pytest.raises(SynchronousOnlyOperation):
                count()
            with pytest.raises(SynchronousOnlyOperation), transaction.atomic():
                raise AssertionError

    run_on_each(main)


def test_another_loop_is_refused_in_it(run_on_each: Run) -> None:
    async def nothing() -> None:
        """Never awaited."""

    def work() -> None:
        coroutine = nothing()
        try:
            asyncio.run(coroutine)
        finally:
            coroutine.close()

    async def main() -> None:
        with pytest.raises(RuntimeError, match="running event loop"):
            await bridged(work)()

    run_on_each(main)


def test_it_takes_synchronous_functions() -> None:
    async def main() -> None:
        """Not called."""

    with pytest.raises(TypeError, match="main is a coroutine function"):
        bridged(main)


def test_context_variables_are_the_callers(pooled: Pooled, run_on_each: Run) -> None:
    pooled()

    async def inner() -> None:
        await apid()
        seen.set(f"{seen.get()}, async code")

    def work() -> None:
        seen.set("call")
        backend()
        async_to_sync(inner)()

    async def main() -> None:
        seen.set("nothing")
        await bridged(work)()
        assert seen.get() == "call, async code"

    run_on_each(main)


def test_an_exception_comes_through_with_its_frames(pooled: Pooled, run_on_each: Run) -> None:
    pool = pooled()

    def deep() -> None:
        backend()
        raise Broken

    async def main() -> None:
        with pytest.raises(Broken) as caught:
            await bridged(deep)()
        assert caught.traceback[-1].name == "deep"
        assert pool.stats().used == 0

    run_on_each(main)


def test_what_a_call_leaves_open_ends_with_it(pooled: Pooled, run_on_each: Run) -> None:
    pool = pooled()

    def leave() -> None:
        transaction.set_autocommit(False)
        create("lost")
        scalar("SET work_mem = '5MB'")

    async def main() -> None:
        await bridged(leave)()
        assert pool.stats().used == 0
        assert await bridged(count)() == 0
        assert await ascalar("SHOW work_mem") != "5MB"

    run_on_each(main)


def test_async_code_is_awaited_by_the_callers_task(pooled: Pooled, run_on_each: Run) -> None:
    pool = pooled()

    async def fan_out(task: asyncio.Task[Any] | None) -> int:
        assert asyncio.current_task() is task
        return len(await asyncio.gather(*(apid() for _ in range(3))))

    def work() -> int:
        backend()
        return async_to_sync(fan_out)(asyncio.current_task())

    async def main() -> None:
        assert await bridged(work)() == 3
        assert pool.stats().used == 0

    run_on_each(main)


def test_an_alias_without_a_pool_is_refused(pooled: Pooled, run_on_each: Run) -> None:
    alias = connections.settings["default"]
    pooled()

    async def main() -> None:
        alias["OPTIONS"]["pool"] = False
        try:
            with pytest.raises(RuntimeError, match="'default' has no pool of django_poolkit"):
                await apid()
            with pytest.raises(RuntimeError, match="would block the event loop"):
                async with aatomic():
                    raise AssertionError
            assert await bridged(lambda: connections["default"].vendor)() == "postgresql"
            async with ThreadSensitiveContext():  # a thread without a wrapper of another test's
                assert await sync_to_async(_pid_and_close)()
        finally:
            alias["OPTIONS"]["pool"] = {"mode": "transaction"}

    run_on_each(main)


def _pid_and_close() -> int:
    connection.close()  # the thread may be one that knows the pool of another test
    pid = backend()
    connection.close()
    return pid


# -- what the request's own wrapper carries


def test_statements_are_logged_where_async_code_asks(pooled: Pooled, run_on_each: Run) -> None:
    pooled()

    async def main() -> None:
        connection.force_debug_cursor = True
        await asyncio.gather(apid(), apid())
        async with aatomic():
            await apid()
        logged = [each["sql"] for each in connection.queries]
        assert logged.count("SELECT pg_backend_pid()") == 3

    run_on_each(main)


def test_queries_are_captured_around_async_code_and_within_a_call(pooled: Pooled) -> None:
    pooled()

    async def several() -> None:
        await asyncio.gather(apid(), apid())
        async with aatomic():
            await asyncio.create_task(apid())

    def within() -> int:
        with CaptureQueriesContext(connection) as queries:
            backend()
        return len(queries)

    async def main() -> int:
        with pytest.raises(SynchronousOnlyOperation), CaptureQueriesContext(connection):
            raise AssertionError
        return await bridged(within)()

    with CaptureQueriesContext(connection) as queries:
        async_to_sync(several)()
    texts = [each["sql"] for each in queries]
    assert texts.count("SELECT pg_backend_pid()") == 3
    assert {*texts} == {"SELECT pg_backend_pid()", "BEGIN", "COMMIT"}
    connection.close()
    assert asyncio.run(main()) == 1


def test_wrappers_of_statements_reach_all_calls(pooled: Pooled, run_on_each: Run) -> None:
    pooled()
    statements: list[str] = []

    def wrapper(execute: Any, sql: Any, *args: Any) -> Any:
        statements.append(sql)
        return execute(sql, *args)

    async def main() -> None:
        statements.clear()
        with connection.execute_wrapper(wrapper):
            await asyncio.gather(apid(), apid())
        await apid()
        assert statements == ["SELECT pg_backend_pid()"] * 2

    run_on_each(main)


def test_what_a_thread_has_pinned_serves_all_calls(pooled: Pooled, run_on_each: Run) -> None:
    pool = pooled(max_size=3)

    def middleware() -> int:
        scalar("CREATE TEMP TABLE of_request (n int)")
        return backend()

    async def main() -> None:
        pid = await sync_to_async(middleware)()
        async with asyncio.timeout(PATIENCE):
            looks = [ascalar("SELECT pg_backend_pid() + count(*) FROM of_request") for _ in "abc"]
            assert {*await asyncio.gather(*looks)} == {pid}
            async with aatomic():
                await ascalar("INSERT INTO of_request VALUES (1)")
            assert await sync_to_async(scalar)("SELECT count(*) FROM of_request") == 1
        assert pool.stats().used == 1
        await sync_to_async(lambda: connection.close())()
        assert pool.stats().used == 0
        assert await ascalar("SELECT to_regclass('of_request')") is None

    run_on_each(main)


def test_what_somebody_has_put_on_the_wrapper_is_seen(pooled: Pooled, run_on_each: Run) -> None:
    pool = pooled(max_size=3)

    def look() -> tuple[int, Any]:
        return backend(), getattr(connection, "tenant", None)

    async def request(name: str | None) -> None:
        async with ThreadSensitiveContext():
            if name is not None:
                await sync_to_async(setattr)(connection, "tenant", name)
            found = await asyncio.gather(*(bridged(look)() for _ in range(3)))
            assert {tenant for _, tenant in found} == {name}
            async with aatomic():
                assert (await bridged(look)())[1] == name

    async def main() -> None:
        await asyncio.gather(*(asyncio.create_task(request(name)) for name in ("a", "b", None)))
        assert pool.stats().used == 0

    run_on_each(main)


def test_a_wrapper_in_use_by_a_thread_is_not_shared_for_that(
    pooled: Pooled, run_on_each: Run
) -> None:
    pooled(max_size=3)
    inside, go = threading.Event(), threading.Event()

    def work() -> int:
        list(Item.objects.iterator())
        connection.ensure_connection()
        with transaction.atomic():
            create("uncommitted")
            inside.set()
            assert go.wait(PATIENCE)
            pid = backend()
            transaction.set_rollback(True)
        return pid

    async def main() -> None:
        inside.clear()
        go.clear()
        await sync_to_async(backend)()
        task = asyncio.create_task(sync_to_async(work)())
        await until(inside.is_set)
        assert await bridged(count)() == 0
        pids = await asyncio.gather(apid(), apid())
        go.set()
        assert await task not in pids

    run_on_each(main)


# -- apinned()


def test_a_pinned_block_has_one_session(pooled: Pooled, run_on_each: Run) -> None:
    pool = pooled(max_size=2)

    async def main() -> None:
        async with asyncio.timeout(PATIENCE), apinned():
            await ascalar("CREATE TEMP TABLE pinned (n int)")
            pids = await asyncio.gather(*(apid() for _ in range(5)), asyncio.to_thread(backend))
            assert len({*pids}) == 1
            async with aatomic():
                await ascalar("INSERT INTO pinned VALUES (1)")
                async with apinned():
                    assert await ascalar("SELECT count(*) FROM pinned") == 1
            assert await apid() == pids[0]
            assert pool.stats().used == 1
        assert pool.stats().used == 0
        assert await ascalar("SELECT to_regclass('pinned')") is None

    run_on_each(main)


# -- Django's test cases


class InTestCase(TestCase):
    """Is run by a test below."""

    __test__ = False

    @classmethod
    def setUpTestData(cls) -> None:
        """Fill the table."""
        fill(3)

    async def test_fixtures_are_seen(self) -> None:
        """Each call is in the transaction of the class."""
        assert await bridged(count)() == 3
        await bridged(create)("more")
        assert {*await asyncio.gather(bridged(count)(), bridged(count)())} == {4}
        async with aatomic():
            await bridged(create)("another")
            transaction.set_rollback(True)
        assert await bridged(count)() == 4

    test_fixtures_are_seen_again = test_fixtures_are_seen


class InTransactionTestCase(TransactionTestCase):
    """Is run by a test below."""

    __test__ = False

    async def test_calls_are_parallel(self) -> None:
        """No block is around them, and the refusals of other cases are gone."""
        await bridged(create)("row")
        await asyncio.gather(apid(), apid())
        assert await bridged(lambda: connection.blocks)() == 0

    def test_statements_of_a_call_are_counted(self) -> None:
        """By whoever calls it."""
        with self.assertNumQueries(2):
            async_to_sync(apid)()
            async_to_sync(apid)()


class WithoutDatabase(TestCase):
    """Is run by a test below."""

    __test__ = False

    databases = set()  # noqa: RUF012

    async def test_it_is_refused(self) -> None:
        """As in synchronous tests."""
        with self.assertRaisesMessage(Exception, "to 'default' are not allowed in this test"):
            await apid()


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_djangos_test_cases_are_as_isolated_as_ever(pooled: Pooled, mode: str) -> None:
    pool = pooled(mode=mode)
    suite = unittest.TestSuite(
        unittest.defaultTestLoader.loadTestsFromTestCase(case)
        for case in (InTestCase, InTransactionTestCase, WithoutDatabase)
    )
    result = unittest.TestResult()
    suite.run(result)
    problems = [text for _, text in result.errors + result.failures]
    assert not problems, "\n".join(problems)
    assert result.testsRun == 5
    connection.close()
    assert count() == 0
    assert carrying.node_of("default", own.of_context("default")) is None
    connection.close()
    assert pool.stats().used == 0


# -- installation


def test_the_names_are_given_back(pooled: Pooled) -> None:
    pooled()
    needed.uninstall()
    try:
        plain = [getattr(each.owner, each.attribute) for each in needed.NEEDED]
        needed.install()
        needed.install()
        ours = [getattr(each.owner, each.attribute) for each in needed.NEEDED]
        assert all(new is not old for new, old in zip(ours, plain, strict=True))
        needed.uninstall()
        again = [getattr(each.owner, each.attribute) for each in needed.NEEDED]
        assert all(new is old for new, old in zip(again, plain, strict=True))
    finally:
        needed.install()
    assert asyncio.run(apid()) > 0


def test_a_missing_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    needed.uninstall()
    try:
        with monkeypatch.context() as patch:
            patch.delattr("django.utils.asyncio.get_running_loop")
            assert needed.missing() == ["django.utils.asyncio.get_running_loop"]
            with pytest.raises(RuntimeError, match=r"has no django\.utils\.asyncio\.get_running"):
                needed.install()
    finally:
        needed.install()
