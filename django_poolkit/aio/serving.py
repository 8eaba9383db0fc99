"""Which wrappers the bridge can serve: those whose connections come from a pool of ours."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any, Final, NoReturn

from django_poolkit.backends.postgresql.base import PooledDatabaseWrapperMixin
from django_poolkit.pools.lease import Lease

# To find the pool of a wrapper is dear, and what was found for the last one of its alias is
# nearly always right for the next: the wrapper compares its settings.
_seen: dict[str, tuple[Any, ...] | None] = {}


class _Rested(threading.local):
    """The lease that rested last, of each alias: the next call of this thread takes it up."""

    def __init__(self) -> None:
        self.leases: dict[str, Lease] = {}


_rested: Final = _Rested()


def prepare(alias: str, wrapper: Any) -> None:
    """Prepare a wrapper that has been made for a call. One that would block refuses to connect."""
    if isinstance(wrapper, PooledDatabaseWrapperMixin):
        if wrapper._bridged:  # made after a model, which has a pool
            wrapper._last = _rested.leases.pop(alias, None)
            return
        wrapper._bridged = True
        wrapper._seen = _seen.get(alias)
        if wrapper.pool is not None:
            _seen[alias] = wrapper._seen
            # Without the pool's lock, where nobody else has taken it meanwhile.
            wrapper._last = _rested.leases.pop(alias, None)
            return
    # It is the one of this call, so that nobody else is refused.
    wrapper.connect = wrapper.ensure_connection = partial(_refuse, alias)


def end(alias: str, wrapper: Any) -> None:
    """Close a wrapper whose call has ended. What rests goes on to rest, for the next call."""
    if isinstance(wrapper, PooledDatabaseWrapperMixin) and wrapper._last is not None:
        _rested.leases[alias], wrapper._last = wrapper._last, None
    wrapper.close()
    if (kept := getattr(wrapper, "_kept", None)) is not None:
        kept.end(alias)


def throw_away(wrapper: Any) -> None:
    """Close the connection of a wrapper, and have a block that is open on it know. Never waits."""
    if (lease := getattr(wrapper, "_lease", None)) is not None:
        wrapper._throw_away(lease)
        # Else the next statement would begin another transaction, and lose what this one did.
        wrapper._forget_lease()


def refuse(alias: str, wrapper: Any) -> None:
    """Refuse a wrapper that would block. Raises RuntimeError."""
    if not isinstance(wrapper, PooledDatabaseWrapperMixin) or wrapper.pool is None:
        _refuse(alias)


def _refuse(alias: str) -> NoReturn:
    raise RuntimeError(
        f"the alias {alias!r} has no pool of django_poolkit, so that its connections would block "
        "the event loop: call this by sync_to_async(), or give the alias an ENGINE of "
        "django_poolkit's, and OPTIONS['pool'] other than False"
    )
