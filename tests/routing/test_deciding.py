"""Where a read goes, and what the router says of it: by settings alone, without a server."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connections, transaction

from django_poolkit.backends.request import RequestScope, entered
from django_poolkit.routing import (
    NoReplica,
    ReadWriteRouter,
    admission,
    choice,
    figures,
    scope,
    scopes,
    shown,
    use_primary,
    use_replica,
    views,
)
from django_poolkit.routing.monitor import monitor
from django_poolkit.routing.router import is_replaceable
from django_poolkit.routing.scopes import CommandBlock, Scope
from django_poolkit.routing.topology import clusters
from django_poolkit.routing.watching import Decision, Watcher, watched
from django_poolkit.testing.routing import record_routing
from example_project.shop.models import Order
from tests.app.models import Item
from tests.routing.conftest import alias_of
from tests.routing.offline import Offline, at, circuit, evict, on_trial, settled

pytestmark = pytest.mark.core
router = ReadWriteRouter()


@contextmanager
def in_blocks(alias: str, *blocks: transaction.Atomic) -> Iterator[None]:
    """Have this thread's wrapper of an alias be in a transaction, without a server."""
    wrapper = connections[alias]
    wrapper.in_atomic_block = True
    wrapper.atomic_blocks = list(blocks)
    try:
        yield
    finally:
        del connections[alias]


def block(*, of_a_test: bool = False) -> transaction.Atomic:
    made = transaction.atomic()
    setattr(made, "_from_testcase", of_a_test)  # noqa: B010
    return made


def item_of(alias: str | None) -> Item:
    item = Item()
    item._state.db = alias
    return item


# -- the order of the rules


def test_of_all_rules_that_have_something_to_say_the_first_one_counts(offline: Offline) -> None:
    cluster = offline.be("replica")
    facts = ["transaction", "rule", "command", "unsafe_request", "wrote", "instance", "token"]
    for said in (None, "use_primary", "use_replica"):
        for chosen in itertools.product([False, True], repeat=len(facts)):
            true = [fact for fact, is_so in zip(facts, chosen, strict=True) if is_so]
            here = Scope(unsafe="unsafe_request" in true, command="command" in true)
            if "wrote" in true:
                here.wrote.add("default")
            if "token" in true:
                here.settled = {"default": settled()}
            with ExitStack() as stack:
                if said is not None:
                    stack.enter_context(use_primary() if said == "use_primary" else use_replica())
                if "transaction" in true:
                    stack.enter_context(in_blocks("default", block()))
                stack.enter_context(at(here))
                instance = item_of("default" if "instance" in true else "replica")
                found = choice.for_read(cluster, "rule" in true, instance)
            reason = said or next(iter(true), "read")
            alias = "replica" if reason in ("read", "use_replica") else "default"
            assert found == (alias, reason), (said, true)
            # Later requests are told only what this one has met itself.
            assert here.behind == ({"default"} if reason == "token" else set())


def test_without_a_scope_the_same_rules_count(offline: Offline) -> None:
    cluster = offline.be("replica")
    assert choice.for_read(cluster, False) == ("replica", "read")
    assert choice.for_read(cluster, True) == ("default", "rule")
    assert choice.for_read(cluster, False, item_of("default")) == ("default", "instance")
    assert choice.for_read(cluster, False, item_of(None)) == ("replica", "read")
    scopes.mark_written("other")
    assert choice.for_read(cluster, False) == ("replica", "read")
    scopes.mark_written("default")
    assert choice.for_read(cluster, False) == ("default", "wrote")
    with use_replica("other"):
        assert choice.for_read(cluster, False) == ("default", "wrote")
    with use_replica("default"):
        assert choice.for_read(cluster, False) == ("replica", "use_replica")


def test_a_cluster_without_replicas_reads_its_primary_whoever_asks(offline: Offline) -> None:
    cluster = offline.be()
    with use_replica():
        assert choice.for_read(cluster, False) == ("default", "no_replica")


def test_what_another_cluster_has_done_is_nothing_to_this_one(offline: Offline) -> None:
    cluster = offline.be("replica")
    here = Scope()
    here.wrote.add("other")
    here.fallen.add("other")
    here.settled = {"other": settled()}
    with at(here):
        assert choice.for_read(cluster, False) == ("replica", "read")
    assert here.behind == set()


