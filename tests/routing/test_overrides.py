"""`use_primary()` and `use_replica()`: nested, decorated, and restored after exceptions."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from django_poolkit.routing import overrides, scope, use_primary, use_replica
from tests.app.models import Item
from tests.routing.conftest import looped, seen

pytestmark = pytest.mark.core


def role() -> str | None:
    return overrides.role_of("default")


def test_the_innermost_counts_and_each_end_restores_what_was(paused):
    with use_primary():
        with use_replica():
            with use_primary():
                assert role() == "primary"
            assert role() == "replica"
        assert role() == "primary"
    assert role() is None


@pytest.mark.parametrize("depth", range(4))
def test_exceptions_restore_it_exactly(depth):
    blocks = [use_primary(), use_replica(), use_primary(), use_replica()]
    expected = ["primary", "replica", "primary", "replica"]

    def enter(level: int) -> None:
        with blocks[level]:
            assert role() == expected[level]
            if level == depth:
                raise RuntimeError
            try:
                enter(level + 1)
            finally:
                assert role() == expected[level]

    with pytest.raises(RuntimeError):
        enter(0)
    assert role() is None


def test_a_block_speaks_of_one_cluster_or_of_all():
    with use_replica("default"), use_primary("ts"):
        assert overrides.role_of("default") == "replica"
        assert overrides.role_of("ts") == "primary"
        assert overrides.role_of("third") is None
        with use_primary():
            assert {overrides.role_of(name) for name in ("default", "ts", "third")} == {"primary"}


def test_one_block_may_be_shared_by_threads_and_entered_twice():
    shared = use_primary()
    with shared:
        with shared:
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(role).result() is None
            assert role() == "primary"
        assert role() == "primary"
    assert role() is None


def test_the_caller_has_the_last_word(paused):
    with scope():
        Item.objects.create(name="new")
        with use_replica():
            assert seen() == {"old"}
        assert seen() == {"old", "new"}


def test_writes_and_locks_go_to_the_primary_as_ever(paused):
    with scope(), use_replica():
        assert Item.objects.create(name="new")._state.db == "default"
        assert Item.objects.select_for_update().db == "default"


def test_functions_are_decorated():
    @use_primary()
    def plain(first: int, *, second: int) -> tuple[str | None, int]:
        """Plain."""
        return role(), first + second

    @use_replica("default")
    async def coroutine() -> str | None:
        await asyncio.sleep(0)
        return role()

    assert plain(1, second=2) == ("primary", 3)
    assert (plain.__name__, plain.__doc__) == ("plain", "Plain.")
    assert asyncio.iscoroutinefunction(coroutine)
    assert asyncio.run(coroutine()) == "replica"
    assert role() is None
    with pytest.raises(TypeError, match="yields"):

        @use_primary()
        def generated():
            yield


@looped
async def test_tasks_do_not_share_what_they_enter():
    entered, left = asyncio.Event(), asyncio.Event()

    async def inner() -> None:
        with use_replica():
            entered.set()
            await left.wait()
            assert role() == "replica"

    with use_primary():
        task = asyncio.create_task(inner())
        await entered.wait()
        assert role() == "primary"
        left.set()
        await task
        assert role() == "primary"


def test_blocks_that_end_in_another_order_leave_nothing_behind():
    def generated():
        with use_primary():
            yield role()

    generator = generated()
    assert next(generator) == "primary"
    with use_replica():
        assert list(generator) == []
        assert role() == "replica"
    assert role() is None


@looped
async def test_a_block_that_a_finalizer_ends_elsewhere_ends_none_there():
    async def generated():
        with use_replica():
            yield

    async def begin() -> object:
        generator = generated()
        await anext(generator)
        return generator

    generator = await asyncio.create_task(begin())
    with use_primary():
        await generator.aclose()  # type: ignore[attr-defined]
        assert role() == "primary"
    assert role() is None
