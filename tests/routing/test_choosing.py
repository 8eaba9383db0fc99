"""How a cluster chooses among its replicas, on real ones: once a scope, and nobody goes back."""

from __future__ import annotations

import contextvars
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from django.db import connections, transaction

from django_poolkit.backends import ports
from django_poolkit.backends.rota import rota
from django_poolkit.registry import connection_pools
from django_poolkit.routing import admission, choice, figures, loads, members, scope
from django_poolkit.routing.breaker import Circuit
from django_poolkit.routing.floors import Position
from django_poolkit.routing.monitor import Monitor
from django_poolkit.routing.outgoing import outgoing
from django_poolkit.routing.settling import settle
from django_poolkit.routing.topology import clusters
from tests.app.models import Item
from tests.routing.conftest import alias_of, entry
from tests.routing.test_settling import to_hosts

Choose = Callable[[str], None]
STRATEGIES = pytest.mark.parametrize("by", ["round_robin", "random", "least_used", "latency"])


@pytest.fixture
def choose(routed: Any, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Choose]:
    """Return a function that sets how to choose. The alias `replica` leads to `r1` and `r2`."""
    monkeypatch.setattr(ports, "choose_host", choice.host_for)
    to_hosts(routed)
    rota._turns.clear()

    def be(by: str) -> None:
        sections = {"default": {"replicas": ["replica"], "choice": by}}
        settings.POOLKIT = {**settings.POOLKIT, "CLUSTERS": sections}

    yield be
    rota._turns.clear()
    loads.forget()
    admission.publish({})


@pytest.fixture
def choose_alias(routed: Any, settings: Any) -> Iterator[Choose]:
    """The same for two aliases, `replica` and `second`."""
    connections.settings["second"] = entry(routed.replicas[1])
    rota._turns.clear()

    def be(by: str) -> None:
        sections = {"default": {"replicas": ["replica", "second"], "choice": by}}
        settings.POOLKIT = {**settings.POOLKIT, "CLUSTERS": sections}

    yield be
    rota._turns.clear()
    loads.forget()


def read(visitor: bytes | None = None) -> str:
    """Read twice in a scope; return from which host."""
    with scope() as here:
        here.visitor = visitor
        Item.objects.count()
        first = here.hosts["replica"]
        Item.objects.exists()
        assert here.hosts["replica"] == first
        return first


@STRATEGIES
def test_a_scope_reads_one_host_in_all_of_its_threads(choose, by):
    choose(by)
    for _ in range(10):
        barrier = Barrier(4)

        def count(barrier: Barrier = barrier) -> None:
            barrier.wait(10.0)
            try:
                Item.objects.count()
            finally:
                connections.close_all()

        with scope() as here, ThreadPoolExecutor(4) as threads:
            seen = [threads.submit(contextvars.copy_context().run, count) for _ in range(4)]
            for each in seen:
                each.result()
            assert len(here.hosts) == 1
    assert {read() for _ in range(40)} == {"r1", "r2"}


@STRATEGIES
def test_visitors_are_spread_as_anybody_is(choose, by):
    choose(by)
    assert {read(b"one and the same") for _ in range(40)} == {"r1", "r2"}
    choose("visitor")
    assert len({read(b"one and the same") for _ in range(10)}) == 1


def test_turns_alternate(choose):
    choose("round_robin")
    names = [read(b"ada" if turn % 2 else None) for turn in range(20)]
    assert Counter(names) == {"r1": 10, "r2": 10}
    assert all(one != other for one, other in itertools.pairwise(names))


def test_a_host_that_has_less_to_do_is_read(choose):
    choose("least_used")
    read()
    for name, other in (("r1", "r2"), ("r2", "r1")):
        with connection_pools[f"replica/{name}"].lease():
            assert {read() for _ in range(10)} == {other}


def test_a_host_that_is_clearly_quicker_is_read(choose):
    choose("latency")
    for name, other in (("r1", "r2"), ("r2", "r1")):
        loads.forget()
        loads.note({f"replica/{name}": 0.001, f"replica/{other}": 0.01})
        assert {read() for _ in range(10)} == {name}


def test_a_look_says_how_quick_servers_are(choose, routed):
    eye = Monitor()
    try:
        eye.look()
        assert set(loads.latencies) == {"replica/r1", "replica/r2"}
        assert all(0.0 < seconds < 2.0 for seconds in loads.latencies.values())
        routed.replicas[0].stop()
        try:
            eye.look()
            assert set(loads.latencies) == {"replica/r2"}
        finally:
            routed.replicas[0].start()
            routed.replicas[0].wait_streaming()
        eye.forget()
        assert loads.latencies == {}
    finally:
        eye.close(5.0)


def test_what_is_newer_counts_for_more_and_not_for_all():
    loads.forget()
    loads.note({"x": 0.010})
    assert loads.latencies == {"x": 0.010}
    loads.note({"x": 0.020})
    assert loads.latencies["x"] == pytest.approx(0.013)
    loads.forget()


@STRATEGIES
def test_who_is_evicted_is_not_chosen(choose, by):
    choose(by)
    circuit = Circuit()
    circuit.bad("lag")
    admission.publish({"replica/r1": circuit})
    assert {read() for _ in range(10)} == {"r2"}


