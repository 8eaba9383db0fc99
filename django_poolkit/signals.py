"""What happens in pools, as Django signals.

Receivers run in the thread in which something happens, often that of a request which waits for a
connection: they must be quick, and what they raise is logged. What a receiver brings about in
pools by itself is not signalled. `sender` is `ConnectionPool`, and `pool` the name of the pool.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from django.dispatch import Signal

from django_poolkit.pools.events import OF_EACH_LEASE
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.registry import pools

logger = logging.getLogger("django_poolkit.events")


class PoolSignal(Signal):
    """A signal that pools are asked to send only while somebody listens."""

    def connect(self, receiver: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Connect a receiver, as to any signal."""
        super().connect(receiver, *args, **kwargs)
        _listen()

    def disconnect(self, *args: Any, **kwargs: Any) -> bool:
        """Disconnect a receiver, as from any signal."""
        found = super().disconnect(*args, **kwargs)
        _listen()
        return found


connection_opened = PoolSignal()
"""A connection was made. `seconds`: how long that took."""
connection_closed = PoolSignal()
"""A connection was closed. `reason`: as in `PoolStats.closed`."""
lease_acquired = PoolSignal()
"""A connection was acquired. `waited`: seconds from the call to its return."""
lease_released = PoolSignal()
"""A lease ended. `seconds`: how long it was held."""
pool_saturated = PoolSignal()
"""All connections are leased, and somebody begins to wait. `waiters`: how many do."""
pool_timeout = PoolSignal()
"""An acquire failed. `kind`: `timeout`, `deadlock`, `paused` or `too_many_waiters`; `waited`:
seconds."""
lease_leaked = PoolSignal()
"""A lease was dropped without being released (`kind="dropped"`), or is held for longer than
`leak_after` (`kind="overdue"`). `seconds` held, by which `thread`; `where`: method and view, or
None; `stack`: where it was acquired, a tuple of lines."""
pin = PoolSignal()
"""A lease is held until its owner closes. `reason`: as in `PoolStats.pins`."""
replica_evicted = PoolSignal()
"""A replica is not read any more. `reason`: as in `PoolStats.evictions`."""
replica_admitted = PoolSignal()
"""A replica that was evicted is read again as before. `reason`: why it had been."""

primary_lost = PoolSignal()
"""The primary of a `cluster` is not to be had any more, and `is_read_only()` is True from here on;
or that is for another `reason` by now. `pool` is its alias."""
primary_found = PoolSignal()
"""The primary of a `cluster` is there again. `reason`: why it was not."""

SIGNALS: Final[Mapping[str, PoolSignal]] = {
    "connection_opened": connection_opened,
    "connection_closed": connection_closed,
    "lease_acquired": lease_acquired,
    "lease_released": lease_released,
    "pool_saturated": pool_saturated,
    "pool_timeout": pool_timeout,
    "lease_leaked": lease_leaked,
    "pin": pin,
    "replica_evicted": replica_evicted,
    "replica_admitted": replica_admitted,
    "primary_lost": primary_lost,
    "primary_found": primary_found,
}
"""All of them, by name."""

_LEVELS: Final = {
    "pool_saturated": logging.WARNING,
    "pool_timeout": logging.ERROR,
    "lease_leaked": logging.WARNING,
    "replica_evicted": logging.WARNING,
    "primary_lost": logging.ERROR,
}


def _send(event: str, facts: Mapping[str, Any]) -> None:
    if (signal := SIGNALS.get(event)) is not None:
        signal.send_robust(ConnectionPool, **facts)


def _listen() -> None:
    """Subscribe to what somebody listens to, and to nothing else."""
    events = pools.events
    if not any(signal.receivers for signal in SIGNALS.values()):
        events.unsubscribe(_send)
        return
    leases = any(SIGNALS[name].receivers for name in OF_EACH_LEASE)
    events.subscribe(_send, leases=leases, waits=False)
    if not leases:
        events.unsubscribe(_send, leases_only=True)


def log_event(sender: object, signal: Signal, **facts: Any) -> None:
    """Log one event as `pool=... event=... fact=...`. A receiver for any of the signals.

    The logger is `django_poolkit.events`: a timeout is an ERROR, saturation and leaks are
    WARNINGs, all else is INFO.
    """
    event = next(name for name, known in SIGNALS.items() if known is signal)
    stack = facts.pop("stack", ())
    words = [f"pool={facts.pop('pool')}", f"event={event}"]
    for name, value in facts.items():
        words.append(f"{name}={value:.4f}" if isinstance(value, float) else f"{name}={value}")
    logger.log(_LEVELS.get(event, logging.INFO), "%s", "\n  ".join([" ".join(words), *stack]))


def log_events(*names: str) -> None:
    """Have the named events logged by `log_event()`; without names, all but those of each lease.

    Raises KeyError for a name that is none of `SIGNALS`.
    """
    for name in names or [name for name in SIGNALS if name not in OF_EACH_LEASE]:
        SIGNALS[name].connect(log_event)
