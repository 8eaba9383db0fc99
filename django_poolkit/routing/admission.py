"""Which replicas a read may go to, as far as they have been looked at. Asks nobody.

Read by every query, and written by the one thread that looks. While all hosts are well there is
nothing here, and nothing to do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Final

from django_poolkit.routing.breaker import Circuit, Reason

_NONE: Final[Mapping[str, Circuit]] = MappingProxyType({})

troubled: Mapping[str, Circuit] = _NONE
"""The hosts that are evicted or on trial, by full name: `alias`, or `alias/key` for one of several.
Replaced as a whole."""

# A host that is evicted for these answers, with rows that are old.
_STALE: Final[frozenset[Reason]] = frozenset({"lag", "cut"})
# One that is evicted for these may answer, too, with rows of something else.
_OTHER: Final[frozenset[Reason]] = frozenset({"not_a_replica", "timeline", "system"})


def publish(circuits: Mapping[str, Circuit]) -> None:
    """Have reads heed these circuits."""
    global troubled
    found = {name: each for name, each in circuits.items() if each.state != "admitted"}
    troubled = MappingProxyType(found) if found else _NONE


def eviction(name: str) -> Reason | None:
    """Return why a host is not read at present, None for one that is, if only by some."""
    if (circuit := troubled.get(name)) is None:
        return None
    state, reason, _, _ = circuit.now()
    return reason if state == "evicted" else None


def admitted(names: Iterable[str], draw: float) -> list[str]:
    """Return those of some hosts that may be read.

    `draw` is a number of the scope's own, from 0.0 to 1.0, that says which trials it takes part
    in: the same each time, so that it does not change its mind.
    """
    known = troubled
    return [name for name in names if (it := known.get(name)) is None or draw < it.share]


def recovering(names: Iterable[str]) -> list[str]:
    """Return those of some hosts that were found well by the last look, though not for long."""
    known = troubled
    return [
        name
        for name in names
        if (it := known.get(name)) is None or it.state == "trial" or it.recovers
    ]


def stale(names: Iterable[str]) -> list[str]:
    """Return those of some hosts that answer, however old what they have may be."""
    known = troubled
    return [
        name
        for name in names
        if (it := known.get(name)) is None or it.state == "trial" or it.reason in _STALE
    ]


def same(names: Iterable[str]) -> list[str]:
    """Return those of some hosts that have the rows of the cluster, if they answer."""
    known = troubled
    return [name for name in names if (it := known.get(name)) is None or it.reason not in _OTHER]


def best(names: Collection[str], draw: float) -> list[str]:
    """Return those of some hosts that are to be tried before the others."""
    return admitted(names, draw) or recovering(names) or stale(names) or same(names)
