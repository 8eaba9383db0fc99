"""What a project's tests can ask of its routing."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, connections, router, transaction
from django.test.utils import CaptureQueriesContext

from django_poolkit.backends import ports
from django_poolkit.routing import (
    ReadWriteRouter,
    joining,
    scope,
    scopes,
    use_primary,
    use_replica,
    watching,
)
from django_poolkit.routing.monitor import monitor
from django_poolkit.testing.routing import (
    WriteInReadScope,
    assert_routed,
    record_routing,
    strict_routing,
)
from tests.app.models import Item


@pytest.fixture
def routed(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A cluster whose replica is nowhere, and the database of the tests for its primary."""
    scopes._pins.set({})
    monkeypatch.setattr(router, "routers", [ReadWriteRouter()])
    monkeypatch.setattr(ports, "note_write", joining.note_write)
    monkeypatch.setattr(monitor, "start", lambda: None)
    settings.POOLKIT = {**settings.POOLKIT, "CLUSTERS": {"default": {"replicas": ["replica"]}}}
    yield
    assert watching.watchers == ()


@pytest.mark.django_db
def test_everything_runs_on_one_database_in_the_transaction_of_a_test(routed):
    with scope(), record_routing() as log:
        assert list(Item.objects.all()) == []
        assert not User.objects.exists()
        with transaction.atomic():
            Item.objects.create(name="new")
        assert Item.objects.get().name == "new"
    told = [(each.model, each.role, each.alias, each.reason) for each in log.decisions]
    assert list(dict.fromkeys(told)) == [
        ("app.Item", "replica", "replica", "read"),
        ("auth.User", "primary", "default", "rule"),
        ("app.Item", "primary", "default", "wrote"),
    ]
    assert [each.model for each in log.of(User)] == ["auth.User"]
    assert log.of(cluster="other") == []
    assert log.of(cluster="default") == log.decisions


def test_without_it_the_replica_is_asked(routed):
    with scope():
        assert router.db_for_read(Item) == "replica"
        with record_routing():
            assert router.db_for_read(Item) == "default"
        assert router.db_for_read(Item) == "replica"


def test_other_threads_are_recorded_as_well(routed):
    with record_routing() as log:
        thread = threading.Thread(target=router.db_for_read, args=(Item,))
        thread.start()
        thread.join()
    assert [each.role for each in log.decisions] == ["replica"]


def test_a_role_is_asserted(routed):
    with scope():
        with assert_routed("replica"):
            router.db_for_read(Item)
        with assert_routed("primary", User, cluster="default"):
            router.db_for_read(Item)
            router.db_for_read(User)


def test_a_wrong_role_is_told_with_its_reason(routed):
    with (
        pytest.raises(AssertionError) as caught,
        scope(),
        assert_routed("replica", Item),
        use_primary(),
    ):
        router.db_for_read(Item)
    assert str(caught.value) == (
        "expected reads of app.Item on the replica; there were:\n"
        "  app.Item -> primary 'default' (use_primary)"
    )


def test_one_wrong_read_among_right_ones_is_found(routed):
    with pytest.raises(AssertionError, match="use_primary"), assert_routed("replica"):
        router.db_for_read(Item)
        with use_primary():
            router.db_for_read(Item)
        router.db_for_read(Item)


def test_no_read_is_no_success(routed):
    with pytest.raises(AssertionError, match="there were none"), assert_routed("primary", Item):
        router.db_for_read(User)


def test_an_error_of_the_test_is_not_hidden(routed):
    with pytest.raises(RuntimeError), assert_routed("primary"):
        raise RuntimeError


@pytest.mark.django_db(transaction=True)
def test_a_write_among_reads_is_refused_before_it_is_sent(routed):
    with record_routing():
        with (
            pytest.raises(WriteInReadScope, match=r"on 'default' within use_replica\(\)"),
            strict_routing(),
            use_replica(),
        ):
            Item.objects.create(name="new")
        assert not Item.objects.exists()
        with strict_routing():
            with use_replica(), use_primary():
                Item.objects.create(name="allowed")
            with use_replica():
                assert Item.objects.get().name == "allowed"


@pytest.mark.django_db(transaction=True)
def test_a_refusal_that_the_program_catches_still_fails(routed):
    with record_routing(), pytest.raises(WriteInReadScope):
        with strict_routing(), use_replica():
            try:
                with connection.cursor() as cursor:
                    cursor.execute("UPDATE app_item SET name = 'x'")
            except Exception:
                caught = True
        assert caught


@pytest.mark.django_db(transaction=True)
def test_a_write_on_a_replica_is_refused(routed, settings):
    # One server is enough: it would do it.
    settings.POOLKIT = {"CLUSTERS": {"other": {"primary": "nowhere", "replicas": ["default"]}}}
    with (
        pytest.raises(WriteInReadScope, match="on 'default', which is a replica"),
        strict_routing(),
    ):
        Item.objects.using("default").create(name="new")


@pytest.mark.django_db(transaction=True)
def test_a_refused_statement_leaves_the_connection_as_it_was(routed):
    with CaptureQueriesContext(connection):
        for _ in range(20):  # more than the pool has connections
            with pytest.raises(WriteInReadScope), strict_routing(), use_replica():
                Item.objects.using("default").create(name="new")
    assert not connections["default"].in_atomic_block
    with strict_routing():
        Item.objects.using("default").create(name="new")
    assert Item.objects.using("default").count() == 1
