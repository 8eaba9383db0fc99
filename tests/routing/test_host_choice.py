"""Which replica a scope reads, which host of it, and what goes along: without a server."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connections

from django_poolkit.pools.chance import chance
from django_poolkit.routing import (
    NoReplica,
    ReplicasBehind,
    admission,
    choice,
    loads,
    members,
    scope,
    strategies,
    use_primary,
    use_replica,
)
from django_poolkit.routing.scopes import Scope
from django_poolkit.routing.topology import cluster_of, clusters
from tests.routing.offline import Offline, at, evict, on_trial, settled

ALL = {"r1": 1.0, "r2": 1.0, "r3": 1.0}
VISITORS = [f"visitor {n}".encode() for n in range(60)]


@pytest.fixture(autouse=True)
def seeded():
    state = chance.getstate()
    chance.seed(31)
    yield
    chance.setstate(state)


def visit(visitor: bytes | None = None, **hosts: Any) -> Scope:
    """Return the scope of a visitor, who has to see what these have."""
    here = Scope()
    here.visitor = visitor
    if hosts:
        here.settled = {"default": settled(**hosts)}
    return here


def host(here: Scope, weights: dict[str, float] = ALL) -> str | None:
    with at(here):
        return choice.host_for("hosted", weights)


def alias(here: Scope | None, *replicas: str) -> str:
    cluster = cluster_of("default")
    assert cluster is not None
    return choice.one_of(cluster, here, replicas or cluster.replicas)


# -- hosts


def test_outside_of_a_scope_the_backend_chooses_while_all_are_well(offline: Offline) -> None:
    offline.be("hosted")
    assert choice.host_for("hosted", ALL) is None
    evict("hosted/r1")
    found = Counter(choice.host_for("hosted", {"r1": 1.0, "r2": 1.0, "r3": 3.0}) for _ in range(40))
    assert found == {"r2": 10, "r3": 30}  # in turns, by their weights


def test_outside_of_a_scope_a_host_on_trial_gets_a_part(offline: Offline) -> None:
    offline.be("hosted")
    admission.publish({"hosted/r1": on_trial()})
    found = Counter(choice.host_for("hosted", ALL) for _ in range(3000))
    assert 50 <= found["r1"] <= 170  # a third of a tenth
    assert set(found) == set(ALL)


def test_a_scope_reads_one_host_of_each_alias_and_they_take_turns(offline: Offline) -> None:
    offline.be("hosted")
    found: Counter[str | None] = Counter()
    for _ in range(30):
        here = visit()
        first = host(here)
        assert {host(here) for _ in range(5)} == {first}
        assert here.hosts == {"hosted": first}
        assert not here.strays  # nobody comes back
        found[first] += 1
    assert found == {"r1": 10, "r2": 10, "r3": 10}
    # Another one takes its place where it refuses, for good.
    here = visit()
    first = host(here)
    second = host(here, {key: 1.0 for key in ALL if key != first})
    assert second != first
    assert host(here) == second


def test_aliases_of_no_cluster_take_turns_too(offline: Offline) -> None:
    offline.be("replica")
    here = visit(b"ada", replica={"r1"})
    assert host(here, {"r3": 1.0}) == "r3"  # what the scope must see is of its cluster
    assert Counter(host(visit()) for _ in range(30)) == {"r1": 10, "r2": 10, "r3": 10}


def test_a_visitor_has_a_host_of_its_own(offline: Offline) -> None:
    offline.be("hosted")
    found = set()
    for visitor in VISITORS:
        here = visit(visitor)
        own = host(here)
        assert own == members.chosen_by(visitor, ALL)
        assert not here.strays
        assert here.hosts == {"hosted": own}
        found.add(own)
        # It goes elsewhere while that refuses, and takes along what it has read there.
        left = {key: 1.0 for key in ALL if key != own}
        second = host(here, left)
        assert second == members.chosen_by(visitor, left)
        assert here.strays == {("hosted", second)}
        assert host(here) == second
    assert found == set(ALL)


def test_a_visitor_whose_own_host_is_on_trial_takes_along_what_it_reads_there(
    offline: Offline,
) -> None:
    # Its next request may take no part in the trial.
    offline.be("hosted")
    visitor = next(each for each in VISITORS if members.chosen_by(each, ALL) == "r2")
    admission.publish({"hosted/r2": on_trial()})
    here = visit(visitor)
    here.draw = 0.05
    assert host(here) == "r2"
    assert here.strays == {("hosted", "r2")}
    there = visit(visitor)
    there.draw = 0.95
    other = host(there)
    assert other == members.chosen_by(visitor, {"r1": 1.0, "r3": 1.0})
    assert there.strays == {("hosted", other)}
    # While another one is on trial, it is a matter of that one's visitors.
    admission.publish({"hosted/r1": on_trial()})
    here = visit(visitor)
    assert host(here) == "r2"
    assert not here.strays


def test_who_is_evicted_is_chosen_by_no_scope(offline: Offline) -> None:
    for by in ("visitor", "round_robin", "random", "least_used", "latency"):
        offline.be("hosted", choice=by)
        evict("hosted/r1", "hosted/r3")
        for visitor in (None, *VISITORS[:20]):
            assert host(visit(visitor)) == "r2"


def test_only_hosts_that_have_what_is_to_be_seen_are_read(offline: Offline) -> None:
    for by in ("visitor", "round_robin", "random", "least_used", "latency"):
        offline.be("hosted", choice=by)
        for visitor in (None, *VISITORS[:20]):
            assert host(visit(visitor, hosted={"r1"})) == "r1"
            assert host(visit(visitor, hosted={"r1", "r2"}), {"r2": 1.0, "r3": 1.0}) == "r2"


def test_hosts_of_aliases_that_were_named_by_using_are_all_allowed(offline: Offline) -> None:
    offline.be("hosted", "replica")
    assert host(visit(None, replica=None), {"r3": 1.0}) == "r3"
    assert host(visit(None, hosted=None), {"r3": 1.0}) == "r3"


def test_where_none_is_left_that_has_it_the_rest_of_the_scope_reads_the_primary(
    offline: Offline,
) -> None:
    cluster = offline.be("hosted")
    here = visit(b"ada", hosted={"r2", "r1"})
    with at(here):
        assert choice.for_read(cluster, False) == ("hosted", "read")
        with pytest.raises(ReplicasBehind) as caught:
            choice.host_for("hosted", {"r3": 1.0})
        assert str(caught.value) == (
            "alias 'hosted': no host is left that has what this visitor has to see: 'r1', 'r2' "
            "had, and cannot be reached. What reads after this in the same scope reads the primary"
        )
        assert choice.for_read(cluster, False) == ("default", "token")
        # Another thread may have been sent there already.
        with pytest.raises(ReplicasBehind) as caught:
            choice.host_for("hosted", ALL)
        assert str(caught.value) == (
            "alias 'hosted': no host is left that has what this visitor has to see. "
            "What reads after this in the same scope reads the primary"
        )


def test_who_asks_for_a_replica_takes_what_there_is(offline: Offline) -> None:
    offline.be("hosted")
    here = visit(None, hosted={"r1"})
    with use_replica("default"):
        assert host(here, {"r1": 1.0, "r2": 1.0}) == "r1"  # but the better one, if it is there
        assert host(here, {"r3": 1.0}) == "r3"
    with use_replica("other"), pytest.raises(ReplicasBehind):
        host(here, {"r3": 1.0})
    assert here.settled == {"default": settled(hosted=set())}


def test_where_all_that_are_of_the_cluster_refuse_nobody_is_read(offline: Offline) -> None:
    offline.be("hosted")
    evict("hosted/r3", reason="system")
    with pytest.raises(NoReplica, match="no host is left that has the rows of its cluster"):
        host(visit(), {"r3": 1.0})


@pytest.mark.parametrize("by", ["round_robin", "random", "least_used", "latency"])
def test_by_another_choice_visitors_go_anywhere_and_take_it_along(
    offline: Offline, by: str
) -> None:
    offline.be("hosted", choice=by)
    found: Counter[str | None] = Counter()
    for _ in range(60):
        here = visit(b"ada")
        first = host(here)
        assert {host(here) for _ in range(3)} == {first}
        assert here.hosts == {"hosted": first}
        assert here.strays == {("hosted", first)}
        assert not visit_nobody(by).strays
        found[first] += 1
    assert set(found) == set(ALL)
    here = visit(b"ada")
    first = host(here)
    left = {key: 1.0 for key in ALL if key != first}
    second = host(here, left)
    assert second in left
    assert host(here) == second
    assert here.strays == {("hosted", first), ("hosted", second)}


def visit_nobody(by: str) -> Scope:
    here = visit()
    host(here)
    return here


def test_where_there_is_one_replica_nothing_has_to_be_taken_along(
    offline: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = {"r1": {"HOST": "192.0.2.1"}}
    entry = connections.settings["hosted"]
    monkeypatch.setitem(entry, "OPTIONS", {**entry["OPTIONS"], "hosts": one})
    offline.be("hosted", choice="round_robin")
    here = visit(b"ada")
    assert host(here, {"r1": 1.0}) == "r1"
    assert not here.strays
    # With another alias beside it there are two.
    offline.be("hosted", "replica", choice="round_robin")
    here = visit(b"ada")
    host(here, {"r1": 1.0})
    assert here.strays == {("hosted", "r1")}


def test_loads_are_those_of_the_hosts(offline: Offline) -> None:
    offline.be("hosted", choice="latency")
    loads.note({"hosted/r1": 0.050, "hosted/r2": 0.001, "hosted/r3": 0.050})
    found = Counter(host(visit()) for _ in range(300))
    # Of two that are drawn the quicker one: it is in two of three pairs.
    assert 160 <= found["r2"] <= 240


@pytest.mark.parametrize("by", ["visitor", "round_robin"])
@pytest.mark.parametrize("scoped", [True, False])
def test_hosts_take_turns_for_each_alias_by_itself(
    offline: Offline, monkeypatch: pytest.MonkeyPatch, by: str, scoped: bool
) -> None:
    monkeypatch.setitem(connections.settings, "second", connections.settings["hosted"])
    offline.be("hosted", "second", choice=by)
    evict("hosted/r3", "second/r3")
    found: Counter[Any] = Counter()
    for _ in range(20):
        with at(visit()) if scoped else nullcontext():
            for name in ("hosted", "second"):
                found[name, choice.host_for(name, ALL)] += 1
    assert len(found) == 4
    assert set(found.values()) == {10}


@pytest.mark.parametrize("by", ["visitor", "round_robin"])
def test_who_reads_often_takes_no_more_turns_than_one(offline: Offline, by: str) -> None:
    offline.be("hosted", choice=by)
    found: Counter[Any] = Counter()
    for _ in range(20):
        here = visit()
        found[{host(here, {"r1": 1.0, "r2": 1.0}) for _ in range(2)}.pop()] += 1
    assert found == {"r1": 10, "r2": 10}


def test_another_thread_may_have_chosen_before(
    offline: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline.be("hosted", choice="round_robin")
    for theirs, expected in (("r3", "r3"), ("gone", "r1")):
        here = visit(b"ada")

        def picks(*args: Any, here: Scope = here, theirs: str = theirs) -> str:
            here.hosts["hosted"] = theirs
            return "r1"

        monkeypatch.setattr(strategies, "pick", picks)
        assert host(here) == expected
        assert here.hosts == {"hosted": expected}
        assert here.strays == {("hosted", expected)}


def test_two_threads_of_a_scope_that_choose_at_once_read_one_host(offline: Offline) -> None:
    offline.be("hosted", choice="round_robin")
    here = visit()
    others: list[str] = []

    class Hosts(dict[str, str]):
        """Where another thread asks as soon as one has entered what it has chosen."""

        def setdefault(self, key: str, default: Any = None) -> Any:
            found = super().setdefault(key, default)
            if not others:
                others.append("")
                others[0] = host(here) or ""
            return found

    here.hosts = Hosts()
    assert [host(here)] == others


# -- hosts that are in use already


def test_a_host_in_use_is_kept_while_it_has_what_is_to_be_seen(offline: Offline) -> None:
    offline.be("hosted")

    def keeps(here: Scope, key: str = "r1") -> bool:
        with at(here):
            return choice.keeps_host("hosted", key)

    assert choice.keeps_host("hosted", "r1")
    assert keeps(visit())
    assert keeps(visit(None, hosted={"r1"}))
    assert keeps(visit(None, hosted=None))
    assert keeps(visit(None, replica={"r2"}))
    assert not keeps(visit(None, hosted={"r2"}))
    with use_replica("default"):
        assert keeps(visit(None, hosted={"r2"}))
    with use_replica("other"), use_primary("default"):
        assert not keeps(visit(None, hosted={"r2"}))
    of_another = Scope()
    of_another.settled = {"other": settled(hosted={"r2"})}
    assert keeps(of_another)
    offline.be("replica")
    assert keeps(visit(None, hosted={"r2"}))  # an alias of no cluster


def test_a_host_in_use_that_is_evicted_is_left_while_another_is_well(offline: Offline) -> None:
    offline.be("hosted")
    evict("hosted/r1")
    with scope():
        assert not choice.keeps_host("hosted", "r1")
        assert choice.keeps_host("hosted", "r2")
    assert not choice.keeps_host("hosted", "r1")
    with at(visit(None, hosted={"r3"})):
        assert not choice.keeps_host("hosted", "r2")
    evict("hosted/r1", "hosted/r2", "hosted/r3")
    assert choice.keeps_host("hosted", "r1")


def test_a_refusal_has_the_servers_looked_at_once(offline: Offline) -> None:
    offline.be("hosted", "replica")
    choice.note_refusal("hosted", "r1")
    choice.note_refusal("replica", None)
    assert offline.looks == ["nudge", "nudge"]
    evict("hosted/r1", "replica")
    choice.note_refusal("hosted", "r1")
    choice.note_refusal("replica", None)
    choice.note_refusal("nowhere", None)
    assert len(offline.looks) == 2
    choice.note_refusal("hosted", "r2")
    assert len(offline.looks) == 3
    offline.be("hosted", watch=False)
    choice.note_refusal("hosted", "r3")
    assert len(offline.looks) == 3


# -- aliases


def test_a_scope_reads_one_alias_and_they_take_turns(offline: Offline) -> None:
    offline.be("replica", "second", weights={"replica": 3.0, "second": 1.0})
    found: Counter[str] = Counter()
    for _ in range(40):
        here = visit()
        first = alias(here)
        assert {alias(here) for _ in range(5)} == {first}
        assert here.replicas == {"default": first}
        assert not here.strays
        found[first] += 1
    assert found == {"replica": 30, "second": 10}


def test_a_cluster_called_like_an_alias_does_not_take_its_turns(offline: Offline) -> None:
    # `default` is both: its turns among aliases are none of its turns among hosts.
    offline.be("replica", "second")
    found: Counter[Any] = Counter()
    for _ in range(20):
        found[alias(visit())] += 1
        with at(visit()):
            found[choice.host_for("default", {"r1": 1.0, "r2": 1.0})] += 1
    assert found == {"replica": 10, "second": 10, "r1": 10, "r2": 10}


@pytest.mark.parametrize("by", ["visitor", "round_robin"])
def test_each_cluster_begins_somewhere_of_its_own(offline: Offline, by: str) -> None:
    # Else many processes that begin at once would all begin with the same replica of the second.
    first: Counter[str] = Counter()
    for _ in range(30):
        replicas = ["other_replica", "other_second"]
        offline.be("replica", "second", choice=by, other={"replicas": replicas, "choice": by})
        alias(visit())
        other = clusters()["other"]
        first[choice.one_of(other, visit(), other.replicas)] += 1
    assert set(first) == {"other_replica", "other_second"}


def test_outside_of_a_scope_each_question_is_a_draw_by_weight(offline: Offline) -> None:
    offline.be(weights={"replica": 3.0, "second": 1.0})
    found = Counter(alias(None) for _ in range(2000))
    assert 1400 <= found["replica"] <= 1600
    assert alias(None, "second") == "second"


def test_an_only_replica_is_the_one(offline: Offline) -> None:
    for by in ("visitor", "random"):
        offline.be("replica", choice=by)
        for here in (None, visit(), visit(b"ada"), visit(b"ada", replica=None)):
            assert alias(here) == "replica"
            assert here is None or not here.strays


def test_a_scope_goes_elsewhere_once_its_alias_may_not_be_read(offline: Offline) -> None:
    offline.be("replica", "second")
    for visitor in (None, b"ada"):
        here = visit(visitor)
        first = alias(here)
        [other] = {"replica", "second"} - {first}
        assert alias(here, other) == other
        assert alias(here) == other
        assert here.replicas == {"default": other}


def test_only_aliases_that_have_what_is_to_be_seen_are_read(offline: Offline) -> None:
    offline.be("replica", "second", "hosted")
    for visitor in (None, *VISITORS[:20]):
        assert alias(visit(visitor, second=None, hosted=set())) == "second"
        assert alias(visit(visitor, hosted={"r2"})) == "hosted"
    # Where none has, it was asked for: then any will do.
    assert {alias(visit(None, hosted=set())) for _ in range(9)} == {"replica", "second", "hosted"}


def test_a_visitor_has_an_alias_of_its_own(offline: Offline) -> None:
    cluster = offline.be(weights={"replica": 1.0, "second": 2.0, "hosted": 1.0})
    seen = set()
    for visitor in VISITORS:
        own = members.own_of(visitor, cluster)[0]
        here = visit(visitor)
        assert alias(here) == own
        assert not here.strays
        seen.add(own)
        # Elsewhere it takes along what it reads: of several hosts, which one, is not known yet.
        others = [each for each in cluster.replicas if each != own]
        here = visit(visitor)
        found = alias(here, *others)
        assert found == members.chosen_by(visitor, members.shares_of(cluster, others))
        if found == "hosted":
            assert here.strays == {("hosted", "r1"), ("hosted", "r2"), ("hosted", "r3")}
        else:
            assert here.strays == {(found, None)}
    assert seen == set(cluster.replicas)


def test_a_visitor_whose_own_alias_is_on_trial_takes_along_what_it_reads_there(
    offline: Offline,
) -> None:
    cluster = offline.be("replica", "second", "hosted")
    admission.publish({"replica": on_trial(), "hosted": on_trial()})
    for visitor in VISITORS:
        own = members.own_of(visitor, cluster)[0]
        here = visit(visitor)
        assert alias(here) == own
        assert here.strays == ({("replica", None)} if own == "replica" else set())


@pytest.mark.parametrize("by", ["round_robin", "random", "least_used", "latency"])
def test_by_another_choice_visitors_go_to_any_alias(offline: Offline, by: str) -> None:
    offline.be("replica", "second", "hosted", choice=by)
    seen = set()
    for _ in range(60):
        here = visit(b"ada")
        first = alias(here)
        assert {alias(here) for _ in range(3)} == {first}
        # Which host of several, is found when that is chosen.
        assert here.strays == (set() if first == "hosted" else {(first, None)})
        nobody = visit()
        alias(nobody)
        assert not nobody.strays
        seen.add(first)
    assert seen == {"replica", "second", "hosted"}


def test_aliases_take_turns_by_their_weights_where_the_settings_say_turns(
    offline: Offline,
) -> None:
    offline.be(weights={"replica": 3.0, "second": 1.0}, choice="round_robin")
    assert Counter(alias(visit(b"ada")) for _ in range(40)) == {"replica": 30, "second": 10}


def test_an_alias_that_has_less_to_do_is_read(
    offline: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline.be("replica", "second", choice="least_used")
    pools = {"replica": SimpleNamespace(load=2), "second": SimpleNamespace(load=1)}
    monkeypatch.setattr(members, "pools_of", lambda name: {None: pools[name]})
    assert {alias(visit()) for _ in range(9)} == {"second"}


def test_two_threads_of_a_scope_that_choose_at_once_read_one_alias(
    offline: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline.be("replica", "second", "third", choice="round_robin")
    here = visit()

    def picks(*args: Any) -> str:
        here.replicas.setdefault("default", "second")  # the other thread's
        return "third"

    monkeypatch.setattr(strategies, "pick", picks)
    assert alias(here) == "second"
