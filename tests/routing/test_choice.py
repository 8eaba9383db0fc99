"""Where a read goes: the order of the rules, and the traps that Django lays."""

from __future__ import annotations

import collections
import contextvars
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from decimal import Decimal
from typing import Any

import pytest
from django import forms
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import Group, User
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.base_session import AbstractBaseSession
from django.db import InternalError, connections, router, transaction
from django.db.migrations.state import ModelState, ProjectState
from django.db.models import AutoField
from django.utils import timezone

from django_poolkit.backends.request import RequestScope, entered
from django_poolkit.routing import choice, rules, scope, use_primary, use_replica
from django_poolkit.routing.topology import clusters
from django_poolkit.testing.errors import ClusterError
from django_poolkit.testing.routing import assert_routed, simulate_lag
from example_project.shop.models import Customer, Order, OrderLine, Product
from tests.app.models import Item
from tests.routing.conftest import alias_of, entry, seen


def reason(model: Any = Item, **hints: Any) -> str:
    with assert_routed("primary", model) as log:
        alias_of(model, **hints)
    return log.decisions[-1].reason


def customer(**fields: Any) -> Customer:
    return Customer.objects.create(
        **{"name": "Ada", "email": "ada@example.com", "city": "Rome", **fields}
    )


def order_of(someone: Customer) -> Order:
    return Order.objects.create(customer=someone, placed=timezone.now(), total=Decimal(1))


# -- the order


def test_each_rule_gives_way_to_the_one_before(routed):
    with scope(), entered(RequestScope(method="POST")):
        assert reason() == "unsafe_request"
        assert reason(User) == "rule"
        with transaction.atomic():
            assert reason(User) == "transaction"
            with use_replica():
                assert alias_of(User) == "replica"
                with use_primary():
                    assert reason(User) == "use_primary"
    with scope():
        fresh = Item.objects.create(name="new")
        assert reason(instance=fresh) == "wrote"
    with scope():
        assert reason(instance=fresh) == "instance"


def test_a_cluster_without_replicas_reads_its_primary(routed, settings):
    settings.POOLKIT = {"CLUSTERS": {"default": {}}}
    with use_replica():
        assert reason() == "no_replica"


def test_a_model_of_no_cluster_is_left_to_the_next_router(routed, settings):
    settings.POOLKIT = {"CLUSTERS": {"other": {"primary": "replica", "models": ["shop"]}}}
    [ours] = router.routers
    assert ours.db_for_read(Item) is None
    assert ours.db_for_write(Item) is None
    assert ours.db_for_write(Order) == "replica"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE", "WEBSOCKET", ""])
def test_a_safe_request_reads_the_replica(routed, method):
    with entered(RequestScope(method=method)):
        assert alias_of() == "replica"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_request_that_is_there_to_change_something_reads_the_primary(routed, method):
    with entered(RequestScope(method=method)):
        assert alias_of() == "default"
        with use_replica():
            assert alias_of() == "replica"


# -- rules by model


def test_who_is_logged_in_is_read_from_the_primary(routed):
    class Member(AbstractBaseUser):
        class Meta:
            app_label = "members"

    class Visit(AbstractBaseSession):
        class Meta:
            app_label = "members"

    with scope():
        for model in (User, Group, Member, Visit):
            assert reason(model) == "rule"
        assert alias_of(ContentType) == "replica"


def test_the_rules_are_the_settings(routed, settings):
    settings.POOLKIT = {
        "CLUSTERS": {"default": {"replicas": ["replica"], "on_primary": ["shop.Order", "app"]}}
    }
    with scope():
        assert {model: alias_of(model) for model in (User, Item, Order, Product)} == {
            User: "replica", Item: "default", Order: "default", Product: "replica"
        }  # fmt: skip


def test_what_a_rule_has_read_on_the_primary_takes_nothing_with_it(routed):
    user = User(pk=1)
    user._state.db = "default"
    with scope():
        assert alias_of(Order, instance=user) == "replica"


def test_the_verdicts_are_those_of_the_present_settings(routed, settings):
    known = clusters()
    assert rules.verdict_on(Item) == (known["default"], False, False)
    settings.POOLKIT = {"CLUSTERS": {"default": {"replicas": ["replica"], "on_primary": ["app"]}}}
    assert clusters() is not known
    assert rules.verdict_on(Item) == (clusters()["default"], False, True)


def test_models_of_a_migration_go_with_its_state(routed, settings):
    settings.POOLKIT = {
        "CLUSTERS": {
            "default": {"replicas": ["replica"]},
            "other": {"primary": "other", "replicas": ["other_replica"]},
        }
    }
    connections.settings["other"] = entry(routed.primary)
    connections.settings["other_replica"] = entry(routed.replicas[1])
    try:
        state = ProjectState({("app", "old"): ModelState("app", "Old", [("id", AutoField())])})
        model = state.apps.get_model("app", "Old")
        instance = model(pk=1)
        instance._state.db = "other_replica"
        assert alias_of(model) == "replica"
        assert alias_of(model, instance=instance) == "other_replica"
        left = weakref.ref(model)
        del state, model, instance
        gc.collect()
        assert left() is None
    finally:
        for alias in ("other", "other_replica"):
            del connections.settings[alias]


