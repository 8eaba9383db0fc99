"""What a job sees of what was written where it was asked for, by `carry()` and `scope(token=)`."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.management.base import BaseCommand
from django.db import connections, transaction

from django_poolkit.routing import acarry, carry, jobs, positions, scope, scopes
from django_poolkit.routing.floors import Floor
from django_poolkit.routing.token import seal, unseal
from django_poolkit.testing.routing import record_routing
from tests.app.models import Item
from tests.routing.conftest import alias_of, looped, seen, written

pytestmark = pytest.mark.core


def test_a_job_sees_what_was_written_where_it_was_asked_for(paused):
    token = written()
    with scope(token):
        assert alias_of() == "default"
        assert seen() == {"old", "new"}
    with scope():
        assert seen() == {"old"}
    with scope(token="nothing"):
        assert seen() == {"old"}


@looped
async def test_the_same_for_coroutines(paused):
    async with scope() as here:
        assert scopes.current() is here
        await Item.objects.acreate(name="new")
        token = await acarry()
    assert scopes.current() is None
    async with scope(token):
        assert await sync_to_async(alias_of)() == "default"
    async with scope():
        assert await sync_to_async(alias_of)() == "replica"


@looped
@pytest.mark.parametrize("form", ["block", "decorator"])
async def test_a_coroutine_that_waits_holds_up_nobody_else(paused, settings, monkeypatch, form):
    monkeypatch.setattr(positions, "_PATIENCE", 20.0)
    await sync_to_async(configure)(settings, WAIT=20.0)
    token = await sync_to_async(written)()

    async def block() -> str:
        async with scope(token):
            return await sync_to_async(alias_of)()

    @scope(token)
    async def decorator() -> str:
        return await sync_to_async(alias_of)()

    waits = asyncio.create_task({"block": block, "decorator": decorator}[form]())
    for _ in range(10):
        await asyncio.sleep(0.001)
    assert not waits.done()
    # Somebody else has to get it what it waits for.
    await asyncio.to_thread(paused.replicas[0].resume_replay)
    assert await waits == "replica"


def configure(settings: Any, **routing: Any) -> None:
    settings.POOLKIT = {**settings.POOLKIT, "ROUTING": routing}


def test_where_nothing_was_written_there_is_nothing_to_carry(paused):
    assert carry() is None
    with scope():
        assert seen() == {"old"}
        list(Item.objects.using("default"))
        assert carry() is None


def test_without_a_scope_its_thread_is_held_to_the_primary_and_so_is_the_job(paused):
    def work() -> str | None:
        Item.objects.create(name="new")
        token = carry()
        connections.close_all()
        return token

    with ThreadPoolExecutor(1) as pool:
        token = pool.submit(work).result()
    assert token is not None
    [floor] = unseal(token).values()
    assert floor.position is None
    assert time.time() < floor.expires <= time.time() + scopes.OUTSIDE_PIN
    with scope(token):
        assert alias_of() == "default"


def test_what_is_carried_goes_on_to_the_jobs_of_a_job(paused):
    token = written()
    with scope(token):
        again = carry()
    assert again is not None
    assert unseal(again).keys() == {"default"}
    with scope(again):
        assert alias_of() == "default"


def test_a_job_that_is_asked_for_before_the_commit_reads_the_primary(paused):
    # Its position would be one before the commit; so it is held there for a while.
    with scope(), transaction.atomic():
        Item.objects.create(name="new")
        token = carry()
    assert token is not None
    [floor] = unseal(token).values()
    assert floor.position is None
    with scope(token):
        assert seen() == {"old", "new"}


def test_a_hook_on_commit_carries_what_was_committed(paused):
    found: list[str | None] = []
    with scope():
        with transaction.atomic():
            Item.objects.create(name="new")
            transaction.on_commit(lambda: found.append(carry()))
        [token] = found
    assert token is not None
    [floor] = unseal(token).values()
    assert floor.position is not None
    with scope(token):
        assert seen() == {"old", "new"}


def test_within_another_scope_it_is_seen_there(paused):
    token = written()
    with scope() as outer:
        assert alias_of() == "replica"
        with scope(token) as inner:
            assert inner is outer
            assert alias_of() == "default"


def test_a_command_that_runs_jobs_gives_each_a_scope_of_its_own(paused):
    token = written()
    found: list[str] = []

    class Command(BaseCommand):
        def handle(self, *args: Any, **options: Any) -> None:
            for each in (token, None):
                with scope(each):
                    found.append(alias_of())

    with scopes.CommandBlock():
        Command().handle()
    assert found == ["default", "replica"]


def test_what_goes_wrong_while_it_waits_leaves_no_scope_open(paused, monkeypatch):
    def interrupted(here: object) -> None:
        raise KeyboardInterrupt

    async def cancelled(here: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(jobs, "settle", interrupted)
    monkeypatch.setattr(jobs, "asettle", cancelled)
    token = written()
    with pytest.raises(KeyboardInterrupt), scope(token):
        pytest.fail("entered")
    assert scopes.current() is None

    async def job() -> None:
        try:
            async with scope(token):
                pytest.fail("entered")
        finally:
            assert scopes.current() is None

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(job())


def test_threads_may_share_a_token(paused):
    token = written()
    both = threading.Barrier(2)

    def job() -> str:
        with scope(token):
            both.wait(timeout=10)
            return alias_of()

    with ThreadPoolExecutor(2) as pool:
        assert [each.result() for each in [pool.submit(job) for _ in range(2)]] == ["default"] * 2


def test_where_all_runs_on_one_database_nothing_is_carried(paused, monkeypatch):
    token = written()
    for name in ("settle", "outgoing"):
        monkeypatch.setattr(jobs, name, pytest.fail)
    with record_routing() as log, scope(token):
        assert alias_of() == "default"
        assert carry() is None
        assert asyncio.run(acarry()) is None
    assert [each.reason for each in log.decisions] == ["read"]


def test_a_token_of_another_cluster_holds_nobody(paused):
    with scope(seal({"other": Floor(None, time.time() + 10)})):
        assert alias_of() == "replica"
