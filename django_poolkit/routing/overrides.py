"""`use_primary()` and `use_replica()`: the caller's own word on where reads go."""

from __future__ import annotations

from contextvars import ContextVar
from types import TracebackType
from typing import Literal, NamedTuple

from django_poolkit.routing.blocks import Block, leave

Role = Literal["primary", "replica"]


class _Entry(NamedTuple):
    role: Role
    cluster: str | None
    owner: Override


# Innermost last. A tuple, so that a task that enters a block changes nothing for its siblings.
_entries: ContextVar[tuple[_Entry, ...]] = ContextVar("django_poolkit_overrides", default=())


class Override(Block[None]):
    """A block in which reads go to one role, in one cluster or in all."""

    __slots__ = ("_cluster", "_role")

    def __init__(self, role: Role, cluster: str | None) -> None:
        self._role = role
        self._cluster = cluster

    def __enter__(self) -> None:
        _entries.set((*_entries.get(), _Entry(self._role, self._cluster, self)))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _entries.set(leave(self, _entries.get()))


def use_primary(cluster: str | None = None) -> Override:
    """Have reads go to the primary within a `with` block, or within a decorated function.

    `cluster` names one cluster; without it all of them are meant. Blocks nest: the innermost
    that speaks of a cluster counts for it. Coroutine functions can be decorated, too. Never
    blocks, asks no database.
    """
    return Override("primary", cluster)


def use_replica(cluster: str | None = None) -> Override:
    """Have reads go to a replica within a `with` block, or within a decorated function.

    This is the caller's word against that of the router: also after a write, in an open
    transaction of the primary, and for models that are read from the primary. What is read may be
    older than what this request wrote. Writes go to the primary as ever.

    `cluster` is as in `use_primary()`.
    """
    return Override("replica", cluster)


def role_of(cluster: str) -> Role | None:
    """Return the role that the innermost block gives a cluster, None where there is none."""
    entries = _entries.get()
    if entries:
        for entry in reversed(entries):
            if entry.cluster is None or entry.cluster == cluster:
                return entry.role
    return None
