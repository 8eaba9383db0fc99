"""A deadline through Django: in both modes, in and around blocks, and in async code."""

from __future__ import annotations

import asyncio
import time

import pytest
from asgiref.sync import sync_to_async
from django.db import DatabaseError, OperationalError, connections, transaction

import django_poolkit
from django_poolkit import DeadlineExceeded, deadline
from tests.app.models import Item
from tests.backends.transaction_mode.support import backend, create, scalar, used

SHORT = 0.2
MODES = pytest.mark.parametrize("mode", ["session", "transaction"])

pytestmark = pytest.mark.django_db(transaction=True)


def run_out(left: django_poolkit.Deadline) -> None:
    while left.left():
        time.sleep(0.01)


@pytest.mark.core
@MODES
def test_a_statement_is_ended_and_its_connection_goes_on(pooled, mode):
    pool = pooled(mode=mode, max_size=1)
    before = backend()
    with pytest.raises(OperationalError) as caught, deadline(SHORT):
        scalar("SELECT pg_sleep(30)")
    assert isinstance(caught.value, DeadlineExceeded)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.waited_for == "a statement (SELECT)"
    assert used(pool) == (mode == "session")
    assert backend() == before


@MODES
def test_a_block_is_rolled_back(pooled, mode):
    pooled(mode=mode)
    with pytest.raises(DeadlineExceeded), deadline(SHORT), transaction.atomic():
        create("lost")
        scalar("SELECT pg_sleep(30)")
    assert not Item.objects.exists()


@MODES
def test_a_block_that_is_late_is_not_committed(pooled, mode):
    pooled(mode=mode)
    with (
        pytest.raises(DeadlineExceeded, match="COMMIT"),
        deadline(SHORT) as here,
        transaction.atomic(),
    ):
        create("lost")
        run_out(here)
    assert not Item.objects.exists()
    create("kept")
    assert [item.name for item in Item.objects.all()] == ["kept"]


@MODES
def test_an_inner_block_is_undone_and_the_outer_goes_on(pooled, mode):
    pooled(mode=mode)
    with transaction.atomic():
        create("kept")
        with pytest.raises(DatabaseError), deadline(SHORT), transaction.atomic():
            create("lost")
            scalar("SELECT pg_sleep(30)")
        create("kept as well")
    assert [item.name for item in Item.objects.order_by("id")] == ["kept", "kept as well"]


@MODES
def test_an_acquire_and_its_statement_share_one_deadline(pooled, neighbour, mode):
    pool = pooled(mode=mode, max_size=1)
    neighbour.begins()
    started = time.monotonic()
    with pytest.raises(django_poolkit.PoolTimeout) as caught, deadline(SHORT):
        scalar("SELECT 1")
    assert caught.value.deadline == SHORT
    assert time.monotonic() - started < 3 * SHORT + pool.timeout / 2
    neighbour.rolls_back()
    neighbour.does(connections.close_all)
    assert scalar("SELECT 1") == 1


@MODES
def test_an_iterator_ends_in_its_middle(pooled, mode):
    pool = pooled(mode=mode)
    Item.objects.bulk_create(Item(name=str(number)) for number in range(50))
    seen = []
    with pytest.raises(DeadlineExceeded), deadline(SHORT) as here:
        for item in Item.objects.iterator(chunk_size=10):
            seen.append(item)
            if len(seen) == 10:
                run_out(here)
    assert len(seen) == 10
    assert used(pool) == (mode == "session")
    assert Item.objects.count() == 50


@MODES
def test_a_coroutine_has_its_deadline_in_the_threads_of_the_orm(pooled, mode):
    pooled(mode=mode)

    @deadline(SHORT)
    async def view() -> object:
        await Item.objects.acount()
        return await Item.objects.extra(where=["pg_sleep(30) IS NOT NULL"]).acount()

    async def request() -> object:
        with pytest.raises(DeadlineExceeded):
            await view()
        count = await Item.objects.acount()
        await sync_to_async(connections.close_all)()
        return count

    create("one")
    assert asyncio.run(request()) == 1


def test_nothing_but_its_error_is_another(pooled):
    pooled()
    with pytest.raises(DatabaseError) as caught, deadline(60.0):
        scalar("SELECT 1 / 0")
    assert not isinstance(caught.value, DeadlineExceeded)


@MODES
def test_an_inner_block_that_is_late_is_undone(pooled, mode):
    pooled(mode=mode)
    with transaction.atomic():
        with pytest.raises(DeadlineExceeded), deadline(SHORT) as here, transaction.atomic():
            create("lost")
            run_out(here)
        create("kept")
    assert [item.name for item in Item.objects.all()] == ["kept"]
