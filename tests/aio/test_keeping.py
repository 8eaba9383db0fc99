"""Wrappers that go from call to call: to nobody while somebody has hold of them, and as new."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql.base import DatabaseWrapper

from django_poolkit.aio import bridged, keeping
from django_poolkit.backends.request import RequestScope, entered
from tests.aio.support import Pooled, Run, acreate, apid, ascalar
from tests.app.models import Item

pytestmark = pytest.mark.core


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "_here", keeping._Here())


def number() -> int:
    """Return what tells a call's wrapper from others, and keep hold of nothing."""
    return id(connections["default"])


anumber = bridged(number)


def test_the_next_call_has_the_wrapper_of_the_one_before(pooled: Pooled, run_on_each: Run) -> None:
    pooled()

    async def main() -> None:
        await acreate("a")
        first = await anumber()
        assert await Item.objects.aget(name="a") is not None
        assert await anumber() == first
        with pytest.raises(Item.DoesNotExist):
            await Item.objects.aget(name="b")
        await ascalar("SELECT 1")
        assert len(keeping._here.wrappers["default"]) >= 1

    run_on_each(main)


def test_calls_at_once_have_a_wrapper_each(pooled: Pooled, run_on_each: Run) -> None:
    pooled(max_size=4)

    def slow() -> int:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT pg_sleep(0.05)")
        return number()

    async def main() -> None:
        for _ in range(2):
            numbers = await asyncio.gather(*(bridged(slow)() for _ in range(4)))
            assert len({*numbers}) == 4
        assert len(keeping._here.wrappers["default"]) == 4

    run_on_each(main)


def test_one_that_somebody_has_hold_of_goes_to_nobody(pooled: Pooled, run_on_each: Run) -> None:
    pooled()

    async def main() -> None:
        held = await bridged(lambda: connections["default"])()
        assert await anumber() != id(held)
        rows = await bridged(lambda: iter(Item.objects.iterator()))()
        compiled: Any = await bridged(lambda: Item.objects.all().query.get_compiler("default"))()
        assert await anumber() not in {id(held), id(compiled.connection)}
        del rows

    run_on_each(main)


def test_what_a_call_leaves_is_not_there_for_the_next(pooled: Pooled, run_on_each: Run) -> None:
    pooled()
    fresh: dict[str, Any] = {}

    def look() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        mine = connections["default"]
        parts = ("client", "creation", "features", "introspection", "ops", "validation")
        return {
            name: value if not isinstance(value, list) else [*value]
            for name, value in vars(mine).items()
            if name not in {*parts, "_kept", "_last", "wrap_database_errors"}
        }, [{**vars(getattr(mine, name)), "connection": None} for name in parts]

    def spoil() -> int:
        mine: Any = connections["default"]
        mine.autocommit = False  # and so on, all that there is to be set
        mine.force_debug_cursor, mine.commit_on_exit, mine.isolation_level = True, False, 3
        mine.allow = mine.tenant = "a"
        mine.features.supports_json_field, mine.ops.tenant = False, "a"
        mine.execute_wrappers = [lambda *args: None]
        mine.timezone_name = "Europe/Berlin"
        del mine.run_on_commit
        mine.needs_rollback = True
        return id(mine)

    async def main() -> None:
        await ascalar("SELECT 1")
        fresh["state"] = await bridged(look)()
        spoilt = await bridged(spoil)()
        assert await bridged(look)() == fresh["state"]
        assert await anumber() == spoilt

    run_on_each(main)


def test_one_that_is_opened_again_is_as_one_opened_for_the_first_time(
    pooled: Pooled, run_on_each: Run
) -> None:
    pooled()

    def opened() -> tuple[int, dict[str, Any], list[list[Any]]]:
        mine: Any = connections["default"]
        with mine.cursor() as cursor:
            cursor.execute("SELECT 1")
        lists = [mine.savepoint_ids, mine.atomic_blocks, mine.run_on_commit]
        assert lists == [[], [], []]
        state = {**vars(mine)}
        for name in ("_handed", "_last", "_on_net", "close_at", "wrap_database_errors"):
            state.pop(name, None)
        return id(mine), state, lists

    async def main() -> None:
        number, state, lists = await bridged(opened)()
        for _ in range(2):
            again, state_again, lists_again = await bridged(opened)()
            assert again == number
            assert state_again == state
            assert not any(one is other for one, other in zip(lists, lists_again, strict=True))

    run_on_each(main)