# -- Django's traps, with a replica that gets nothing new


def test_an_object_just_saved_can_be_refreshed(paused):
    with scope():
        item = Item.objects.create(name="new")
        item.refresh_from_db()
    with scope():
        item.refresh_from_db()  # also by whoever got it from elsewhere
        assert item._state.db == "default"


def test_related_managers_show_what_was_written(paused):
    with scope():
        ada = customer()
        first = order_of(ada)
        assert list(ada.orders.all()) == [first]
        assert ada.orders.count() == 1
        assert list(ada.orders.iterator()) == [first]
        again = Customer.objects.prefetch_related("orders").get(pk=ada.pk)
        assert list(again.orders.all()) == [first]


def test_what_was_read_from_the_primary_on_purpose_stays_there(paused):
    ada = customer()
    order_of(ada)
    with scope():
        bare = Customer.objects.using("default").only("pk").get(pk=ada.pk)
        assert bare.name == "Ada"  # a deferred field
        order = Order.objects.using("default").get()
        assert order.customer == ada  # a row that no replica has
        assert [line.pk for line in order.lines.all()] == []


def test_a_form_in_an_unsafe_request_knows_the_newest_rows(paused):
    class OrderForm(forms.ModelForm):  # type: ignore[type-arg]
        class Meta:
            model = Order
            fields = ("customer", "status", "placed", "total")

    class CustomerForm(forms.ModelForm):  # type: ignore[type-arg]
        class Meta:
            model = Customer
            fields = ("name", "email", "city")

    ada = customer()
    data = {"customer": ada.pk, "status": "placed", "placed": timezone.now(), "total": "1"}
    with entered(RequestScope(method="POST")):
        form = OrderForm(data)
        assert form.is_valid(), form.errors
        twin = CustomerForm({"name": "Eve", "email": "ada@example.com", "city": "Rome"})
        assert not twin.is_valid()
    with entered(RequestScope(method="GET")):
        assert not OrderForm(data).is_valid()  # which is what the rule is for


def test_get_or_create_and_its_kin_work_on_the_primary(paused):
    ada = customer()
    with scope():
        assert Customer.objects.get_or_create(email="ada@example.com") == (ada, False)
    with scope():
        changed, made = Customer.objects.update_or_create(
            email="ada@example.com", defaults={"city": "Oslo"}
        )
        assert (changed.city, made) == ("Oslo", False)
        assert Customer.objects.get().city == "Oslo"


def test_relations_cross_the_roles_of_one_cluster(routed):
    ada = customer()
    product = Product.objects.create(sku="a", name="a", category="a", price=1)
    routed.primary.wait_caught_up(routed.replicas[0])
    with scope():
        from_replica = Customer.objects.get(pk=ada.pk)
        assert from_replica._state.db == "replica"
        order = order_of(from_replica)
        order.lines.create(product=Product.objects.get(pk=product.pk), quantity=1, price=1)
    assert OrderLine.objects.using("default").count() == 1


def test_relations_across_clusters_are_left_to_django(routed, settings):
    settings.POOLKIT = {"CLUSTERS": {"default": {}, "ts": {"primary": "replica"}}}
    [ours] = router.routers
    one, other, same, new = Item(), Item(), Item(), Item()
    one._state.db = same._state.db = "default"
    other._state.db = "replica"
    assert ours.allow_relation(one, same) is True
    assert ours.allow_relation(one, other) is None
    assert ours.allow_relation(one, new) is None
    one._state.db = same._state.db = "nowhere"
    assert ours.allow_relation(one, same) is None


def test_a_write_sent_to_a_replica_is_refused_there(routed):
    with pytest.raises(InternalError, match="read-only"):
        Item.objects.using("replica").update(name="new")


# -- two clusters


@pytest.fixture
def two_clusters(routed, settings):
    """`default` without replicas; and `ts`, which has the items and is on the servers."""
    settings.POOLKIT = {
        "CLUSTERS": {
            "default": {"replicas": ["replica"]},
            "ts": {"replicas": ["ts_replica"], "models": ["app"]},
        }
    }
    primary, replica = routed.primary, routed.replicas[0]
    more = {"ts": entry(primary), "ts_replica": entry(replica)}
    connections.settings.update(more)
    yield routed
    for alias in more:
        connections[alias].close()