@STRATEGIES
def test_a_visitor_takes_along_how_far_the_host_was(choose, by, routed, monkeypatch, settings):
    # What has it seen there that the next one may not have yet?
    settings.POOLKIT = {**settings.POOLKIT, "ROUTING": {"WAIT": 10.0}}
    choose(by)
    monkeypatch.setattr("django_poolkit.routing.outgoing.BUDGET", 10.0)
    behind, ahead = routed.replicas
    behind.pause_replay()
    Item.objects.create(name="of another")
    routed.primary.wait_caught_up(ahead)
    found = Counter[int]()
    for _ in range(12):
        with scope() as here:
            here.visitor = b"ada"
            first = Item.objects.count()
            floors = outgoing(here)
        with scope() as here:
            here.visitor = b"ada"
            for name, floor in floors.items():
                here.raise_floor(name, floor)
            settle(here)
            assert Item.objects.count() >= first
        found[first] += 1
    assert set(found) == {0, 1}


def test_a_primary_among_the_replicas_says_how_far_it_was(choose, routed, monkeypatch):
    monkeypatch.setattr("django_poolkit.routing.outgoing.BUDGET", 10.0)
    places = {"r1": routed.replicas[0], "r2": routed.primary}
    hosts = {key: {"HOST": node.host, "PORT": node.port} for key, node in places.items()}
    connections.settings["replica"]["OPTIONS"]["hosts"] = hosts
    choose("round_robin")
    routed.replicas[0].pause_replay()  # else nothing is to be taken along
    Item.objects.create(name="of another")
    found: dict[int, Position | None] = {}
    for _ in range(2):
        with scope() as here:
            here.visitor = b"ada"
            count = Item.objects.count()
            found[count] = outgoing(here)["default"].position
    assert found.keys() == {0, 1}
    assert found[0] is not None
    assert found[1] is not None
    assert found[1].lsn > found[0].lsn


@STRATEGIES
def test_aliases_are_chosen_alike(choose_alias, by):
    choose_alias(by)
    found = set()
    for visitor in (None, b"ada"):
        for _ in range(40):
            with scope() as here:
                here.visitor = visitor
                chosen = alias_of()
                assert {alias_of() for _ in range(3)} == {chosen}
                assert here.strays == ({(chosen, None)} if visitor else set())
            found.add((visitor, chosen))
    assert len(found) == 4


def test_an_alias_that_has_less_to_do_is_read(choose_alias):
    choose_alias("least_used")
    for name, other in (("replica", "second"), ("second", "replica")):
        with connections[name].cursor(), connection_pools[name].lease():
            for _ in range(5):
                with scope():
                    assert alias_of() == other


def test_one_replica_is_no_choice_and_nothing_to_take_along(routed, settings):
    sections = {"default": {"replicas": ["replica"], "choice": "random"}}
    settings.POOLKIT = {**settings.POOLKIT, "CLUSTERS": sections}
    with scope() as here:
        here.visitor = b"ada"
        assert alias_of() == "replica"
        assert not here.strays


def test_no_replica_is_a_visitors_own_that_would_be_waited_for(choose, routed, settings):
    settings.POOLKIT = {**settings.POOLKIT, "ROUTING": {"WAIT": 10.0}}
    choose("visitor")
    cluster = clusters()["default"]
    visitors = (f"visitor {n}".encode() for n in range(100))
    visitor = next(each for each in visitors if members.own_of(each, cluster)[1] == "r1")
    routed.replicas[0].pause_replay()
    with scope() as here, transaction.atomic():
        Item.objects.create(name="new")
    floors = dict(here.floors)
    routed.primary.wait_caught_up(routed.replicas[1])

    def arrive(by: str) -> str:
        choose(by)
        before = Counter(figures.figures.read())
        with scope() as here:
            here.visitor = visitor
            for name, floor in floors.items():
                here.raise_floor(name, floor)
            settle(here)
        [(_, outcome)] = (Counter(figures.figures.read()) - before).keys()
        return outcome

    assert arrive("visitor") == "waited"
    assert arrive("visitor") == "waited"  # for what its own says each time
    assert arrive("random") == "fast"


@pytest.mark.parametrize("by", ["visitor", "round_robin", "random"])
def test_aliases_have_shares_by_their_weights(choose_alias, settings, by):
    # Scenario 31.
    sections = {"default": {"replicas": {"replica": 3, "second": 1}, "choice": by}}
    settings.POOLKIT = {**settings.POOLKIT, "CLUSTERS": sections}
    rota._turns.clear()
    found: Counter[str] = Counter()
    for number in range(1000):
        with scope() as here:
            # Half of them are known, and have a share of their own each.
            here.visitor = number.to_bytes(8) if number % 2 else None
            found[alias_of()] += 1
    assert abs(found["replica"] - 750) <= 50


def test_outside_of_a_scope_too(choose_alias, settings):
    sections = {"default": {"replicas": {"replica": 3, "second": 1}}}
    settings.POOLKIT = {**settings.POOLKIT, "CLUSTERS": sections}
    found = Counter(alias_of() for _ in range(2000))
    assert abs(found["replica"] - 1500) <= 100
