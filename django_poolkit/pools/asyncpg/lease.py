"""A lease of an asyncpg connection."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from django_poolkit.pools.lease import Lease, format_stack
from django_poolkit.pools.statement_kinds import verb_of
from django_poolkit.pools.stats import LeaseStats

if TYPE_CHECKING:
    from django_poolkit.pools.asyncpg.connection import LeasedConnection
    from django_poolkit.pools.asyncpg.line import Line
    from django_poolkit.pools.asyncpg.physical import Physical


class AsyncpgLease(Lease):
    """The right to use one connection, on one event loop, until it is released.

    `await lease.release()`, or `await lease.discard()` where the connection is not to be used
    again; `async with lease as connection:` does the former. A lease that is dropped instead is
    taken back by its pool, with a warning.
    """

    running = 0
    """Verbs of the connection that are being awaited."""
    later = False
    """Whether a statement was prepared or a cursor made, which may run behind our back."""
    cut = False
    """Whether a COPY did not come to its end, and may still run on the server."""
    spoiled: str | None = None
    """Why the connection cannot be brought back to what it was, None where it can."""

    # Set as it is made: to have an `__init__()` of its own would cost each lease a function more.
    line: Line
    """Where it was acquired: the pool on one event loop."""
    physical: Physical | None
    """What is known of the connection beside asyncpg's own."""

    @property
    def may_run(self) -> bool:
        """Whether the server may be at work on one of its statements."""
        return bool(self.running or self.later or self.cut)

    @property
    def connection(self) -> LeasedConnection:
        """The connection. Raises LeaseReleased at each use once the lease has been released."""
        return self._connection  # type: ignore[no-any-return]

    def note(self, query: Any) -> None:
        """Take note of a statement about to run."""
        self.ran = True
        if not isinstance(query, str):
            return  # asyncpg refuses it
        self.statement = query
        if self.dirty is None:
            if (residue := self.line.residue(query)) is None:
                self.line.remember_plain(query)
                return
            self.mark_dirty(residue)
        if self.spoiled is None and self.dirty is not None:
            if "prepare" in (lowered := query.lower()):
                self.spoiled = "prepared"  # asyncpg's own go by other names, and would go with it
            elif self.dirty == "load" or lowered.lstrip().startswith("load"):
                self.spoiled = "loaded"  # a library stays in the server process until that ends

    def note_cut_short(self, copies: bool) -> None:
        """Take note of a verb that has ended by other means than the server's answer."""
        # asyncpg 0.32 forgets to cancel what is cancelled just as an answer comes in.
        self.later = True
        self.cut = self.cut or copies

    async def release(self) -> None:  # type: ignore[override]
        """Give the connection back. Raises LeaseReleased, WrongLoop.

        Waits for the server only where there is something to clear away. Being cancelled keeps
        nothing from coming home.
        """
        if not self.line.take_back(self):
            await self.line.release(self)

    async def discard(self) -> None:  # type: ignore[override]
        """Give the slot back and close the connection. Raises LeaseReleased, WrongLoop."""
        await self.line.discard(self)

    def __enter__(self) -> Any:
        raise TypeError("a lease of an asyncpg pool is entered by `async with`")

    async def __aenter__(self) -> LeasedConnection:
        return self.connection

    async def __aexit__(self, *exc_info: object) -> None:
        if not self.released and not self.line.take_back(self):
            await self.line.release(self)


def describe(lease: AsyncpgLease) -> LeaseStats:
    """Return a lease as a value: who has it, since when, what for, and how it looks from here."""
    physical = lease.physical
    pid, status = 0, "unknown"
    if physical is not None and not physical.connection.is_closed():
        pid = physical.pid
        status = "idle"
        if lease.running:
            status = "active"
        elif physical.connection.is_in_transaction():
            status = "intrans"
    context = None if lease.context is None else lease.context()
    return LeaseStats(
        key=lease.key,
        seconds=monotonic() - lease.since,
        thread=lease.thread,
        where=None if context is None else context.where(),
        statement=None if lease.statement is None else verb_of(lease.statement),
        status=status,
        pinned=None,
        backend_pid=pid,
        stack=format_stack(lease.stack),
    )
