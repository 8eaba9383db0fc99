"""What goes wrong with routers as they are commonly written, and does not with this one.

Each scene is played twice: with a few lines that do as such a router does, where it has to fail
(else it would show nothing), and with ours.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, Literal

import pytest
from asgiref.sync import sync_to_async
from django import forms
from django.db import connections, router, transaction
from django.db.models import F
from django.test.utils import override_settings
from django.utils import timezone

from django_poolkit.backends.request import RequestScope, entered
from django_poolkit.routing import ReadWriteRouter, StaleWrite, scope, stale, use_primary
from example_project.shop.models import Customer, Order
from tests.app.models import Item
from tests.routing.conftest import alias_of, entry, in_thread, looped, seen

Way = Literal["common", "ours"]
BOTH = pytest.mark.parametrize("way", ["common", "ours"])


class TenLines:
    """Reads from the replica, writes to the primary, and knows nothing else."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return "replica"

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "default"

    def allow_relation(self, one: Any, other: Any, **hints: Any) -> bool:
        return True


class InTurns(TenLines):
    """Has replicas take turns, at each call."""

    def __init__(self) -> None:
        self._turns = itertools.cycle(["replica", "second"])

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return next(self._turns)


class Pinned(TenLines):
    """Pins the thread that has asked where to write."""

    def __init__(self) -> None:
        self.thread = threading.local()

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return "default" if getattr(self.thread, "pinned", False) else "replica"

    def db_for_write(self, model: Any, **hints: Any) -> str:
        self.thread.pinned = True
        return "default"


class PinnedBlock:
    """Sets a flag, and puts back at its end what it remembers: one object, used by all."""

    def __init__(self, pinned: Pinned) -> None:
        self._thread, self._before = pinned.thread, False

    def __enter__(self) -> None:
        self._before = getattr(self._thread, "pinned", False)
        self._thread.pinned = True

    def __exit__(self, *error: object) -> None:
        self._thread.pinned = self._before


class AwareOfDefault(TenLines):
    """Asks whether `default` is in a transaction, whatever is read."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        if connections["default"].in_atomic_block:
            return self.db_for_write(model)
        return "ts_replica" if model is Item else "replica"

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "ts" if model is Item else "default"


def use(way: Way, common: Any) -> None:
    """Have models routed the common way, or by ours."""
    router.routers = [common if way == "common" else ReadWriteRouter()]


def ada() -> Customer:
    return Customer.objects.create(name="Ada", email="ada@example.com", city="Rome")


# -- shares


@pytest.fixture
def two_replicas(routed: Any, settings: Any) -> Iterator[Any]:
    """The cluster with both replicas, each an alias of its own."""
    settings.POOLKIT = {"CLUSTERS": {"default": {"replicas": ["replica", "second"]}}}
    connections.settings["second"] = entry(routed.replicas[1])
    yield routed
    connections["second"].close()


READS = {
    "related": lambda parent: parent.orders.all(),
    "iterator": lambda parent: Order.objects.iterator(),
}


@BOTH
@pytest.mark.parametrize("read", READS.values(), ids=list(READS))
def test_of_two_replicas_both_are_read(two_replicas, way, read):
    order = Order.objects.create(customer=ada(), placed=timezone.now(), total=Decimal(1))
    for node in two_replicas.replicas:
        two_replicas.primary.wait_caught_up(node)
    use(way, InTurns())

    def work() -> set[str]:
        found: set[str] = set()
        customer = Customer(pk=order.customer_id)
        for _ in range(20):
            customer._state.db = "replica"
            with scope():
                found |= {each._state.db for each in read(customer)}
        return found

    # Django asks two times for one query and uses the second answer.
    found = in_thread(work)
    assert len(found) == (1 if way == "common" else 2)


# -- pins


@BOTH
def test_a_block_within_a_block_leaves_nobody_pinned(paused, way):
    pinned = Pinned()
    use(way, pinned)
    block: Any = PinnedBlock(pinned) if way == "common" else use_primary()

    def work() -> str:
        with scope(), block, block, block:
            assert alias_of() == "default"
        return alias_of()

    assert in_thread(work) == ("default" if way == "common" else "replica")


async def two_visitors(one: Callable[[], Any], other: Callable[[], Any]) -> Any:
    """Run two coroutines as two requests of one loop, the second once the first has written."""
    written = asyncio.Event()

    async def writer() -> None:
        with entered(RequestScope(method="GET")):
            await one()
            written.set()

    async def reader() -> Any:
        with entered(RequestScope(method="GET")):
            await written.wait()
            return await other()

    _, found = await asyncio.gather(writer(), reader())
    return found


@BOTH
@looped
async def test_a_write_pins_no_other_visitor_of_the_loop(paused, way):
    use(way, Pinned())

    async def look() -> set[str]:
        return await sync_to_async(seen)()

    # Django serves all of them on one thread.
    found = await two_visitors(lambda: Item.objects.acreate(name="new"), look)
    assert found == ({"old", "new"} if way == "common" else {"old"})


@BOTH
@looped
async def test_a_write_pins_its_own_visitor_on_whatever_thread(paused, way):
    use(way, Pinned())

    def write() -> None:
        Item.objects.create(name="new")
        connections.close_all()

    with entered(RequestScope(method="GET")):
        await sync_to_async(write, thread_sensitive=False)()
        found = await sync_to_async(seen)()
    assert found == ({"old"} if way == "common" else {"old", "new"})


@BOTH
def test_asking_where_to_write_is_no_write(paused, way):
    use(way, Pinned())

    def work() -> str:
        with scope():
            assert Item.objects.select_for_update().db == "default"  # not evaluated
            return alias_of()

    assert in_thread(work) == ("default" if way == "common" else "replica")


# -- transactions


@BOTH
def test_a_transaction_of_another_cluster_reads_what_it_wrote(paused, settings, way):
    settings.POOLKIT = {
        "CLUSTERS": {
            "default": {"replicas": ["replica"]},
            "ts": {"replicas": ["ts_replica"], "models": ["app"]},
        }
    }
    more = {"ts": entry(paused.primary), "ts_replica": entry(paused.replicas[0])}
    connections.settings.update(more)
    use(way, AwareOfDefault())
    try:
        with transaction.atomic(using="ts"):
            Item.objects.create(name="new")
            found = seen()
    finally:
        for alias in more:
            connections[alias].close()
            del connections[alias]
    assert found == ({"old"} if way == "common" else {"old", "new"})


# -- Django itself, with a replica that gets nothing new


@pytest.fixture
def sessions(routed: Any, settings: Any) -> Iterator[Any]:
    """The servers, with Django's table of sessions everywhere, and no replica that goes on."""
    with override_settings(INSTALLED_APPS=[*settings.INSTALLED_APPS, "django.contrib.sessions"]):
        from django.contrib.sessions.models import Session

        with connections["default"].schema_editor() as editor:
            editor.create_model(Session)
        for node in routed.replicas:
            routed.primary.wait_caught_up(node)
            node.pause_replay()
        yield routed
        with connections["default"].schema_editor() as editor:
            editor.delete_model(Session)


