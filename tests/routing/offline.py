"""A cluster that is only settings: no server is asked, and none is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connections, router

from django_poolkit.backends.rota import rota
from django_poolkit.routing import ReadWriteRouter, admission, loads, members, scopes
from django_poolkit.routing.breaker import Circuit, Reason
from django_poolkit.routing.monitor import monitor
from django_poolkit.routing.scopes import Scope, Settled
from django_poolkit.routing.topology import Cluster, clusters

HOSTS = {"r1": {"HOST": "192.0.2.1"}, "r2": {"HOST": "192.0.2.2"}, "r3": {"HOST": "192.0.2.3"}}


class Offline:
    """The cluster `default` of these settings, and `other`, which is none of it."""

    def __init__(self, settings: Any, looks: list[str]) -> None:
        self._settings = settings
        self.looks = looks
        """What was asked of the monitor: `start`, or `nudge`."""

    def be(self, *replicas: str, **more: Any) -> Cluster:
        """Set which replicas the cluster has, and what else is said of it; return it.

        `other` is what is said of the other one.
        """
        other = {"replicas": ["other_replica"], "models": ["shop"], **more.pop("other", {})}
        self._settings.POOLKIT = {
            **self._settings.POOLKIT,
            "CLUSTERS": {
                "default": {"replicas": more.pop("weights", list(replicas)), **more},
                "other": other,
            },
        }
        # Only now: a change of settings has all of these forgotten.
        rota._turns.clear()
        return clusters()["default"]


def offline_cluster(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Offline]:
    """Yield one; afterwards nothing of it is left."""
    looks: list[str] = []
    monkeypatch.setattr(router, "routers", [ReadWriteRouter()])
    monkeypatch.setattr(monitor, "start", lambda: looks.append("start"))
    monkeypatch.setattr(monitor, "nudge", lambda: looks.append("nudge"))
    monkeypatch.setattr(monitor, "started", False)
    # What a test before this one has left open is put back as it was.
    monkeypatch.delattr(connections._connections, "default", raising=False)  # type: ignore[attr-defined]
    nowhere = {**connections.settings["default"], "HOST": "192.0.2.9"}
    # To ask for a pool makes a wrapper, which would stay.
    monkeypatch.setattr(members, "pools_of", lambda alias: {})
    for alias in ("replica", "second", "third", "other", "other_replica", "other_second"):
        monkeypatch.setitem(connections.settings, alias, nowhere)
    hosted = {**nowhere, "OPTIONS": {**nowhere["OPTIONS"], "hosts": HOSTS}}
    monkeypatch.setitem(connections.settings, "hosted", hosted)
    _forget()
    yield Offline(settings, looks)
    # A class of a model that is imported late makes that of `default`, of its real settings.
    assert {each.alias for each in connections.all(initialized_only=True)} <= {"default"}
    _forget()


def _forget() -> None:
    scopes._pins.set({})
    admission.publish({})
    loads.forget()
    rota._turns.clear()


@contextmanager
def at(here: Scope) -> Iterator[Scope]:
    """Enter a scope that a test has made."""
    before = scopes._entries.get()
    scopes._entries.set((*before, scopes._Entry(here, None, scopes.ScopeBlock())))
    try:
        yield here
    finally:
        scopes._entries.set(before)


def settled(**hosts: set[str] | None) -> Settled:
    """Return that these have come far enough: by alias, None for one that is one server."""
    return Settled(
        {name: None if keys is None else frozenset(keys) for name, keys in hosts.items()}
    )


def evict(*names: str, reason: Reason = "refuses") -> None:
    """Have these, and no others, be read no more."""
    admission.publish({name: circuit(reason) for name in names})


def circuit(reason: Reason) -> Circuit:
    """Return the circuit of a host that is evicted."""
    made = Circuit()
    made.bad(reason)
    return made


def on_trial() -> Circuit:
    """Return the circuit of a host whose trial has just begun, and does not go on."""
    made = Circuit(lambda: 0.0)
    made.bad("refuses")
    while made.state != "trial":
        made.good()
    return made
