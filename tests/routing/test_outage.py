"""A primary that is not there: replicas are read on, and who writes is told why it cannot."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import psycopg_pool
import pytest
from django.db import InternalError, OperationalError, connections, router, transaction

from django_poolkit import PoolTimeout, exhaustion, registry
from django_poolkit.backends import ports
from django_poolkit.metrics.families import READ_ONLY
from django_poolkit.metrics.readings import readings
from django_poolkit.routing import PrimaryUnavailable, is_read_only, outage, scope
from django_poolkit.routing import monitor as module
from django_poolkit.routing.monitor import monitor
from django_poolkit.routing.topology import clusters
from django_poolkit.testing import Cluster
from django_poolkit.testing.faults import TCPProxy
from tests.app.models import Item
from tests.routing.conftest import entry

MODES = pytest.mark.parametrize("mode", ["session", "transaction"])


@pytest.fixture
def led(routed: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that has `default` be in a mode, with half a second to wait."""
    monkeypatch.setattr(ports, "explain", outage.explain)
    monitor.forget()
    routed.primary.execute("INSERT INTO app_item (name, created) VALUES ('old', now())")
    routed.primary.wait_caught_up(routed.replicas[0])

    def lead(mode: str, **more: Any) -> Cluster:
        connections["default"].close()
        del connections["default"]
        pool = {"max_size": 2, "mode": mode, "timeout": 0.5, **more}
        connections.settings["default"] = entry(routed.primary, OPTIONS={"pool": pool})
        return routed

    yield lead
    monitor.forget()


@pytest.fixture
def stopped(led: Any) -> Iterator[Any]:
    """Return a function that leads as `led`, and stops the primary until the test ends."""
    down: list[Cluster] = []

    def stop(mode: str) -> Cluster:
        cluster: Cluster = led(mode)
        down.append(cluster)
        cluster.primary.stop("fast")
        return cluster

    yield stop
    for cluster in down:
        if not cluster.primary.running:
            cluster.primary.start()
        for node in cluster.replicas:
            node.wait_streaming()


def shown() -> dict[tuple[str, str], tuple[float, ...]]:
    return readings.take()[READ_ONLY]


@MODES
def test_reads_go_on_and_writes_say_what_is_missing(stopped, monkeypatch, mode):
    # Scenario 18.
    cluster = stopped(mode)
    monkeypatch.setattr(monitor, "started", True)
    assert not is_read_only()
    assert shown() == {("default", ""): (0,)}
    with scope():
        assert Item.objects.get().name == "old"
        with pytest.raises(PrimaryUnavailable, match=r"^cluster 'default'") as caught:
            Item.objects.create(name="new")
        assert Item.objects.get().name == "old"
    error = caught.value
    assert isinstance(error, OperationalError)
    # What catches the timeout of a pool goes on doing so.
    assert isinstance(error, (PoolTimeout, psycopg_pool.PoolTimeout))
    assert isinstance(error.__cause__, PoolTimeout)
    assert exhaustion.find(error) is error
    assert (error.cluster, error.pool) == ("default", "default")
    assert error.waited >= 0.5
    assert "Connection refused" in str(error)
    assert cluster.primary.host not in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (again.cluster, str(again)) == ("default", str(error))
    # It is known at once, and looked at.
    assert is_read_only()
    assert shown() == {("default", ""): (1,)}
    assert monitor._wake.is_set()
    monitor.look()
    assert is_read_only()
    assert router.db_for_read(Item) == "replica"
    cluster.primary.start()
    monitor.look()
    assert not is_read_only()
    assert Item.objects.create(name="new").pk
    assert shown() == {("default", ""): (0,)}


def test_it_is_known_by_a_look_before_anybody_writes(stopped, monkeypatch):
    stopped("transaction")
    monkeypatch.setattr(monitor, "started", True)
    monitor.look()
    assert is_read_only()
    assert monitor._alert  # so that its return is seen soon


@pytest.mark.parametrize("way", ["atomic", "cursor"])
def test_whatever_needs_it_says_so(stopped, way):
    stopped("transaction")
    with pytest.raises(PrimaryUnavailable):
        if way == "atomic":
            with transaction.atomic():
                Item.objects.count()
        else:
            connections["default"].cursor()


