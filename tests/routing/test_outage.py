"""A primary that is not there: replicas are read on, and who writes is told why it cannot."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import psycopg_pool
import pytest
from django.db import InternalError, OperationalError, connections, router, transaction

from django_poolkit import PoolTimeout, exhaustion, registry
from django_poolkit.backends import ports
from django_poolkit.metrics.families import READ_ONLY
from django_poolkit.metrics.readings import readings
from django_poolkit.pools.postgres import patience
from django_poolkit.routing import PrimaryUnavailable, idempotent, is_read_only, outage, scope
from django_poolkit.routing import monitor as module
from django_poolkit.routing.monitor import monitor
from django_poolkit.routing.topology import clusters
from django_poolkit.testing import Cluster
from django_poolkit.testing.faults import TCPProxy
from django_poolkit.testing.waiting import wait_until
from tests.app.models import Item
from tests.routing.conftest import entry, in_thread

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
    assert not registry.connection_pools["default"].server_lost
    monkeypatch.setattr(monitor, "started", True)
    assert (begun, shown()) == ([], {})


def test_to_ask_begins_to_look(routed, monkeypatch):
    begun: list[None] = []
    monkeypatch.setattr(module.monitor, "start", lambda: begun.append(None))
    assert not is_read_only()
    assert begun == [None]
    with pytest.raises(KeyError):
        is_read_only("nothing")


# -- known to be down


def refused() -> PrimaryUnavailable:
    with pytest.raises(PrimaryUnavailable) as caught:
        Item.objects.create(name="new")
    return caught.value


@MODES
def test_while_it_is_known_to_be_down_who_writes_is_told_at_once(stopped, mode):
    cluster = stopped(mode)
    monitor.look()
    assert refused().waited < 0.5 * 3  # what is left of the timeout since the look
    pool = registry.connection_pools["default"]
    assert is_read_only()
    wait_until(lambda: not pool.stats().connecting, message="it goes on connecting")
    tried = pool.stats().connect_errors
    for _ in range(20):
        error = refused()
        assert error.waited < 0.5  # no timeout
        assert error.reason == "refuses"
        assert "lost for" in str(error)
    assert pool.stats().connect_errors == tried  # and no connect
    cluster.primary.start()
    refused()  # nobody has seen it yet
    monitor.look()
    assert Item.objects.create(name="new").pk


def test_the_word_that_it_is_down_does_not_outlive_those_who_look(stopped, monkeypatch):
    monkeypatch.setattr(patience, "_WORD", 0.0)
    stopped("transaction")
    monitor.look()
    assert not registry.connection_pools["default"].server_lost
    assert refused().waited >= 0.5


def test_a_restart_is_waited_out(led):
    cluster = led("transaction", timeout=60.0)
    cluster.primary.stop()
    pool = registry.connection_pools["default"]
    with ThreadPoolExecutor(1) as executor:
        try:
            monitor.look()
            assert is_read_only()
            writing = executor.submit(in_thread, lambda: Item.objects.create(name="new").pk)
            wait_until(lambda: pool.stats().waiters == 1, message="nobody waits")
        finally:
            cluster.primary.start()
            for node in cluster.replicas:
                node.wait_streaming()
        monitor.look()
        assert writing.result(60.0)


def test_a_primary_that_is_silent_is_known_to_be_down_at_the_second_look(led, monkeypatch):
    monkeypatch.setattr(module, "BUDGET", 0.3)
    cluster = led("transaction")
    monitor.look()
    cluster.primary.pause()
    try:
        monitor.look()
        assert not is_read_only()
        assert monitor._alert  # the next look comes soon
        monitor.look()
        assert is_read_only()
    finally:
        cluster.primary.resume()
    monitor.look()
    assert not is_read_only()


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


@MODES
def test_a_write_that_may_be_made_again_is_made_again_once(moving, routed, mode):
    name = moving(mode)
    # Nothing has changed: it is tried once more, and raised.
    with idempotent(), pytest.raises(InternalError, match="read-only transaction"):
        Item.objects.create(name="new")
    connections["default"].close()
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT 1")  # a connection to the replica that goes on
    name._target = routed.primary.host, routed.primary.port
    with idempotent():
        Item.objects.create(name="new")
    assert routed.primary.execute("SELECT count(*) FROM app_item WHERE name = 'new'") == [(1,)]


@MODES
@pytest.mark.parametrize("way", ["atomic", "pinned", "unflagged"])
def test_nothing_else_is_made_again(moving, routed, mode, way):
    name = moving(mode)
    wrapper: Any = connections["default"]
    with wrapper.cursor() as cursor:
        cursor.execute("SELECT 1")
    name._target = routed.primary.host, routed.primary.port
    around = {"atomic": transaction.atomic, "pinned": wrapper.pinned, "unflagged": nullcontext}[way]
    flagged = nullcontext() if way == "unflagged" else idempotent()
    with flagged, pytest.raises(InternalError, match="read-only"), around():
        if way == "pinned":
            with wrapper.cursor() as cursor:
                cursor.execute("SET lock_timeout = '5s'")
        Item.objects.create(name="new")
    assert routed.primary.execute("SELECT count(*) FROM app_item WHERE name = 'new'") == [(0,)]


@pytest.mark.parametrize("code", ["40001", "40P01"])
def test_what_the_primary_cannot_serialize_is_raised_as_it_is(led, code):
    led("transaction")
    statement = f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END $$"
    pool = registry.connection_pools["default"]
    for flagged in (nullcontext(), idempotent()):
        connections["default"].close()
        tries = pool.stats().acquired
        raised = pytest.raises(OperationalError)
        with flagged, raised as caught, connections["default"].cursor() as cursor:
            cursor.execute(statement)
        assert caught.value.__cause__.sqlstate == code  # type: ignore[union-attr]
        assert pool.stats().acquired == tries + 1
    assert not is_read_only()
    assert not dict(pool.stats().read_retries)
