"""What the ORM has no async method for, in a function that is bridged: all of it works there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.db import transaction
from django.db.models import F, Prefetch
from django.db.models.signals import post_delete, post_save, pre_save

from django_poolkit.aio import bridged
from tests.aio.hops import counted
from tests.aio.support import Pooled, Run
from tests.app.models import Item
from tests.backends.transaction_mode.support import Broken, connection, fill, scalar

pytestmark = pytest.mark.core


def related() -> None:
    """Load what belongs to each other, lazily and at once."""
    kind = ContentType.objects.get_or_create(app_label="app", model="item")[0]
    made = Permission.objects.get_or_create(content_type=kind, codename="x")[0]
    user = User.objects.create(username="ann")
    group = user.groups.create(name="one")
    group.permissions.add(made)
    lazy = Permission.objects.get(pk=made.pk)
    assert lazy.content_type.model == "item"  # a query of its own
    assert Permission.objects.select_related("content_type").get(pk=made.pk).content_type == kind
    deferred = User.objects.defer("email").get(username="ann")
    assert deferred.get_deferred_fields() == {"email"}
    assert deferred.email == ""
    assert User.objects.only("pk").get(pk=user.pk).username == "ann"
    nested = Prefetch("permissions", Permission.objects.order_by("pk"), to_attr="all_")
    (found,) = User.objects.prefetch_related(
        Prefetch("groups", Group.objects.prefetch_related(nested))
    )
    assert [each.all_ for each in found.groups.all()] == [[made]]  # type: ignore[attr-defined]
    user.delete()
    group.delete()
    made.delete()


def many() -> None:
    """Write and read many at once, and by SQL."""
    fill(30)
    assert Item.objects.update(name=F("name")) == 30
    items = list(Item.objects.raw("SELECT * FROM app_item ORDER BY name"))
    items[0].name = "changed"
    assert Item.objects.bulk_update(items, ["name"], batch_size=7) == 30
    names = [each.name for each in Item.objects.order_by("pk").iterator(chunk_size=4)]
    assert names == ["changed", *(f"row{number:03}" for number in range(1, 30))]
    half = Item.objects.order_by("pk").iterator(chunk_size=4)
    assert next(half).name == "changed"
    half.close()  # type: ignore[attr-defined]
    with transaction.atomic():
        assert Item.objects.select_for_update().first() == items[0]
        with pytest.raises(Broken), transaction.atomic():
            Item.objects.all().delete()
            raise Broken
    assert scalar("SELECT count(*) FROM app_item") == 30
    assert Item.objects.all().delete()[0] == 30


def signals() -> None:
    """Send what the ORM sends."""
    told: list[str] = []

    def receiver(signal: Any, instance: Item, **kwargs: Any) -> None:
        told.append(f"{instance.name} among {Item.objects.count()}")

    for signal in (pre_save, post_save, post_delete):
        signal.connect(receiver, sender=Item)
    try:
        Item.objects.create(name="a").delete()
    finally:
        for signal in (pre_save, post_save, post_delete):
            signal.disconnect(receiver, sender=Item)
    assert told == ["a among 0", "a among 1", "a among 0"]


@pytest.mark.parametrize("mode", ["session", "transaction"])
@pytest.mark.parametrize("work", [related, many, signals])
def test_it_works_on_the_loop_and_on_no_thread(
    pooled: Pooled, run_on_each: Run, work: Callable[[], None], mode: str
) -> None:
    pool = pooled(mode=mode, max_size=1)

    async def main() -> None:
        await bridged(work)()
        assert pool.stats().used == 0

    with counted() as hops:
        run_on_each(main)
    assert hops == []
    assert pool.stats().leaks == 0
    connection.close()