@MODES
def test_a_busy_primary_is_not_unavailable(led, mode):
    led(mode)
    pool = registry.connection_pools["default"]
    with pool.lease(), pool.lease(), pytest.raises(PoolTimeout) as caught:
        Item.objects.create(name="new")
    assert not isinstance(caught.value, PrimaryUnavailable)
    assert not is_read_only()


def test_a_paused_one_is_not_either(led):
    led("transaction")
    pool = registry.connection_pools["default"]
    pool.pause()
    with pytest.raises(OperationalError) as caught:
        Item.objects.create(name="new")
    pool.resume()
    assert not isinstance(caught.value, PrimaryUnavailable)
    assert not is_read_only()


def test_a_replica_that_gives_no_connection_is_no_primary(led, routed):
    led("transaction")
    routed.replicas[0].stop()
    try:
        connections["replica"].close()
        connections["replica"].pool.timeout = 0.2  # type: ignore[attr-defined]
        with pytest.raises(PoolTimeout) as caught:
            Item.objects.using("replica").count()
    finally:
        routed.replicas[0].start()
        routed.replicas[0].wait_streaming()
    assert not isinstance(caught.value, PrimaryUnavailable)


def test_where_nobody_looks_it_is_not_known(stopped, settings, monkeypatch):
    clusters = {"default": {"replicas": ["replica"], "watch": False}}
    settings.POOLKIT = {**settings.POOLKIT, "CLUSTERS": clusters}
    stopped("transaction")
    begun: list[None] = []
    monkeypatch.setattr(monitor, "start", lambda: begun.append(None))
    with pytest.raises(PrimaryUnavailable):
        Item.objects.create(name="new")
    assert not is_read_only()
    monkeypatch.setattr(monitor, "started", True)
    assert (begun, shown()) == ([], {})


def test_to_ask_begins_to_look(routed, monkeypatch):
    begun: list[None] = []
    monkeypatch.setattr(module.monitor, "start", lambda: begun.append(None))
    assert not is_read_only()
    assert begun == [None]
    with pytest.raises(KeyError):
        is_read_only("nothing")


# -- a replica in the primary's place


@pytest.fixture
def moving(led: Any, routed: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that has `default` lead to a name, and that name: first to a replica's."""
    monkeypatch.setattr(ports, "note_standby", outage.note_standby)
    first = routed.replicas[1]
    with TCPProxy(first.host, first.port) as name:

        def lead(mode: str) -> TCPProxy:
            connections["default"].close()
            del connections["default"]
            connections.settings["default"] = entry(
                routed.primary,
                HOST=name.host,
                PORT=name.port,
                OPTIONS={
                    "pool": {"max_size": 2, "mode": mode, "timeout": 5.0},
                    "sslmode": "disable",
                    "gssencmode": "disable",
                },
            )
            return name

        yield lead
        registry.pools.close_all()


@MODES
def test_a_write_to_a_replica_is_raised_and_its_name_is_looked_up_again(moving, routed, mode):
    # Scenario 22.
    name = moving(mode)
    with pytest.raises(InternalError, match="read-only transaction"):
        Item.objects.create(name="new")
    assert is_read_only()
    assert monitor.refusal(clusters()["default"]) == "not_a_primary"
    assert monitor._wake.is_set()
    name._target = routed.primary.host, routed.primary.port  # somebody mends it
    connections["default"].close()  # the request ends
    assert Item.objects.create(name="new").pk
    assert registry.connection_pools["default"].stats().closed == {"read_only": 1}
    monitor.look()
    assert not is_read_only()


def test_who_may_not_write_on_a_primary_is_told_nothing_else(led, monkeypatch):
    led("transaction")
    monkeypatch.setattr(ports, "note_standby", outage.note_standby)
    with pytest.raises(InternalError), transaction.atomic():
        with connections["default"].cursor() as cursor:
            cursor.execute("SET TRANSACTION READ ONLY")
        Item.objects.create(name="new")
    assert not is_read_only()
    assert "read_only" not in registry.connection_pools["default"].stats().closed


def test_a_write_to_a_replica_by_its_own_alias_says_nothing_of_the_primary(led, monkeypatch):
    led("transaction")
    monkeypatch.setattr(ports, "note_standby", outage.note_standby)
    with pytest.raises(InternalError):
        Item.objects.using("replica").create(name="new")
    assert not is_read_only()
