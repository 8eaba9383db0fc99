"""Django's own async methods, all of them without a thread; and what stays on one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import django
import pytest
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.contrib.auth import aauthenticate
from django.contrib.auth.models import Group, Permission, User
from django.contrib.sessions.backends.db import SessionStore
from django.core.exceptions import SynchronousOnlyOperation
from django.core.paginator import Paginator
from django.db import connection, connections, models
from django.db.models import Count, Prefetch
from django.db.models.query import aprefetch_related_objects
from django.db.models.signals import post_save
from django.shortcuts import aget_list_or_404, aget_object_or_404
from django.test import modify_settings

from django_poolkit.aio import names, orm
from tests.aio.hops import counted
from tests.aio.orm_support import on_loop
from tests.app.models import Item

pytestmark = [pytest.mark.core, pytest.mark.django_db(transaction=True)]

Step = Callable[[], Awaitable[Any]]


@pytest.fixture
def loop() -> Iterator[None]:
    """Have the ORM run on the loop."""
    connection.close()
    with on_loop():
        yield


def ran(step: Callable[[], Any]) -> Any:
    """Run a coroutine function on a loop, and see that no thread was asked for anything."""
    with counted() as hops:
        result = asyncio.run(step())
    assert hops == []
    return result


def items(*names: str) -> None:
    Item.objects.bulk_create([Item(name=name) for name in names])
    connection.close()


# What an async method does, told by the objects that are there then.
async def all_names() -> list[str]:
    return [name async for name in Item.objects.order_by("name").values_list("name", flat=True)]


@pytest.mark.usefixtures("loop")
def test_what_reads() -> None:
    items("a", "b", "c")

    async def read() -> None:
        everything = Item.objects.order_by("name")
        assert (await everything.aget(name="b")).name == "b"
        assert await everything.acount() == 3
        assert await everything.aexists()
        assert not await everything.filter(name="z").aexists()
        first, last = await everything.afirst(), await everything.alast()
        assert first is not None
        assert last is not None
        assert (first.name, last.name) == ("a", "c")
        assert (await everything.aearliest("pk")).name == "a"
        assert (await everything.alatest("pk")).name == "c"
        assert (await everything.aaggregate(n=Count("pk")))["n"] == 3
        assert await everything.acontains(first)
        assert len(await everything.ain_bulk([first.pk])) == 1
        assert "Scan" in await everything.aexplain()
        assert [each.name async for each in everything] == ["a", "b", "c"]
        assert [each.name async for each in everything.aiterator(chunk_size=2)] == ["a", "b", "c"]
        assert [each.name async for each in Item.objects.raw("SELECT * FROM app_item")] != []
        assert await all_names() == ["a", "b", "c"]
        assert (await aget_object_or_404(Item, name="a")).name == "a"
        assert len(await aget_list_or_404(Item)) == 3
        with pytest.raises(Item.DoesNotExist):
            await everything.aget(name="z")

    ran(read)


@pytest.mark.usefixtures("loop")
def test_what_writes() -> None:
    async def write() -> None:
        a = await Item.objects.acreate(name="a")
        await Item.objects.abulk_create([Item(name="b"), Item(name="c")])
        _, created = await Item.objects.aget_or_create(name="a")
        assert not created
        _, created = await Item.objects.aupdate_or_create(name="d", defaults={"name": "d"})
        assert created
        a.name = "A"
        await a.asave()
        a.name = "?"
        await a.arefresh_from_db()
        assert a.name == "A"
        await Item.objects.filter(name="b").aupdate(name="B")
        a.name = "AA"
        await Item.objects.abulk_update([a], ["name"])
        await Item.objects.filter(name="c").adelete()
        assert sorted(await all_names()) == ["AA", "B", "d"]
        await a.adelete()
        assert sorted(await all_names()) == ["B", "d"]

    ran(write)


@pytest.mark.usefixtures("loop")
def test_related_objects_prefetching_and_permissions() -> None:
    async def relate() -> None:
        user = await User.objects.acreate(username="ann")
        one = await user.groups.acreate(name="one")
        two = await Group.objects.acreate(name="two")
        await user.groups.aadd(two)
        assert await user.groups.acount() == 2
        await user.groups.aremove(one)
        await user.groups.aset([one, two])
        assert sorted([each.name async for each in user.groups.all()]) == ["one", "two"]
        [found] = [
            each async for each in User.objects.prefetch_related(Prefetch("groups", to_attr="in_"))
        ]
        assert len(found.in_) == 2
        await aprefetch_related_objects([user], "groups__permissions")
        assert len(user.groups.all()) == 2  # from what was prefetched: no query
        kind = await django_type()
        made, _ = await kind.permission_set.aget_or_create(codename="x", defaults={"name": "x"})
        await kind.permission_set.aupdate_or_create(codename="x", defaults={"name": "y"})
        await made.arefresh_from_db(fields=["name"])
        assert made.name == "y"
        await user.user_permissions.aadd(made)
        assert await user.ahas_perm("app.x")
        await user.groups.aclear()
        assert not await user.groups.aexists()

    async def django_type() -> Any:
        permission = await Permission.objects.select_related("content_type").afirst()
        assert permission is not None
        return permission.content_type

    Item.objects.exists()
    make_permission()
    ran(relate)


def make_permission() -> None:
    """Have one permission: a flush has taken those that `migrate` makes."""
    from django.contrib.contenttypes.models import ContentType

    kind, _ = ContentType.objects.get_or_create(app_label="app", model="item")
    Permission.objects.get_or_create(content_type=kind, codename="seen", defaults={"name": "seen"})
    connection.close()


@pytest.mark.usefixtures("loop")
def test_pages() -> None:
    items("a", "b", "c")

    async def page() -> None:
        if django.VERSION < (6, 0):
            return
        from django.core.paginator import AsyncPaginator

        pages = AsyncPaginator(Item.objects.order_by("name"), 2)
        second = await pages.apage(2)
        assert [each.name for each in await second.aget_object_list()] == ["c"]
        of_tuple = await AsyncPaginator(("x", "y", "z"), 2).apage(1)
        assert await of_tuple.aget_object_list() == ["x", "y"]

    ran(page)
    assert Paginator(Item.objects.order_by("name"), 2).num_pages == 2


@pytest.mark.usefixtures("loop")
def test_hashing_a_password_keeps_its_thread() -> None:
    User.objects.create_user("ann", password="right")
    connection.close()

    async def log_in() -> Any:
        return await aauthenticate(username="ann", password="right")

    with counted() as hops:
        user = asyncio.run(log_in())
    assert user is not None
    assert all("password" in hop or hop == "signal" for hop in hops), hops
    assert len(hops) <= 1


@pytest.mark.usefixtures("loop")
def test_receivers_run_where_the_call_does() -> None:
    threads = []

    def receive(instance: Item, **kwargs: Any) -> None:
        threads.append(threading.get_ident())
        assert Item.objects.filter(pk=instance.pk).exists()  # by the connection of the call

    async def write() -> None:
        await Item.objects.acreate(name="a")

    post_save.connect(receive, sender=Item)
    try:
        ran(write)
    finally:
        post_save.disconnect(receive, sender=Item)
    assert threads == [threading.get_ident()]


@pytest.mark.usefixtures("loop")
def test_lazy_loading_outside_of_the_bridge_is_refused() -> None:
    items("a")

    async def look() -> None:
        item = await Item.objects.only("pk").aget()
        with pytest.raises(SynchronousOnlyOperation):
            item.name  # noqa: B018
        with pytest.raises(SynchronousOnlyOperation):
            Item.objects.count()
        with pytest.raises(SynchronousOnlyOperation):
            list(Item.objects.all())

    ran(look)


@pytest.mark.usefixtures("loop")
def test_what_a_project_gives_to_a_thread_stays_there() -> None:
    items("a")

    async def ask() -> tuple[int, int]:
        async with ThreadSensitiveContext():
            count = await sync_to_async(Item.objects.count)()
            thread = await sync_to_async(threading.get_ident)()
            await sync_to_async(connections.close_all)()
        return count, thread

    with counted() as hops:
        count, thread = asyncio.run(ask())
    assert count == 1
    assert thread != threading.get_ident()
    assert len(hops) == 3


@pytest.mark.usefixtures("loop")
def test_a_method_that_a_project_has_made_async_is_refused_as_ever() -> None:
    class Odd(models.QuerySet[Item]):
        async def get(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
            raise AssertionError

    async def ask() -> None:
        with pytest.raises(TypeError, match="sync_to_async can only be applied to sync functions"):
            await Odd(Item).aget()

    asyncio.run(ask())


@pytest.fixture
def sessions() -> Iterator[None]:
    """Have the table of Django's sessions."""
    with modify_settings(INSTALLED_APPS={"append": "django.contrib.sessions"}):
        from django.contrib.sessions.models import Session

        with connection.schema_editor() as editor:
            editor.create_model(Session)
        connection.close()
        yield
        with connection.schema_editor() as editor:
            editor.delete_model(Session)
        connection.close()


@pytest.mark.usefixtures("sessions", "loop")
def test_sessions_in_the_database_are_saved_and_loaded() -> None:
    async def save() -> Any:
        store = SessionStore()
        await store.aset("a", 1)
        await store.asave()
        return await SessionStore(store.session_key).aget("a")

    assert ran(save) == 1


def test_a_missing_name_leaves_djangos_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    items("a")
    missing = names.Name(
        module="django.db.models.query", attribute="no_such_name", make=lambda it: it, reason=""
    )
    monkeypatch.setattr(orm, "TABLE", (missing, *orm.TABLE))
    with pytest.raises(names.NamesMissing), on_loop():
        pass

    async def count() -> int:
        async with ThreadSensitiveContext():
            number = await Item.objects.acount()
            await sync_to_async(connections.close_all)()
        return number

    with counted() as hops:
        assert asyncio.run(count()) == 1
    assert "QuerySet.count" in hops
