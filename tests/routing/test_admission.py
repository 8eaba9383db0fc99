"""What is read where not all replicas are well."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import pytest
from django.db import OperationalError, connections, transaction

from django_poolkit import registry
from django_poolkit.routing import (
    NoReplica,
    admission,
    choice,
    outgoing,
    readable,
    scope,
    use_replica,
)
from django_poolkit.routing import monitor as looks
from django_poolkit.routing.breaker import GOOD_LOOKS, RAMP, Circuit, Reason
from django_poolkit.routing.monitor import Monitor, monitor
from django_poolkit.routing.scopes import Settled
from django_poolkit.routing.topology import clusters
from django_poolkit.routing.watching import watched as told
from django_poolkit.testing import Cluster, Node
from django_poolkit.testing.routing import (
    RoutingLog,
    assert_routed,
    promote,
    record_routing,
    replica_down,
)
from django_poolkit.testing.waiting import wait_until
from tests.app.models import Item
from tests.routing.conftest import alias_of, entry, seen
from tests.routing.test_monitor import hosts


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def evicted(reason: Reason) -> Circuit:
    circuit = Circuit(Clock())
    circuit.bad(reason)
    return circuit


def on_trial(after: float = 0.0) -> Circuit:
    circuit = evicted("refuses")
    for _ in range(GOOD_LOOKS):
        circuit.good()
    assert circuit.state == "trial"
    circuit._clock.now += after  # type: ignore[attr-defined]
    return circuit


@pytest.fixture
def well() -> Iterator[None]:
    """Nothing is known of any host before the test, and after it."""
    admission.publish({})
    yield
    admission.publish({})


@pytest.fixture
def pair(routed: Cluster, settings: Any, well: None) -> Any:
    """Return a function that makes a cluster of two replicas with aliases of their own."""
    connections.settings["second"] = entry(routed.replicas[1])

    def of(**more: Any) -> None:
        clusters = {"default": {"replicas": ["replica", "second"], **more}}
        settings.POOLKIT = {**settings.POOLKIT, "CLUSTERS": clusters}

    of()
    return of


@pytest.fixture
def twins(routed: Cluster, well: None, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The alias `replica` leads to both replicas, of which a scope chooses."""
    monkeypatch.setattr("django_poolkit.backends.ports.choose_host", choice.host_for)
    connections["replica"].close()
    del connections["replica"]
    connections.settings["replica"] = hosts(routed)
    return routed


def why(**hints: Any) -> tuple[str, str]:
    """Return where the router has an item read, and for what reason."""
    log = RoutingLog()
    with told(log):
        alias = alias_of(**hints)
    return alias, log.decisions[-1].reason


def each_scope(times: int = 40) -> collections.Counter[str]:
    found: collections.Counter[str] = collections.Counter()
    for _ in range(times):
        with scope():
            [alias] = {alias_of() for _ in range(3)}
        found[alias] += 1
    return found


# -- aliases


def test_an_evicted_replica_is_left_out_in_scopes_and_outside(pair):
    assert set(each_scope()) == {"replica", "second"}
    admission.publish({"replica": evicted("lag"), "second": Circuit()})
    assert each_scope() == {"second": 40}
    assert {alias_of() for _ in range(40)} == {"second"}


def test_a_scope_leaves_a_replica_that_is_evicted_meanwhile(pair):
    with scope():
        first = alias_of()
        [other] = {"replica", "second"} - {first}
        admission.publish({first: evicted("refuses")})
        assert alias_of() == other
        admission.publish({})
        assert alias_of() == other


def test_who_was_sent_to_the_primary_stays_there(pair):
    with scope() as here:
        admission.publish({"replica": evicted("lag"), "second": evicted("cut")})
        assert why() == ("default", "all_down")
        admission.publish({})
        assert why() == ("default", "all_down")
        with use_replica():
            assert alias_of() in ("replica", "second")
        assert here.behind == {"default"}
    with scope():
        assert why()[1] == "read"


def test_what_was_seen_of_the_primary_goes_with_the_visitor(pair, monkeypatch):
    monkeypatch.setattr(outgoing, "BUDGET", 10.0)
    admission.publish({"replica": evicted("lag"), "second": evicted("cut")})
    with scope() as here:
        here.visitor = b"somebody"
        assert Item.objects.count() == 0
    floor = outgoing.outgoing(here)["default"]
    assert floor.position is not None
    with scope() as nobody:
        assert Item.objects.count() == 0
    assert outgoing.outgoing(nobody) == {}


