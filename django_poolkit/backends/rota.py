"""Who is next: smooth weighted round robin over the hosts of an alias, and one host a request.

A host of weight 3 beside one of weight 1 is chosen three times of four, and not three times in
a row. Each process begins somewhere else, so that many that are forked at once do not all begin
with the same host.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Protocol

from django_poolkit.pools.chance import chance
from django_poolkit.pools.forks import in_child


class Scope(Protocol):
    """One unit of work, as a request."""

    hosts: dict[str, str]
    """The host chosen in it for each alias that has several."""


class Rota:
    """The turns of all aliases of this process."""

    def __init__(self) -> None:
        # Guards the turns, and the choice that threads of one request make together.
        self._lock = threading.Lock()
        self._turns: dict[str, dict[str, float]] = {}

    def pick(self, alias: str, hosts: Mapping[str, float]) -> str:
        """Return the key of the next host, of those given with their weights. Never blocks."""
        with self._lock:
            return self._pick_locked(alias, hosts)

    def pick_once(self, scope: Scope, alias: str, hosts: Mapping[str, float]) -> str:
        """Do the same, or return what has been picked in the same request, if it is given."""
        if (key := scope.hosts.get(alias)) is not None and key in hosts:
            return key
        with self._lock:
            if (key := scope.hosts.get(alias)) is None or key not in hosts:
                key = scope.hosts[alias] = self._pick_locked(alias, hosts)
            return key

    def _pick_locked(self, alias: str, hosts: Mapping[str, float]) -> str:
        turns = self._turns.get(alias)
        if turns is None:
            turns = self._turns[alias] = {}
            for _ in range(chance.randrange(2 * len(hosts))):
                _take_turn(turns, hosts)
        return _take_turn(turns, hosts)

    def after_fork(self) -> None:
        """Begin anew in a forked child: its parent may have held the lock."""
        self.__init__()  # type: ignore[misc]


def _take_turn(turns: dict[str, float], hosts: Mapping[str, float]) -> str:
    # Each gains its weight, and the richest pays for all.
    for key, weight in hosts.items():
        turns[key] = turns.get(key, 0.0) + weight
    chosen = max(hosts, key=turns.__getitem__)
    turns[chosen] -= sum(hosts.values())
    return chosen


rota = Rota()
"""The one there is."""

in_child(rota.after_fork)