@BOTH
def test_who_has_just_logged_in_is_logged_in(sessions, way):
    from django.contrib.sessions.backends.db import SessionStore

    use(way, TenLines())
    with entered(RequestScope(method="POST")):
        began = SessionStore()
        began["user"] = 1
        began.save()
    with entered(RequestScope(method="GET")):
        goes_on = SessionStore(began.session_key)
        user = goes_on.get("user")
    if way == "common":
        # Not only unknown: the key is thrown away, and with it the login.
        assert (user, goes_on.session_key) == (None, None)
    else:
        assert (user, goes_on.session_key) == (1, began.session_key)


class OrderForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = Order
        fields = ("customer", "status", "placed", "total")


@BOTH
def test_a_form_knows_the_row_that_was_made_a_moment_ago(paused, way):
    data = {"customer": ada().pk, "status": "placed", "placed": timezone.now(), "total": "1"}
    use(way, TenLines())
    with entered(RequestScope(method="POST")):
        form = OrderForm(data)
        assert form.is_valid() is (way == "ours")
    assert ("customer" in form.errors) is (way == "common")


@BOTH
def test_what_was_saved_can_be_refreshed(paused, way):
    use(way, TenLines())
    with entered(RequestScope(method="GET")):
        item = Item.objects.create(name="new")
        if way == "common":
            with pytest.raises(Item.DoesNotExist):
                item.refresh_from_db()
        else:
            item.refresh_from_db()
            assert item.name == "new"


@BOTH
def test_what_others_have_written_is_not_undone_unnoticed(paused, settings, monkeypatch, way):
    cluster = {"replicas": ["replica"], "stale_write": "raise"}
    settings.POOLKIT = {"CLUSTERS": {"default": cluster}}
    use(way, TenLines())

    def work() -> None:
        item = Item.objects.get()
        Item.objects.using("default").update(name=F("name"), created="2020-01-01T00:00:00Z")
        item.name = "mine"
        if way == "ours":
            stale.look(Item, item, using="default")
        item.save()

    if way == "common":
        in_thread(work)
    else:
        with pytest.raises(StaleWrite):
            in_thread(work)
    [left] = Item.objects.using("default").values_list("name", "created__year")
    assert left == (("mine", timezone.now().year) if way == "common" else ("old", 2020))
