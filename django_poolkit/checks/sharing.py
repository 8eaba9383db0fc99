"""Aliases that lead to one pool: a request that uses both takes two of its connections."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from django.core import checks
from django.core.checks import CheckMessage

from django_poolkit.checks.aliases import Alias, pooled
from django_poolkit.pools.config import PoolConfig


def shared_pools() -> Iterator[CheckMessage]:
    """Look for aliases whose settings are equal, and that a thread may hold at once.

    By HikariCP's rule for pool locking a pool needs threads x (connections at once - 1) + 1
    connections, or its threads may all wait for each other.
    """
    groups: dict[Hashable, list[tuple[Alias, PoolConfig]]] = {}
    for alias, config in pooled():
        if not alias.is_mirror:
            groups.setdefault(alias.pool_key(), []).append((alias, config))
    for group in groups.values():
        if len(group) > 1 and _held_at_once(group):
            yield _message([alias for alias, _ in group], group[0][1])


def _held_at_once(group: list[tuple[Alias, PoolConfig]]) -> bool:
    """Tell whether a request keeps its connections of both to its end, or to the block's."""
    in_session_mode = any(config.mode == "session" for _, config in group)
    return in_session_mode or all(alias.settings["ATOMIC_REQUESTS"] for alias, _ in group)


def _message(aliases: list[Alias], config: PoolConfig) -> CheckMessage:
    at_once, size = len(aliases), config.max_size
    names = " and ".join(alias.path() for alias in aliases)
    threads = (size - 1) // (at_once - 1)
    most = f"from {threads + 1} such threads on" if threads else "and one such thread"
    return checks.Warning(
        f"{names} are equal, so they share one pool of {size}: a thread that uses all of them "
        f"holds {at_once} of its connections, {most} it may wait for itself.",
        hint=f"{at_once} connections at once for each of n threads need a 'max_size' of "
        f"n times {at_once - 1}, plus 1. Use one alias; or give them settings that differ, and so "
        "a pool each; or 'mode': 'transaction', where a connection is held for a statement.",
        id="poolkit.W021",
    )
