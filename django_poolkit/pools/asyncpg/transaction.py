"""Blocks of `connection.transaction()`, which whoever is cancelled leaves within bounds."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Any
from weakref import ref

from asyncpg.transaction import Transaction

from django_poolkit.pools.asyncpg.physical import CUT_TIMEOUT

if TYPE_CHECKING:
    from django_poolkit.pools.asyncpg.lease import AsyncpgLease


class LeasedTransaction(Transaction):
    """asyncpg's transaction, or savepoint, on the connection of a lease."""

    __slots__ = ("_lease",)

    def __init__(self, lease: ref[AsyncpgLease], connection: Any, *how: Any) -> None:
        super().__init__(connection, *how)
        # Weakly: the connection keeps its outermost transaction, also where a lease is dropped.
        self._lease = lease

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Commit or roll back.

        Where a cancellation ends the block, or an iteration that is left early, a server that does
        not roll back within 2 seconds loses the connection: a network may be silent for as long as
        it likes, and the cancellation would not come to its end before.
        """
        lease = self._lease()
        if lease is None or lease.released or kind is None or issubclass(kind, Exception):
            await super().__aexit__(kind, error, trace)
            return
        limit = asyncio.timeout(CUT_TIMEOUT)
        try:
            async with limit:
                await super().__aexit__(kind, error, trace)
        except asyncio.CancelledError:  # which Python before 3.11.3 makes of the timeout here
            if not limit.expired():
                raise
            await self._cut_off(lease)
        except Exception:
            if limit.expired():
                await self._cut_off(lease)
            elif not self._connection.is_closed():  # else there is nothing to roll back any more
                raise

    async def _cut_off(self, lease: AsyncpgLease) -> None:
        physical = lease.physical
        if physical is None:  # it has been given back meanwhile, and is seen to
            return
        lease.cut = True
        await physical.close(CUT_TIMEOUT)
        if lease.physical is physical:
            physical.connection.terminate()
