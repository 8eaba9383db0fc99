"""Within a scope nobody reads before its own write, on whatever thread or task that was."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connection, connections, transaction

from django_poolkit.backends.request import RequestScope, entered
from django_poolkit.routing import choice, scope, scopes
from tests.app.models import Item
from tests.routing.conftest import alias_of, in_thread, looped, seen


def write(name: str) -> None:
    Item.objects.create(name=name)


def pinned() -> AbstractContextManager[None]:
    wrapper: Any = connection
    block: AbstractContextManager[None] = wrapper.pinned()
    return block


def test_a_plain_read_goes_to_the_replica_and_a_write_to_the_primary(routed):
    item = Item.objects.create(name="new")
    assert item._state.db == "default"
    routed.primary.wait_caught_up(routed.replicas[0])
    with scope():
        assert Item.objects.get()._state.db == "replica"


def test_a_scope_reads_the_primary_once_it_has_written(paused):
    with scope():
        assert seen() == {"old"}
        assert alias_of() == "replica"
        write("new")
        assert seen() == {"old", "new"}
    with scope():
        assert seen() == {"old"}  # whoever did not write it need not see it


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO app_item (name, created) VALUES ('new', now())",
        "WITH new AS (INSERT INTO app_item (name, created) VALUES ('new', now())) SELECT 1",
        "DO $$BEGIN INSERT INTO app_item (name, created) VALUES ('new', now()); END$$",
        "COPY app_item (name, created) FROM PROGRAM 'echo new,2026-01-01' (FORMAT csv)",
    ],
)
def test_a_raw_cursor_counts(paused, statement):
    with scope():
        with connection.cursor() as cursor:
            cursor.execute(statement)
        assert seen() == {"old", "new"}


def test_the_same_write_counts_in_each_scope(paused):
    # What is known of a statement, or of a lease, must not hide the next of its kind.
    for name in ("one", "two", "three"):
        with scope(), pinned():
            assert alias_of() == "replica"
            write(name)
            assert alias_of() == "default"
    with pinned():
        for name in ("four", "five"):
            with scope():
                assert alias_of() == "replica"
                write(name)
                assert alias_of() == "default"


def test_a_read_on_the_primary_is_no_write(paused):
    with scope():
        list(Item.objects.using("default"))
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM app_item")
        with transaction.atomic():
            list(Item.objects.all())
        assert alias_of() == "replica"


def test_a_transaction_reads_what_it_has_begun_on(paused):
    with scope():
        with transaction.atomic():
            assert alias_of() == "default"
        assert alias_of() == "replica"


def test_a_transaction_by_hand_is_one(paused):
    with scope():
        transaction.set_autocommit(False)
        try:
            assert not connection.in_atomic_block
            assert alias_of() == "default"
        finally:
            transaction.rollback()
            transaction.set_autocommit(True)
        assert alias_of() == "replica"


def test_a_transaction_of_a_replica_holds_nobody_on_the_primary(paused):
    with scope(), transaction.atomic(using="replica"):
        assert alias_of() == "replica"


def test_the_transaction_of_a_test_case_does_not_count(paused):
    block = transaction.atomic()
    setattr(block, "_from_testcase", True)  # noqa: B010
    with scope(), block:
        assert alias_of() == "replica"
        with transaction.atomic():
            assert alias_of() == "default"


def test_a_hook_on_commit_reads_what_was_committed(paused):
    found = []
    with scope():
        with transaction.atomic():
            write("new")
            transaction.on_commit(lambda: found.append(seen()))
        assert found == [{"old", "new"}]


def test_a_write_that_failed_half_way_still_counts(paused):
    with scope():
        with pytest.raises(RuntimeError), transaction.atomic():
            write("new")
            raise RuntimeError
        assert alias_of() == "default"


def test_locking_reads_go_to_the_primary(paused):
    with scope(), transaction.atomic():
        assert Item.objects.select_for_update().get()._state.db == "default"


# -- one scope, many threads and tasks


@looped
async def test_what_a_gathered_task_has_written_is_read_by_its_parent(paused):
    async def reader() -> set[str]:
        return await sync_to_async(seen)()

    async def writer() -> None:
        await Item.objects.acreate(name="new")

    async def unrelated() -> set[str]:
        with scope():
            await both_began.wait()
            await written.wait()
            return await sync_to_async(seen)()

    both_began, written = asyncio.Event(), asyncio.Event()
    stranger = asyncio.create_task(unrelated())
    with scope():
        await asyncio.gather(writer(), reader())
        both_began.set()
        written.set()
        assert await reader() == {"old", "new"}
        assert {item.name async for item in Item.objects.all()} == {"old", "new"}
    assert await stranger == {"old"}


@looped
async def test_what_a_thread_of_sync_to_async_has_written_is_known(paused):
    with scope():
        await sync_to_async(run_and_close, thread_sensitive=False)(write, "new")
        assert await asyncio.to_thread(run_and_close, seen) == {"old", "new"}


def run_and_close(function, *args):
    try:
        return function(*args)
    finally:
        connections.close_all()


def test_a_thread_of_a_pool_joins_by_a_copy_of_the_context(paused):
    with scope(), ThreadPoolExecutor(1) as pool:
        pool.submit(contextvars.copy_context().run, write, "new").result()
        assert seen() == {"old", "new"}
        pool.submit(connections.close_all).result()


def test_a_bare_thread_is_no_part_of_the_scope(paused):
    with scope():
        write("new")
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(alias_of).result() == "replica"
        assert alias_of() == "default"


def test_threads_of_one_request_share_one_scope(monkeypatch):
    # Both find that there is none, and make one.
    request = RequestScope()
    both_make_one = threading.Barrier(2)

    class Slow(scopes.Scope):
        def __init__(self, **kwargs: bool) -> None:
            super().__init__(**kwargs)
            both_make_one.wait(timeout=10)

    monkeypatch.setattr(scopes, "Scope", Slow)

    def look() -> scopes.Scope | None:
        with entered(request):
            return scopes.current()

    with ThreadPoolExecutor(2) as pool:
        one, other = [pool.submit(look) for _ in range(2)]
    assert one.result() is other.result() is look()


# -- where scopes begin and end


def test_a_scope_in_a_scope_joins_it(paused):
    with scope() as outer:
        with scope() as inner:
            assert inner is outer
            write("new")
        assert not outer.over
        assert alias_of() == "default"
    assert outer.over


def test_one_block_may_be_shared_and_nested(paused):
    shared = scope()
    with shared as outer:
        with shared as inner:
            assert inner is outer
        assert scopes.current() is outer
        assert not outer.over
    assert scopes.current() is None


def test_a_scope_ends_with_an_exception(paused):
    with pytest.raises(RuntimeError), scope():
        write("new")
        raise RuntimeError
    with scope():
        assert alias_of() == "replica"


def test_a_request_has_one_that_a_scope_joins(paused):
    with entered(RequestScope(method="GET")):
        with scope() as first:
            write("new")
        assert alias_of() == "default"
        with scope() as second:  # the end of the first was none of the request
            assert alias_of() == "default"
        assert second is first
    with entered(RequestScope(method="GET")):
        assert alias_of() == "replica"


def test_a_scope_around_a_server_is_none_of_its_requests(paused):
    with scope() as outer:
        write("new")
        with entered(RequestScope(method="GET")):
            assert alias_of() == "replica"
            write("newer")
            with scope():
                assert alias_of() == "default"
        assert scopes.current() is outer


def test_what_goes_on_after_a_request_is_no_part_of_it(paused):
    request = RequestScope(method="GET")
    with entered(request):
        write("new")
        request.over = True
        with scope() as later:
            assert later is not request.routing["scope"]
            assert alias_of() == "replica"


@looped
async def test_a_task_that_outlives_its_scope_opens_one_of_its_own(paused):
    ended = asyncio.Event()

    async def outlives() -> tuple[str, str]:
        await ended.wait()
        before = alias_of()
        with scope():
            return before, alias_of()

    with scope():
        await Item.objects.acreate(name="new")
        task = asyncio.create_task(outlives())
    ended.set()
    assert await task == ("default", "replica")


@looped
async def test_a_finalizer_in_another_context_takes_nothing_from_it(paused):
    async def suspended():
        with scope():
            yield

    async def begin() -> object:
        generator = suspended()
        await anext(generator)
        return generator

    generator = await asyncio.create_task(begin())
    with scope() as mine:
        await generator.aclose()  # type: ignore[attr-defined]
        del generator
        gc.collect()
        assert scopes.current() is mine
        assert not mine.over


def test_functions_and_coroutine_functions_are_decorated(paused):
    @scope()
    def job() -> str:
        """A job."""
        write("new")
        return alias_of()

    @scope()
    async def coroutine_job() -> bool:
        return scopes.current() is not None

    assert (job(), job.__doc__) == ("default", "A job.")
    assert asyncio.run(coroutine_job())
    assert scopes.current() is None


def test_a_generator_function_is_refused():
    with pytest.raises(TypeError, match=r"generated yields.*use `with` inside"):

        @scope()
        def generated():
            yield

    with pytest.raises(TypeError, match="yields"):

        @scope()
        async def agenerated():
            yield


# -- where there is none


def test_a_thread_without_scope_reads_the_primary_for_a_while_after_a_write(paused, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(scopes, "monotonic", lambda: now)

    def work() -> list[str]:
        nonlocal now
        found = [alias_of()]
        write("new")
        found.append(alias_of())
        now += scopes.OUTSIDE_PIN - 0.1
        found.append(alias_of())
        now += 0.2
        found.append(alias_of())
        connections.close_all()
        return found

    # In a thread of its own, as the pin is its thread's.
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(work).result() == ["replica", "default", "default", "replica"]
    assert alias_of() == "replica"


@pytest.mark.parametrize("atomic", [True, False], ids=["transaction", "statement"])
def test_that_while_begins_when_what_was_written_can_be_seen(paused, monkeypatch, atomic):
    now = 1000.0
    monkeypatch.setattr(scopes, "monotonic", lambda: now)

    def slowly(execute: Any, *args: Any) -> Any:
        nonlocal now
        result = execute(*args)
        now += 2 * scopes.OUTSIDE_PIN
        return result

    def work() -> list[str]:
        with connection.execute_wrapper(slowly):
            if atomic:
                with transaction.atomic():
                    write("new")
            else:
                write("new")
        found = [alias_of()]
        nonlocal now
        now += scopes.OUTSIDE_PIN - 0.1
        found.append(alias_of())
        now += 0.2
        return [*found, alias_of()]

    assert in_thread(work) == ["default", "default", "replica"]


def test_a_replica_is_of_no_use_also_where_all_would_do_meanwhile():
    with scope() as here:
        scopes.unsettle(here, "default", "replica")  # another thread has just let go of the floor
        assert not here.settled


def test_a_job_without_scope_does_not_read_the_pin_of_another_scope(paused):
    def work() -> tuple[str, str]:
        write("new")
        with scope():
            inside = alias_of()
        connections.close_all()
        return alias_of(), inside

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(work).result() == ("default", "replica")


def test_the_router_makes_no_wrapper_and_no_connection(routed):
    def work() -> list[bool]:
        with scope():
            assert alias_of() == "replica"
        return [hasattr(connections._connections, a) for a in ("default", "replica")]  # type: ignore[attr-defined]

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(work).result() == [False, False]
    assert not choice.in_transaction("default")
