"""Cursors of tasks, bound to their lease as those of threads are."""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg.client_cursor import ClientCursorMixin
from psycopg.raw_cursor import RawCursorMixin

from django_poolkit.pools.postgres.cursor import ClientCursor, ServerCursor
from django_poolkit.pools.postgres.leased_cursor import KNOWN, SPELLED_OUT, PlainCursor, mix
from django_poolkit.pools.postgres.plans import PreparingCursor, heal_many

# What `PlainCursor` spells out, as psycopg has it for tasks.
_SPELLED_OUT: Final = {name: getattr(psycopg.AsyncCursor, name) for name in SPELLED_OUT}


class TaskCursor(ClientCursor):
    """What a cursor of a task has in front of psycopg's own."""

    async def close(self) -> None:  # type: ignore[override]
        """Close the cursor, as psycopg does."""
        self._close()  # type: ignore[attr-defined]
        self._poolkit_ended()

    async def executemany(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        self._poolkit_note(None)
        await super(ClientCursor, self).executemany(*args, **kwargs)  # type: ignore[misc]


class PlainTaskCursor(PlainCursor):
    """The same, without what takes psycopg several functions."""

    async def close(self) -> None:  # type: ignore[override]
        """Close the cursor, as psycopg does."""
        self._close()  # type: ignore[attr-defined]
        self._poolkit_ended()

    async def executemany(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        self._adapters = self.adapters  # who makes its parameters may register some
        self._poolkit_note(None)
        await super(ClientCursor, self).executemany(*args, **kwargs)  # type: ignore[misc]


class TaskServerCursor(ServerCursor):
    """The same for a cursor that the server knows by name."""

    async def close(self) -> None:  # type: ignore[override]
        """Close the cursor, as psycopg does. What a release has closed, is closed."""
        lease = self._poolkit_lease
        if lease is not None and (lease.released or self._poolkit_turn != lease.turn):
            self._close()  # type: ignore[attr-defined]
        else:
            await super(ClientCursor, self).close()  # type: ignore[misc]


class TaskPreparingCursor(PreparingCursor):
    """What it has in front of its own where statements are prepared."""

    __slots__ = ()

    async def executemany(  # type: ignore[override]
        self, query: Any, params_seq: Any, *, returning: bool = False
    ) -> None:
        """Run a statement for many parameters, as psycopg does: in one transaction."""
        following: Any = super(PreparingCursor, self)
        try:
            await following.executemany(query, params_seq, returning=returning)
            return
        except psycopg.Error as error:
            healing = heal_many(self._conn, params_seq, error)
        healing.healed += 1
        await following.executemany(query, params_seq, returning=returning)


def leased_for_tasks(factory: type[Any], *, preparing: bool) -> type[Any]:
    """Return a class of cursors of tasks with the lease mixed in."""
    if issubclass(factory, ClientCursor):
        return factory
    if hasattr(factory, "_declare_gen"):
        return mix(factory, TaskServerCursor, None)
    plain = KNOWN and all(getattr(factory, n) is own for n, own in _SPELLED_OUT.items())
    mixin = PlainTaskCursor if plain else TaskCursor
    return mix(factory, mixin, TaskPreparingCursor if preparing else None)


def counterpart(factory: type[Any]) -> type[Any]:
    """Return psycopg's class for tasks that binds parameters as a class for threads does."""
    raw, server = issubclass(factory, RawCursorMixin), hasattr(factory, "_declare_gen")
    if server:
        return psycopg.AsyncRawServerCursor if raw else psycopg.AsyncServerCursor
    if issubclass(factory, ClientCursorMixin):
        return psycopg.AsyncClientCursor
    return psycopg.AsyncRawCursor if raw else psycopg.AsyncCursor