def test_it_is_opened_by_the_settings_of_the_moment(pooled: Pooled, run_on_each: Run) -> None:
    pooled()
    settings = connections.settings["default"]

    def name_of(changed: bool) -> Any:
        mine: Any = connections["default"]
        if changed:
            settings["OPTIONS"] = {**settings["OPTIONS"], "application_name": "changed"}
        with mine.cursor() as cursor:
            cursor.execute("SHOW application_name")
            (found,) = cursor.fetchone()
        if changed:
            mine.close_pool()
        return found

    async def main() -> None:
        before = settings["OPTIONS"]
        for _ in range(2):
            assert await bridged(name_of)(False) != "changed"
        try:
            assert await bridged(name_of)(True) == "changed"
        finally:
            settings["OPTIONS"] = before
        assert await bridged(name_of)(False) != "changed"

    run_on_each(main)


@pytest.mark.parametrize("owner", [BaseDatabaseWrapper, DatabaseWrapper])
def test_what_somebody_puts_in_the_place_of_djangos_is_called(
    pooled: Pooled, run_on_each: Run, monkeypatch: pytest.MonkeyPatch, owner: type[Any]
) -> None:
    pooled()
    closed: list[Any] = []
    close = BaseDatabaseWrapper.close

    def noted(self: Any) -> None:
        closed.append(self)
        close(self)

    def refuse(self: Any) -> None:
        raise RuntimeError("not in this test")

    async def main() -> None:
        for _ in range(2):
            await ascalar("SELECT 1")
        with monkeypatch.context() as patch:
            patch.setattr(owner, "ensure_connection", refuse)
            with pytest.raises(RuntimeError, match="not in this test"):
                await ascalar("SELECT 1")
        with monkeypatch.context() as patch:
            patch.setattr(owner, "close", noted)
            await ascalar("SELECT 1")
            assert len(closed) == 1
        closed.clear()
        await ascalar("SELECT 1")
        assert not closed

    run_on_each(main)


def test_what_a_call_puts_on_its_own_wrapper_refuses_and_closes(
    pooled: Pooled, run_on_each: Run
) -> None:
    pooled()
    closed: list[None] = []

    def refuse() -> None:
        raise RuntimeError("not in this test")

    def refusing() -> None:
        mine: Any = connections["default"]
        mine.ensure_connection = refuse
        mine.cursor()

    def noting() -> None:
        mine: Any = connections["default"]
        mine.close = lambda: closed.append(None)

    async def main() -> None:
        for _ in range(2):
            await ascalar("SELECT 1")
        with pytest.raises(RuntimeError, match="not in this test"):
            await bridged(refusing)()
        await bridged(noting)()
        assert len(closed) == 1
        await ascalar("SELECT 1")
        closed.clear()

    run_on_each(main)


def test_the_next_call_takes_up_the_lease_that_rests(pooled: Pooled, run_on_each: Run) -> None:
    pool = pooled()

    async def main() -> None:
        first = await apid()
        before = pool.stats().acquired
        assert [await apid() for _ in range(3)] == [first] * 3
        assert pool.stats().acquired == before + 3
        pool.close()
        assert await apid() != first  # by a pool that is not closed
        theirs: Any = connections["default"]
        theirs.close_pool()

    run_on_each(main)


def test_one_that_is_left_in_a_block_or_with_callbacks_is_not_kept(
    pooled: Pooled, run_on_each: Run
) -> None:
    pooled()

    def leave_block() -> None:
        transaction.set_autocommit(False)
        transaction.atomic().__enter__()

    def leave_list() -> None:
        mine: Any = connections["default"]
        mine.atomic_blocks.append(None)

    async def main() -> None:
        for leave in (leave_block, leave_list):
            await bridged(leave)()
            assert await bridged(lambda: connections["default"].in_atomic_block)() is False
            assert await bridged(lambda: connections["default"].atomic_blocks)() == []
        await acreate("kept")
        assert await Item.objects.filter(name="kept").acount() == 1

    run_on_each(main)


def test_what_a_later_request_does_is_none_of_an_earlier_one(
    pooled: Pooled, run_on_each: Run
) -> None:
    pooled()
    earlier, later = RequestScope(), RequestScope()

    def write() -> int:
        Item.objects.create(name="later")
        assert not earlier.may_have_committed()
        assert len(later.wrappers) == 1
        return number()

    async def main() -> None:
        with entered(earlier):
            await ascalar("SELECT 1")
            first = await anumber()
        with entered(later):
            assert await bridged(write)() == first
        assert later.may_have_committed()
        assert not earlier.may_have_committed()

    run_on_each(main)


def test_each_thread_keeps_its_own(pooled: Pooled) -> None:
    pooled(max_size=2)
    found: list[int] = []

    async def main() -> None:
        found.append(await anumber())
        assert await anumber() == found[-1]
        assert len(keeping._here.wrappers["default"]) == 1

    first = threading.Thread(target=asyncio.run, args=(main(),))
    first.start()
    first.join()
    asyncio.run(main())
    assert len(found) == 2
