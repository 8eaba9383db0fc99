"""Leases that were there before it was known what has to be seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections, transaction

from django_poolkit.backends import ports
from django_poolkit.routing import choice, scope, use_replica
from django_poolkit.routing.errors import ReplicasBehind
from django_poolkit.routing.outgoing import outgoing
from django_poolkit.routing.scopes import Scope
from django_poolkit.routing.settling import settle
from django_poolkit.testing import Cluster, Node
from tests.app.models import Item
from tests.routing.conftest import entry, seen


@pytest.fixture(params=["session", "transaction"])
def held(
    request: pytest.FixtureRequest,
    routed: Cluster,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Node, Callable[[Scope], None]]:
    """An alias of two hosts, read from the one that now stands still, and a write since.

    Returns that host, and a function that has a scope see what was written.
    """
    monkeypatch.setattr(ports, "choose_host", choice.host_for)
    monkeypatch.setattr(ports, "keeps_host", choice.keeps_host)
    settings.POOLKIT = {**settings.POOLKIT, "ROUTING": {"WAIT": 20.0}}  # however slow this is
    nodes = dict(zip(("one", "two"), routed.replicas, strict=True))
    hosts = {key: {"HOST": node.host, "PORT": node.port} for key, node in nodes.items()}
    options: dict[str, Any] = {"pool": {"max_size": 8, "mode": request.param}, "hosts": hosts}
    connections["replica"].close()
    del connections["replica"]
    connections.settings["replica"] = entry(routed.replicas[0], OPTIONS=options)
    with scope() as before:
        assert seen() == set()
        paused = nodes[before.hosts["replica"]]
    paused.pause_replay()
    with scope() as writer:
        with transaction.atomic():  # whose COMMIT says where it ended, however slow this is
            Item.objects.create(name="new")
        floors = outgoing(writer)
    assert floors["default"].position is not None

    def arrive(here: Scope) -> None:
        for name, floor in floors.items():
            here.raise_floor(name, floor)
        settle(here)
        [allowed] = here.settled["default"].hosts.values()
        assert allowed is not None
        assert before.hosts["replica"] not in allowed

    return paused, arrive


def test_one_of_a_host_that_is_behind_is_given_back(held):
    _, arrive = held
    with scope() as here:
        arrive(here)
        assert seen() == {"new"}
        assert Item.objects.get()._state.db == "replica"


def test_the_same_where_it_becomes_known_in_the_middle(held):
    _, arrive = held
    with scope() as here:
        assert seen() in (set(), {"new"})
        arrive(here)
        assert seen() == {"new"}


def test_a_transaction_stays_where_it_has_begun(held):
    _, arrive = held
    with scope() as here:
        with transaction.atomic(using="replica"):
            found = seen()
            arrive(here)
            assert set(Item.objects.using("replica").values_list("name", flat=True)) == found
        assert seen() == {"new"}


def test_who_was_sent_to_a_host_that_is_gone_gets_no_other(held):
    _, arrive = held
    with scope() as here:
        arrive(here)
        [(alias, allowed)] = here.settled["default"].hosts.items()
        assert allowed is not None
        every = {"one": 1.0, "two": 1.0}
        for weights in (
            {key: 1.0 for key in every if key not in allowed},  # it refuses
            every,  # and another thread of the scope is on its way there
        ):
            with pytest.raises(ReplicasBehind, match="no host is left"):
                choice.host_for(alias, weights)
        assert Item.objects.get()._state.db == "default"


def test_who_says_replica_is_given_any(held):
    paused, arrive = held
    with scope() as here:
        arrive(here)
        with use_replica():
            assert seen() in (set(), {"new"})
    paused.resume_replay()