def test_what_has_come_far_enough_is_no_reason_to_leave_it(offline: Offline) -> None:
    cluster = offline.be("replica", "hosted")
    some, whole = settled(hosted={"r2"}), settled(hosted=None)
    for far in (some, whole, settled(replica=set(), hosted={"r1"})):
        here = Scope()
        here.settled = {"default": far}
        with at(here):
            assert choice.for_read(cluster, False) == ("hosted", "read")
    here = Scope()
    here.settled = {"default": settled(hosted=set())}
    with at(here):
        assert choice.for_read(cluster, False) == ("default", "token")
    assert here.behind == {"default"}


def test_an_instance_that_a_rule_has_read_on_the_primary_says_nothing(offline: Offline) -> None:
    cluster = offline.be("replica")
    user = User(pk=1)
    user._state.db = "default"
    assert choice.for_read(cluster, False, user) == ("replica", "read")
    # Nor does a hint that is no object of a model's.
    assert choice.for_read(cluster, False, object()) == ("replica", "read")


def test_what_has_been_read_on_the_primary_by_a_rule_is_that_clusters_rule(
    offline: Offline,
) -> None:
    offline.be("replica", other={"on_primary": []})
    other = clusters()["other"]
    user = User(pk=1)
    user._state.db = "other"
    # `default` has a rule for users, and `other` has none: it was read there on purpose.
    assert choice.for_read(other, False, user) == ("other", "instance")


# -- transactions


def test_a_thread_without_a_connection_is_in_none(offline: Offline) -> None:
    offline.be("replica")
    assert not choice.in_transaction("default")
    assert not hasattr(connections._connections, "default")  # type: ignore[attr-defined]


def test_the_block_of_a_test_is_no_transaction_and_one_within_it_is(offline: Offline) -> None:
    offline.be("replica")
    with in_blocks("default", block(of_a_test=True)):
        assert not choice.in_transaction("default")
    with in_blocks("default", block(of_a_test=True), block()):
        assert choice.in_transaction("default")
        assert not choice.in_transaction("replica")
        assert alias_of() == "default"
    with in_blocks("replica", block()):
        assert alias_of() == "replica"


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"autocommit": False, "connection": None}, False),  # nothing has been opened yet
        ({"autocommit": False, "connection": object()}, True),
        ({"autocommit": True, "connection": object()}, False),
        # In transaction mode it is open, and may have no connection.
        ({"autocommit": False, "connection": None, "_opened": True}, True),
        ({"autocommit": False, "connection": None, "_opened": False}, False),
        ({"autocommit": True, "connection": object(), "_opened": True}, False),
    ],
)
def test_a_transaction_by_hand_is_one(
    offline: Offline, monkeypatch: pytest.MonkeyPatch, state: Any, expected: bool
) -> None:
    offline.be("replica")
    # Some have no `_opened`: engines of others.
    wrapper = SimpleNamespace(in_atomic_block=False, atomic_blocks=[], alias="default", **state)
    with monkeypatch.context() as patch:
        patch.setattr(connections._connections, "default", wrapper, raising=False)  # type: ignore[attr-defined]
        assert choice.in_transaction("default") is expected