def test_a_trial_is_for_a_share_of_the_scopes_that_grows(pair):
    admission.publish({"replica": evicted("lag"), "second": on_trial()})
    found = each_scope(1000)
    assert set(found) == {"default", "second"}
    assert 50 < found["second"] < 160
    admission.publish({"replica": evicted("lag"), "second": on_trial(RAMP / 2)})
    assert 450 < each_scope(1000)["second"] < 650
    admission.publish({"replica": evicted("lag"), "second": on_trial(RAMP)})
    assert each_scope() == {"second": 40}
    # Beside one that is well it gets its part of what both have.
    admission.publish({"second": on_trial()})
    assert 10 < each_scope(1000)["second"] < 100


@pytest.mark.parametrize("reason", ["lag", "cut"])
def test_stale_rows_are_better_than_none_where_it_is_said_so(pair, reason):
    pair(all_down="stale")
    admission.publish({"replica": evicted("refuses"), "second": evicted(reason)})
    with scope():
        assert why() == ("second", "read")
    admission.publish({"replica": evicted("refuses"), "second": evicted("system")})
    with scope():
        assert why() == ("default", "all_down")
    admission.publish({"replica": on_trial(), "second": evicted("refuses")})
    assert each_scope() == {"replica": 40}


def test_the_primary_can_be_spared(pair):
    pair(all_down="error")
    admission.publish({"replica": evicted("refuses"), "second": evicted("lag")})
    with scope():
        with pytest.raises(NoReplica, match="cluster 'default'") as caught:
            Item.objects.count()
        assert isinstance(caught.value, OperationalError)
        with use_replica():
            assert alias_of() == "second"
    # What is read of the primary anyhow is read.
    with scope() as here:
        here.wrote.add("default")
        assert why() == ("default", "wrote")
    admission.publish({"replica": on_trial(), "second": evicted("lag")})
    assert each_scope() == {"replica": 40}


def found_well() -> Circuit:
    circuit = evicted("refuses")
    circuit.good()
    assert circuit.state == "evicted"
    return circuit


@pytest.mark.parametrize("policy", ["primary", "stale"])
def test_while_the_primary_is_down_who_was_found_well_once_is_read(pair, policy):
    pair(all_down=policy)
    cluster = clusters()["default"]
    admission.publish({"replica": found_well(), "second": evicted("refuses")})
    assert each_scope() == {"default": 40}
    assert readable.others(cluster, None, {"second"}, asked_for=False) == ()
    monitor.lost(cluster, "refuses")
    try:
        assert each_scope() == {"replica": 40}
        assert readable.others(cluster, None, {"second"}, asked_for=False) == ("replica",)
        assert readable.others(cluster, None, {"replica"}, asked_for=False) == ()
        with scope() as here:  # but by nobody before what it must see
            had = {"default": Settled(MappingProxyType({"second": None}))}
            here.settled = MappingProxyType(had)
            assert why() == ("default", "all_down")
        # Rows that are too old are read where that is wanted, and only there.
        admission.publish({"replica": evicted("refuses"), "second": evicted("lag")})
        assert each_scope() == {"second" if policy == "stale" else "default": 40}
    finally:
        monitor.forget()


def test_where_the_primary_is_spared_who_was_found_well_once_is_read(pair):
    pair(all_down="error")
    admission.publish({"replica": found_well(), "second": evicted("lag")})
    assert each_scope() == {"replica": 40}


def test_a_host_that_was_found_well_comes_before_one_that_is_late():
    admission.publish({"one": evicted("lag"), "other": found_well(), "third": evicted("refuses")})
    try:
        assert admission.best(["one", "other", "third"], 0.5) == ["other"]
        assert admission.best(["one", "third"], 0.5) == ["one"]
    finally:
        admission.publish({})


@pytest.mark.parametrize("policy", ["primary", "stale", "error"])
def test_nobody_reads_before_what_it_must_see(pair, policy):
    pair(all_down=policy)
    admission.publish({"replica": evicted("lag")})
    with scope() as here:
        here.settled = MappingProxyType({"default": Settled(MappingProxyType({"replica": None}))})
        # The one that has it is left, and the other has not got it.
        assert why()[0] == ("replica" if policy == "stale" else "default")


def test_use_replica_takes_one_that_is_late_before_the_primary(pair):
    admission.publish({"replica": evicted("refuses"), "second": evicted("lag")})
    with scope(), use_replica():
        assert why() == ("second", "use_replica")
    admission.publish({"replica": evicted("refuses"), "second": evicted("timeline")})
    with scope(), use_replica():
        assert why() == ("default", "all_down")


# -- hosts


