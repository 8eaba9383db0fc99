"""How figures are read from a pool's status."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Status = Mapping[str, Any]
"""What `PoolStats.as_dict()` returns, or the same out of another process's answer."""
Value = tuple[float, ...]
"""One number; of a histogram the counts of its buckets, not cumulative, and then the sum."""


def one(key: str) -> Callable[[Status], Mapping[str, Value]]:
    """Return a reader of one number."""
    return lambda status: {"": (status[key],)}


def by(key: str) -> Callable[[Status], Mapping[str, Value]]:
    """Return a reader of counts by reason."""
    return lambda status: {reason: (count,) for reason, count in status[key].items()}


def of_shares(key: str) -> Callable[[Status], Mapping[str, Value]]:
    """Return a reader of one number of each share."""
    return lambda status: {name: (share[key],) for name, share in status.get("shares", {}).items()}


def connections(status: Status) -> Mapping[str, Value]:
    """Read the connections by state."""
    found: dict[str, Value] = {state: (status[state],) for state in ("idle", "used", "connecting")}
    if status["kind"] == "postgresql":  # a client session is not asked how it is
        found["probe"] = (status["probing"],)
    return found


def until_closed(key: str) -> Callable[[Status], Mapping[str, Value]]:
    """Return a reader of what a closed pool has none of."""
    # What was leased of a closed pool may be used for long; to give out, it has nothing.
    return lambda status: {"": (0 if status["state"] == "closed" else status[key],)}


def if_known(key: str) -> Callable[[Status], Mapping[str, Value]]:
    """Return a reader of one number that may not be known."""
    return lambda status: {} if status[key] is None else {"": (status[key],)}


def histogram(key: str) -> Callable[[Status], Mapping[str, Value]]:
    """Return a reader of a histogram."""
    return lambda status: {"": (*status[key]["counts"], status[key]["sum"])}


def waits(status: Status) -> Mapping[str, Value]:
    """Read the waits of all who acquired."""
    # As `PoolStats.waits`: the pool keeps no count of those who did not have to queue.
    first, *others = histogram("wait")(status)[""]
    return {"": (first + max(0, status["acquired"] - status["waited"]), *others)}


def state(status: Status) -> Mapping[str, Value]:
    """Read the state of the pool."""
    return {state: (int(status["state"] == state),) for state in ("open", "paused", "closed")}


def utilization(status: Status) -> Mapping[str, Value]:
    """Read the share of connections that are used."""
    return {"": (status["used"] / status["max_size"],)}


def leaks(status: Status) -> Mapping[str, Value]:
    """Read the leaks by kind."""
    return {"dropped": (status["leaks"],), "overdue": (status["overdue"],)}
