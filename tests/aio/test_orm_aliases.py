"""Aliases that no loop can wait for: their calls go to threads, and never block the loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.contrib.auth.models import Group, User
from django.contrib.contenttypes.prefetch import GenericPrefetch
from django.db import connection, connections
from django.db.models import Prefetch
from django.db.models.query import prefetch_related_objects
from django.db.models.signals import post_save
from django.test import override_settings

from django_poolkit.aio import placing
from django_poolkit.aio.placing import Placing
from tests.aio.hops import counted
from tests.aio.orm_support import on_loop
from tests.app.models import Item

pytestmark = [pytest.mark.core, pytest.mark.django_db(transaction=True)]

LEGACY = Placing(["legacy"])


class Routes:
    """Sends groups to the other alias, to read or to write."""

    def __init__(self, *, read: str | None = None, write: str | None = None) -> None:
        self.read, self.write = read, write
        self.hints: list[dict[str, Any]] = []

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        self.hints.append(hints)
        return self.read if model is Group else None

    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        return self.write if model is Group else None


def placed(function: Any, *args: Any, **kwargs: Any) -> bool:
    return LEGACY.on_loop(function, args, kwargs)


def test_an_alias_that_is_named_decides() -> None:
    assert placed(Item.objects.using("default").get)
    assert not placed(Item.objects.using("legacy").get)
    assert not placed(Item.objects.db_manager("legacy").create)
    raw: Any = Item.objects.using("legacy").raw("SELECT 1")
    assert not placed(raw._fetch_all)
    assert not placed(Item().save, using="legacy")
    assert not placed(Item().refresh_from_db, from_queryset=Item.objects.using("legacy"))


def test_an_instance_decides_for_itself() -> None:
    item = Item(pk=1)
    assert placed(item.save)
    item._state.db = "legacy"
    assert not placed(item.save)
    assert not placed(item.delete)
    assert not placed(item.refresh_from_db)
    assert placed(item.save, using="default")
    assert not placed(prefetch_related_objects, [item], "x")
    user = User(pk=1)
    user._state.db = "legacy"
    assert not placed(user.groups.add)


@pytest.mark.parametrize("way", ["read", "write"])
def test_a_router_decides_where_nothing_is_named(way: str) -> None:
    routes = Routes(**{way: "legacy"})
    with override_settings(DATABASE_ROUTERS=[routes]):
        assert not placed(Group.objects.get_or_create)
        assert not placed(Group().save)
        assert placed(Item.objects.get)
        assert placed(Group.objects.using("default").get)


def test_routers_are_not_asked_where_all_aliases_run_on_the_loop() -> None:
    routes = Routes(read="legacy")
    with override_settings(DATABASE_ROUTERS=[routes]):
        assert Placing(()).on_loop(Group.objects.get, (), {})
    assert routes.hints == []


def test_what_prefetching_names_decides_too() -> None:
    there = Group.objects.using("legacy")
    assert not placed(User.objects.prefetch_related(Prefetch("groups", there))._fetch_all)
    nested = Group.objects.prefetch_related(Prefetch("permissions", there))
    assert not placed(User.objects.prefetch_related(Prefetch("groups", nested))._fetch_all)
    assert placed(User.objects.prefetch_related(Prefetch("groups", Group.objects.all())).get)
    assert not placed(prefetch_related_objects, [], Prefetch("groups", there))
    generic = GenericPrefetch("content_object", [Item.objects.all(), there])
    assert not placed(prefetch_related_objects, [], generic)


def test_which_aliases_a_loop_can_wait_for() -> None:
    entry = connections.settings["default"]
    assert placing.serves("default", entry)
    assert placing.unserved() == []
    for options in ({"pool": False}, {"pool": {"max_sise": 1}}):
        assert not placing.serves("default", {**entry, "OPTIONS": options})
    for engine in ("django.db.backends.sqlite3", "django.db.backends.postgresql", "no.such"):
        assert not placing.serves("default", {**entry, "ENGINE": engine})


@pytest.fixture
def legacy(tmp_path: Path) -> Iterator[str]:
    """Another alias: SQLite, in a file, with the table of items."""
    entry = connections.configure_settings(
        {
            "default": {},
            "legacy": {"ENGINE": "tests.aio.legacy", "NAME": str(tmp_path / "legacy")},
        }
    )["legacy"]
    connections.settings["legacy"] = entry
    try:
        with connections["legacy"].schema_editor() as editor:
            editor.create_model(Item)
        connection.close()
        yield "legacy"
    finally:
        connections["legacy"].close()
        del connections["legacy"]
        del connections.settings["legacy"]


async def both() -> tuple[int, int, list[str]]:
    async with ThreadSensitiveContext():
        await Item.objects.using("legacy").acreate(name="old")
        there = await Item.objects.using("legacy").acount()
        names = [each.name async for each in Item.objects.using("legacy").aiterator(chunk_size=1)]
        here = await Item.objects.acount()
        await sync_to_async(connections.close_all)()
    return here, there, names


def test_each_alias_is_asked_where_it_belongs(legacy: str) -> None:
    with on_loop(thread_aliases=(legacy,)), counted() as hops:
        assert asyncio.run(both()) == (0, 1, ["old"])
    assert hops[:2] == ["QuerySet.create", "QuerySet.count"]
    assert hops.count("QuerySet.count") == 1  # the one of `default` needed none
    assert any("next_slice" in hop for hop in hops)


def test_an_engine_of_others_needs_not_be_named_to_stay_on_threads(legacy: str) -> None:
    with on_loop(), counted() as hops:
        assert asyncio.run(both()) == (0, 1, ["old"])
    assert "QuerySet.create" in hops


def test_an_alias_of_ours_that_is_named_stays_on_threads() -> None:
    async def count() -> int:
        async with ThreadSensitiveContext():
            number = await Item.objects.acount()
            await sync_to_async(connections.close_all)()
        return number

    connection.close()
    with on_loop(thread_aliases=("default",)), counted() as hops:
        assert asyncio.run(count()) == 0
    assert "QuerySet.count" in hops


def test_a_receiver_that_reaches_such_an_alias_is_refused_and_blocks_nothing(legacy: str) -> None:
    threads = []

    def receive(instance: Item, using: str, **kwargs: Any) -> None:
        if using == "default":
            threads.append(threading.get_ident())
            Item.objects.using("legacy").create(name="copy")

    async def write() -> None:
        with pytest.raises(RuntimeError, match="'legacy' has no pool of django_poolkit"):
            await Item.objects.acreate(name="a")

    post_save.connect(receive, sender=Item)
    try:
        with on_loop():
            asyncio.run(write())
    finally:
        post_save.disconnect(receive, sender=Item)
    assert threads == [threading.get_ident()]
    assert not Item.objects.using("legacy").exists()