def host() -> str:
    """Return the host of `replica` that was read last in this thread."""
    wrapper: Any = connections["replica"]
    return wrapper._host  # type: ignore[no-any-return]


def read_by(times: int = 10) -> set[str]:
    """Return which hosts of `replica` scopes have read."""
    found = set()
    for number in range(times):
        if number % 2:
            with scope():
                seen()
                found.add(host())
                connections["replica"].close()
        else:
            seen()
            found.add(host())
            connections["replica"].close()
    return found


def test_an_evicted_host_is_read_by_nobody(twins):
    assert read_by(20) == {"one", "other"}
    admission.publish({"replica/one": evicted("lag")})
    assert read_by() == {"other"}
    admission.publish({"replica/one": evicted("lag"), "replica/other": evicted("refuses")})
    with assert_routed("primary"):
        seen()
    # By its name it is read all the same, and the one that answers before the other.
    assert list(Item.objects.using("replica")) == []
    assert host() == "one"


def test_who_holds_a_connection_of_a_host_leaves_it_when_that_is_evicted(twins, monkeypatch):
    monkeypatch.setattr("django_poolkit.backends.ports.keeps_host", choice.keeps_host)
    connections.settings["replica"]["OPTIONS"]["pool"] = {"max_size": 4, "mode": "session"}
    seen()
    first = host()
    [other] = {"one", "other"} - {first}
    admission.publish({f"replica/{first}": on_trial()})
    seen()
    assert host() == first
    admission.publish({f"replica/{first}": evicted("lag"), f"replica/{other}": evicted("lag")})
    list(Item.objects.using("replica"))
    assert host() == first
    with transaction.atomic(using="replica"):
        admission.publish({f"replica/{first}": evicted("lag")})
        list(Item.objects.using("replica"))
        assert host() == first
    seen()
    assert host() == other
    connections["replica"].close()


def test_rows_of_something_else_are_no_way_out(twins):
    admission.publish({"replica/one": evicted("system")})
    assert read_by() == {"other"}
    twins.replicas[1].stop()
    try:
        registry.connection_pools["replica/other"].close()
        with scope(), pytest.raises(NoReplica, match="no host is left that has the rows"):
            seen()
    finally:
        connections["replica"].close()
        twins.replicas[1].start()
        twins.replicas[1].wait_streaming()


def test_a_visitor_goes_elsewhere_while_its_own_host_is_left(twins):
    admission.publish({"replica/one": evicted("lag")})
    strays = 0
    for number in range(20):
        with scope() as here:
            here.visitor = str(number).encode()
            seen()
            assert host() == "other"
            strays += bool(here.strays)
        connections["replica"].close()
    assert 0 < strays < 20  # those whose own it was


def test_what_was_read_of_a_host_on_trial_goes_with_the_visitor(twins):
    for number in range(20):
        admission.publish({"replica/one": on_trial(RAMP)})
        with scope() as here:
            here.visitor = str(number).encode()
            seen()
            expected = {("replica", "one")} if host() == "one" else set()
            assert here.strays == expected
        connections["replica"].close()


def test_what_was_read_of_an_alias_on_trial_goes_with_the_visitor(pair):
    admission.publish({"second": on_trial(RAMP)})
    for number in range(20):
        with scope() as here:
            here.visitor = str(number).encode()
            alias = alias_of()
            assert here.strays == ({("second", None)} if alias == "second" else set())


# -- who looks


def test_the_first_read_that_may_go_to_a_replica_begins_the_looks(pair, monkeypatch):
    begun = []
    monkeypatch.setattr(monitor, "start", lambda: begun.append(1))
    with scope() as here:
        here.wrote.add("default")
        alias_of()
        with record_routing():
            here.wrote.clear()
            alias_of()
        assert begun == []
        alias_of()
        assert begun == [1]
    pair(watch=False)
    alias_of()
    assert begun == [1]


def test_what_is_recorded_does_not_depend_on_servers(pair):
    admission.publish({"replica": evicted("lag"), "second": evicted("lag")})
    with scope(), record_routing(), assert_routed("replica"):
        assert seen() == set()


# -- on real servers


@contextmanager
def replica_down_unseen(node: Node) -> Iterator[None]:
    """Have a replica be down, which nobody is told."""
    node.stop()
    try:
        yield
    finally:
        connections["replica"].close()
        node.start()
        node.wait_streaming()


@pytest.fixture
def eye(twins: Cluster) -> Monitor:
    """A monitor that looks when it is told to."""
    made = Monitor()
    made.look()
    return made