def test_the_transaction_of_a_view_that_only_reads_may_be_no_reason(
    offline: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = offline.be("replica", atomic_requests="replica")
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    request = RequestScope(method="GET")
    with entered(request):
        views.enter(request, lambda: None)
        with in_blocks("default", block()):
            assert choice.for_read(cluster, False) == ("replica", "read")
        with in_blocks("default", block(), block()):
            assert choice.for_read(cluster, False) == ("default", "transaction")


# -- what is down


def test_a_scope_that_has_read_the_primary_for_want_of_replicas_stays_there(
    offline: Offline,
) -> None:
    cluster = offline.be("replica")
    evict("replica")
    with scope() as here:
        assert choice.for_read(cluster, False) == ("default", "all_down")
        assert here.fallen == here.behind == {"default"}
        evict()
        assert choice.for_read(cluster, False) == ("default", "all_down")
        # But for who asks for a replica.
        assert choice.for_read(cluster, False, item_of("replica")) == ("default", "all_down")
        with use_replica():
            assert choice.for_read(cluster, False) == ("replica", "use_replica")
    assert choice.for_read(cluster, False) == ("replica", "read")
    evict("replica")
    assert choice.for_read(cluster, False) == ("default", "all_down")  # outside of one, too


def test_who_asks_for_a_replica_gets_an_old_one_before_the_primary(offline: Offline) -> None:
    cluster = offline.be("replica", "second")
    evict("replica", "second", reason="lag")
    with scope() as here:
        with use_replica():
            assert choice.for_read(cluster, False)[1] == "use_replica"
        assert here.fallen == set()
        assert choice.for_read(cluster, False) == ("default", "all_down")


def test_a_scope_that_asks_for_a_replica_reads_one(offline: Offline) -> None:
    cluster = offline.be("replica", "second", "third")
    for _ in range(9):
        with scope():
            first = choice.for_read(cluster, False)[0]
            with use_replica():
                found = {choice.for_read(cluster, False) for _ in range(9)}
            assert found == {(first, "use_replica")}


def test_a_scope_takes_part_in_a_trial_or_does_not(offline: Offline) -> None:
    cluster = offline.be("replica", "second")
    for _ in range(20):
        admission.publish({"replica": on_trial(), "second": circuit("refuses")})
        for draw, expected in ((0.05, ("replica", "read")), (0.95, ("default", "all_down"))):
            here = Scope()
            here.draw = draw
            with at(here):
                assert choice.for_read(cluster, False) == expected


def test_a_replica_that_is_well_and_behind_takes_nobodys_place(offline: Offline) -> None:
    cluster = offline.be("replica", "second")
    here = Scope()
    here.settled = {"default": settled(second=None)}
    evict("second")
    with at(here):
        assert choice.for_read(cluster, False) == ("default", "all_down")


def test_a_thread_begins_to_look_with_the_first_read_of_a_replica(
    offline: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = offline.be("replica")
    choice.for_read(cluster, True)  # on the primary
    assert offline.looks == []
    choice.for_read(cluster, False)
    assert offline.looks == ["start"]
    monkeypatch.setattr(monitor, "started", True)
    choice.for_read(cluster, False)
    assert offline.looks == ["start"]


def test_nobody_looks_where_that_is_off_or_all_is_one_database(offline: Offline) -> None:
    choice.for_read(offline.be("replica", watch=False), False)
    cluster = offline.be("replica")
    evict("replica")
    with record_routing():
        # Nothing is behind there, and nothing is down.
        assert choice.for_read(cluster, False) == ("replica", "read")
    assert offline.looks == []


# -- the router


class Notes(Watcher):
    def __init__(self, *, one_database: bool = False) -> None:
        self.one_database = one_database
        self.decisions: list[Decision] = []

    def decided(self, decision: Decision) -> None:
        self.decisions.append(decision)


def counted(*reasons: str) -> dict[str, int]:
    known = figures.decisions.read()
    return {reason: known.get(("default", reason), 0) for reason in reasons}


def test_a_decision_is_told_to_all_who_watch(offline: Offline) -> None:
    offline.be("replica")
    one, other = Notes(), Notes()
    with watched(one), watched(other):
        assert router.db_for_read(Item) == "replica"
        assert router.db_for_read(User) == "default"
        assert router.db_for_read(Order) == "other_replica"
        assert router.db_for_read(Item, instance=item_of("default")) == "default"
    assert one.decisions == other.decisions
    assert one.decisions == [
        Decision("app.Item", "default", "replica", "replica", "read"),
        Decision("auth.User", "default", "default", "primary", "rule"),
        Decision("shop.Order", "other", "other_replica", "replica", "read"),
        Decision("app.Item", "default", "default", "primary", "instance"),
    ]


def test_on_one_database_all_is_read_there_and_told_as_it_would_have_been(
    offline: Offline,
) -> None:
    offline.be("replica")
    one, before, after = Notes(one_database=True), Notes(), Notes()
    with watched(before), watched(one), watched(after):
        assert router.db_for_read(Item) == "default"
        assert router.db_for_read(Order) == "other"
    expected = [
        Decision("app.Item", "default", "replica", "replica", "read"),
        Decision("shop.Order", "other", "other_replica", "replica", "read"),
    ]
    assert before.decisions == one.decisions == after.decisions == expected


def test_each_decision_is_counted_by_cluster_and_reason(offline: Offline) -> None:
    offline.be("replica", all_down="error")
    before = counted("read", "rule", "error")
    router.db_for_read(Item)
    router.db_for_read(Item)
    router.db_for_read(User)
    router.db_for_write(Item)  # is none
    evict("replica")
    with pytest.raises(NoReplica, match="'default': no replica may be read"):
        router.db_for_read(Item)
    after = counted("read", "rule", "error")
    assert {reason: after[reason] - before[reason] for reason in after} == {
        "read": 2, "rule": 1, "error": 1
    }  # fmt: skip


@pytest.mark.parametrize("on", [True, False])
def test_a_request_has_its_own_count_where_it_is_wanted(
    offline: Offline, monkeypatch: pytest.MonkeyPatch, on: bool
) -> None:
    offline.be("replica", all_down="error")
    monkeypatch.setattr(shown, "on", on)
    with scope() as here:
        here.decisions = figures.Decisions()
        router.db_for_read(Item)
        evict("replica")
        with pytest.raises(NoReplica):
            router.db_for_read(Item)
    expected = {("default", "read"): 1, ("default", "error"): 1}
    assert here.decisions is not None
    assert here.decisions.read() == (expected if on else {})


def test_models_of_no_cluster_are_left_to_the_next_router(offline: Offline, settings: Any) -> None:
    settings.POOLKIT = {**settings.POOLKIT, "CLUSTERS": {"other": {"models": ["shop"]}}}
    assert router.db_for_read(Item) is None
    assert router.db_for_write(Item) is None
    # But for objects that came from one.
    assert router.db_for_read(Item, instance=item_of("other")) == "other"
    assert router.db_for_write(Item, instance=item_of("other")) == "other"
    assert router.db_for_write(Order) == "other"


def test_writes_go_to_the_primary_of_the_cluster(offline: Offline) -> None:
    offline.be("replica")
    with use_replica():
        assert router.db_for_write(Item) == "default"
        assert router.db_for_write(Item, instance=item_of("replica")) == "default"
        assert router.db_for_write(Item, instance=item_of("other_replica")) == "other"
        assert router.db_for_write(Order, instance=item_of("replica")) == "other"


@pytest.mark.parametrize(
    ("one", "other", "allowed"),
    [
        ("default", "default", True),
        ("default", "replica", True),
        ("replica", "second", True),
        ("replica", "other_replica", None),
        ("other", "default", None),
        (None, "default", None),
        ("default", None, None),
        (None, None, None),
        ("nowhere", "nowhere", None),
        ("nowhere", "default", None),
        ("default", "nowhere", None),
    ],
)
def test_objects_of_one_cluster_may_be_related(
    offline: Offline, one: str | None, other: str | None, allowed: bool | None
) -> None:
    offline.be("replica", "second")
    assert router.allow_relation(item_of(one), item_of(other)) is allowed


def test_a_replica_is_not_migrated(offline: Offline) -> None:
    offline.be("replica")
    aliases = ("default", "replica", "other_replica", "nowhere")
    found = [router.allow_migrate(alias, "app", "item") for alias in aliases]
    assert found == [None, False, False, None]


def test_replicas_are_replaceable_that_are_watched(
    offline: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline.be("replica")
    assert [is_replaceable(alias) for alias in ("replica", "default", "nowhere")] == [
        True, False, False
    ]  # fmt: skip
    offline.be("replica", all_down="stale")
    assert is_replaceable("replica")
    offline.be("replica", all_down="error")
    assert not is_replaceable("replica")
    offline.be("replica", watch=False)
    assert not is_replaceable("replica")
    offline.be("replica")
    monkeypatch.setattr("django.db.router.routers", [object(), router])
    assert is_replaceable("replica")
    monkeypatch.setattr("django.db.router.routers", [object()])
    assert not is_replaceable("replica")


def test_a_command_reads_the_primary_and_its_jobs_do_not(offline: Offline) -> None:
    assert set(clusters()) <= {"default", "other"}
    offline.be("replica")
    with CommandBlock():
        assert router.db_for_read(Item) == "default"
        with scope():
            assert router.db_for_read(Item) == "replica"
