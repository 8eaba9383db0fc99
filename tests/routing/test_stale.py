"""An object that a replica has given, saved over what is newer."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from django.db.models import F
from django.db.models.signals import pre_save

from django_poolkit.routing import StaleWrite, StaleWriteWarning, scope, stale
from example_project.shop.models import Product, Stock
from tests.app.models import Item
from tests.routing.conftest import alias_of


@pytest.fixture(autouse=True)
def looked_at() -> Any:
    """Have objects looked at as they are where there are clusters."""
    pre_save.connect(stale.look)
    yield
    pre_save.disconnect(stale.look)


@pytest.fixture
def have(settings: Any) -> Any:
    """A function that sets what happens to a stale write."""

    def have(what: str) -> None:
        cluster = {"replicas": ["replica"], "stale_write": what}
        settings.POOLKIT = {"CLUSTERS": {"default": cluster}}

    return have


def from_replica() -> Item:
    with scope():
        item = Item.objects.get()
    assert item._state.db == "replica"
    return item


def test_it_is_refused_before_it_is_written(paused, have):
    have("raise")
    item = from_replica()
    Item.objects.filter(pk=item.pk).update(name="newer")
    with pytest.raises(StaleWrite, match=r"a app\.Item that was read from 'replica'") as caught:
        item.save()
    assert (caught.value.model, caught.value.alias) == ("app.Item", "replica")
    assert Item.objects.using("default").get().name == "newer"


def test_it_is_told_where_the_program_saves(paused, have):
    have("warn")
    item = from_replica()
    with pytest.warns(StaleWriteWarning, match=r"save\(update_fields") as caught:
        item.save()
    assert caught[0].filename == __file__


def test_by_default_it_is_told(paused):
    with pytest.warns(StaleWriteWarning):
        from_replica().save()


def test_it_may_be_allowed(paused, have):
    have("allow")
    item = from_replica()
    Item.objects.filter(pk=item.pk).update(name="newer")
    item.save()
    assert Item.objects.using("default").get().name == "old"  # which is what the others are for


def test_what_names_its_fields_is_no_stale_write(paused, have):
    have("raise")
    item = from_replica()
    item.name = "changed"
    item.save(update_fields=["name"])
    assert Item.objects.using("default").get().name == "changed"


def test_an_expression_in_a_named_field_is_no_stale_write(routed, have):
    have("raise")
    product = Product.objects.create(sku="a", name="a", category="a", price=1)
    Stock.objects.create(product=product, quantity=5)
    routed.primary.wait_caught_up(routed.replicas[0])
    with scope():
        stock = Stock.objects.get()
        assert stock._state.db == "replica"
        stock.quantity = F("quantity") - 1
        stock.save(update_fields=["quantity"])
    assert Stock.objects.using("default").get().quantity == 4


@pytest.mark.parametrize("what", ["new", "primary", "written", "elsewhere", "raw"])
def test_everything_else_is_none(paused, have, what):
    have("raise")
    if what == "new":
        Item(name="new").save()
    elif what == "primary":
        Item.objects.using("default").get().save()
    elif what == "written":
        # What has once been saved is from the primary.
        item = from_replica()
        item.save(update_fields=["name"])
        item.save()
    elif what == "elsewhere":
        item = from_replica()
        item._state.db = "somewhere"
        item.save()
    else:
        from_replica().save_base(raw=True)  # as a fixture is loaded
    assert alias_of() == "default"  # outside of a scope, after a write


def test_a_stale_write_pickles():
    error = pickle.loads(pickle.dumps(StaleWrite("no", "app.Item", "replica")))
    assert (str(error), error.model, error.alias) == ("no", "app.Item", "replica")