def test_a_write_to_one_cluster_pins_no_other(two_clusters):
    with scope():
        assert (alias_of(Item), alias_of(Order)) == ("ts_replica", "replica")
        Item.objects.create(name="new")
        assert (alias_of(Item), alias_of(Order)) == ("ts", "replica")
        with transaction.atomic():  # on default
            assert (alias_of(Item), alias_of(Order)) == ("ts", "default")
    with scope(), transaction.atomic(using="ts"):
        assert (alias_of(Item), alias_of(Order)) == ("ts", "replica")
    with scope(), use_primary("ts"):
        assert (alias_of(Item), alias_of(Order)) == ("ts", "replica")


def test_an_instance_keeps_to_its_cluster_unless_its_model_is_listed(two_clusters):
    stranger = Order()
    stranger._state.db = "ts_replica"
    assert router.db_for_write(Order, instance=stranger) == "ts"
    assert alias_of(Customer, instance=stranger) == "ts_replica"
    listed = Item()
    listed._state.db = "replica"
    assert router.db_for_write(Item, instance=listed) == "ts"


# -- several replicas


@pytest.fixture
def two_replicas(routed, settings):
    """The cluster with both replicas, each an alias of its own."""
    settings.POOLKIT = {"CLUSTERS": {"default": {"replicas": ["replica", "second"]}}}
    connections.settings["second"] = entry(routed.replicas[1])
    yield routed
    connections["second"].close()


READS = {
    "children": lambda parent: [row._state.db for row in parent.orders.all()],
    "iterator": lambda parent: [row._state.db for row in parent.orders.iterator()],
    "plain": lambda parent: [row._state.db for row in Order.objects.all()],
}


@pytest.mark.parametrize("read", READS.values(), ids=list(READS))
@pytest.mark.parametrize("scoped", [True, False])
def test_each_replica_gets_its_share(two_replicas, read, scoped):
    ada = customer()
    order_of(ada)
    for node in two_replicas.replicas:
        two_replicas.primary.wait_caught_up(node)

    def shares() -> collections.Counter[str]:
        ada._state.db = "replica"
        found: collections.Counter[str] = collections.Counter()
        for _ in range(400):
            with scope() if scoped else nullcontext():
                found.update(read(ada))
        connections.close_all()
        return found

    # In a thread that has not written.
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(shares).result()
    assert set(found) == {"replica", "second"}
    # In turns, or at random, where 5 of 400 standard deviations are 50.
    assert abs(found["replica"] - 200) <= (1 if scoped else 50)


def test_one_scope_reads_one_replica(two_replicas):
    seen_by_scope: list[str] = []
    for _ in range(8):
        with scope():
            with ThreadPoolExecutor(2) as pool:
                threads = [pool.submit(contextvars.copy_context().run, alias_of) for _ in range(4)]
            found = {alias_of(), alias_of(Order), *(thread.result() for thread in threads)}
            assert len(found) == 1
            seen_by_scope += found
    assert collections.Counter(seen_by_scope) == {"replica": 4, "second": 4}


def test_one_scope_reads_one_host_of_a_logical_alias():
    weights = {"near": 3.0, "far": 1.0}
    assert choice.host_for("replica", weights) is None
    found: collections.Counter[str | None] = collections.Counter()
    for _ in range(1000):
        with scope():
            first = choice.host_for("replica", weights)
            assert {choice.host_for("replica", weights) for _ in range(3)} == {first}
            found[first] += 1
    assert abs(found["near"] - 750) <= 2


def test_a_host_that_refuses_is_replaced_for_the_rest_of_the_scope():
    with scope():
        first = choice.host_for("replica", {"near": 1.0, "far": 1.0})
        [other] = {"near", "far"} - {first}
        assert choice.host_for("replica", {other: 1.0}) == other
        assert {choice.host_for("replica", {"near": 1.0, "far": 1.0}) for _ in range(9)} == {other}


def test_what_others_see_is_the_replica(paused):
    # The fixture's own promise, without which nothing here would mean anything.
    Item.objects.create(name="new")
    with scope():
        assert seen() == {"old"}
        with use_primary():
            assert seen() == {"old", "new"}


def test_a_project_can_simulate_the_lag(routed):
    with simulate_lag(*routed.replicas):
        Item.objects.create(name="new")
        with scope():
            assert seen() == set()
    routed.primary.wait_caught_up(routed.replicas[0])
    with scope():
        assert seen() == {"new"}
    with pytest.raises(RuntimeError), simulate_lag(*routed.replicas):
        raise RuntimeError
    Item.objects.create(name="newer")
    for node in routed.replicas:
        routed.primary.wait_caught_up(node)


def test_lag_that_cannot_begin_leaves_none_behind(routed):
    with pytest.raises(ClusterError), simulate_lag(routed.replicas[0], routed.primary):
        pass
    Item.objects.create(name="new")
    routed.primary.wait_caught_up(routed.replicas[0])