def test_the_primary_serves_while_all_replicas_are_down(eye, twins):
    # Scenario 17.
    with scope():
        seen()
    connections["replica"].close()
    for node in twins.replicas:
        node.stop()
    try:
        eye.look()
        for _ in range(5):
            with scope(), assert_routed("primary") as log:
                seen()
            assert log.decisions[-1].reason == "all_down"
    finally:
        for node in twins.replicas:
            node.start()
            node.wait_streaming()
    for _ in range(GOOD_LOOKS):
        assert each_scope(10) == {"default": 10}
        eye.look()
    found = each_scope(1000)
    # Each scope draws once, and takes part in the trials of both or of none.
    assert 50 < found["replica"] < 160
    for circuit in eye._circuits.values():
        circuit._clock = lambda: float("inf")
    eye.look()
    assert each_scope(100) == {"replica": 100}
    assert read_by(20) == {"one", "other"}


def test_a_host_that_stops_costs_no_error_and_one_eviction(eye, twins):
    # Scenario 14: with connections that wait in its pool.
    read_by(20)
    twins.replicas[0].stop()
    try:
        assert read_by() == {"other"}
        eye.look()
        assert read_by() == {"other"}
        eye.look()
        stats = registry.connection_pools["replica/one"].stats()
        assert dict(stats.evictions) == {"refuses": 1}
    finally:
        connections["replica"].close()
        twins.replicas[0].start()
        twins.replicas[0].wait_streaming()


def test_who_meets_a_host_that_is_down_has_it_looked_at(twins, monkeypatch):
    eye = Monitor()
    monkeypatch.setattr(looks, "CALM", (600.0, 600.0))
    monkeypatch.setattr(choice, "monitor", eye)
    monkeypatch.setattr("django_poolkit.backends.ports.note_refusal", choice.note_refusal)
    eye.start()
    try:
        wait_until(lambda: len(eye._circuits) == 2, message="nobody looks")
        with replica_down_unseen(twins.replicas[0]):
            assert read_by() == {"other"}
            wait_until(lambda: "replica/one" in admission.troubled, message="nobody has looked")
            eye._wake.clear()
            choice.note_refusal("replica", "one")  # as is known by now
            assert not eye._wake.is_set()
            choice.note_refusal("elsewhere", "one")
            assert not eye._wake.is_set()
    finally:
        eye.close(5.0)


def test_reads_go_on_without_a_primary(eye, twins):
    # The first half of scenario 18.
    twins.primary.execute("INSERT INTO app_item (name, created) VALUES ('old', now())")
    for node in twins.replicas:
        twins.primary.wait_caught_up(node)
    eye.look()
    connections["default"].close()
    twins.primary.stop("immediate")
    try:
        for _ in range(3):
            eye.look()
        for _ in range(4):
            with scope():
                assert seen() == {"old"}
    finally:
        connections["replica"].close()
        twins.primary.start()
        for node in twins.replicas:
            node.wait_streaming()


# -- what tests do to servers


def test_a_replica_that_is_down_for_a_test_is_read_again_after_it(twins):
    try:
        with replica_down(twins.replicas[0]):
            assert not twins.replicas[0].running
            assert list(admission.troubled) == ["replica/one"]
            assert read_by() == {"other"}
        assert admission.troubled == {}
        assert twins.replicas[0].streaming
        assert read_by(20) == {"one", "other"}
        with pytest.raises(RuntimeError), replica_down(*twins.replicas):
            raise RuntimeError
        assert admission.troubled == {}
        assert all(node.streaming for node in twins.replicas)
    finally:
        monitor.forget()


def test_a_promotion_is_followed_by_those_who_are_told_to(twins):
    # The cluster is gone after it, so it is one of its own.
    with Cluster(replicas=2) as cluster:
        first, second = cluster.replicas
        connections.settings["default"] = entry(cluster.primary)
        connections.settings["replica"] = hosts(cluster)
        monitor.forget()
        try:
            monitor.look()
            assert admission.troubled == {}
            cluster.primary.stop()
            promote(first, second)
            # It has all the rows that there are, and is read until the primary's alias leads there.
            assert admission.troubled == {}
            # Where the primary's alias leads there, too, it is the same server.
            connections.settings["default"] = entry(first)
            monitor.forget()
            monitor.look()
            assert admission.troubled == {}
            first.execute("CREATE TABLE after_it (x int)")
            first.wait_caught_up(second)
            second.cut_streaming()
            second.restore_streaming()
            assert second.upstream is first
        finally:
            monitor.forget()
            connections["replica"].close()
            registry.pools.close_all()
