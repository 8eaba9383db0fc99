"""The connection as the holder of a lease sees it: all of asyncpg's verbs, until it is released.

Each lease has an object of its own. What it is asked to run is taken note of in the lease; once
that has ended, each verb raises LeaseReleased, and the next holder's work cannot be reached.
"""

from __future__ import annotations

import inspect
import weakref
from asyncio import _get_running_loop
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from asyncpg.transaction import Transaction

from django_poolkit.pools.asyncpg.errors import LeaseReleased, WrongLoop
from django_poolkit.pools.asyncpg.transaction import LeasedTransaction

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from django_poolkit.pools.asyncpg.lease import AsyncpgLease

# By the verb, the place of the statement's text among its arguments.
_WITH_TEXT: Final = (
    "execute", "executemany", "fetch", "fetchval", "fetchrow", "fetchmany", "copy_from_query",
)  # fmt: skip
# Their statements run later, and on their own: whether one still does shows no more.
_LATER: Final = ("prepare", "cursor")
# What would outlive the lease in the connection itself, and cannot be undone there.
_SPOIL: Final = ("set_type_codec", "reset_type_codec", "set_builtin_type_codec")


class LeasedConnection(PoolConnectionProxy):
    """asyncpg's connection, for as long as its lease lasts.

    Takes the place of asyncpg's own proxy, so that it is an `asyncpg.Connection` to
    `isinstance()`. It does not keep its lease: who drops the lease has lost the connection.
    """

    __slots__ = ("_lease", "_loop_of_lease", "_pool_name")

    def __init__(
        self,
        holder: Any,
        connection: Any,
        lease: weakref.ref[AsyncpgLease],
        loop: AbstractEventLoop,
        pool_name: str,
    ) -> None:
        # As asyncpg's own, which asks whether the connection has another proxy.
        self._con, self._holder = connection, holder  # type: ignore[misc]
        connection._proxy = self
        self._lease = lease
        self._loop_of_lease = loop
        self._pool_name = pool_name

    def _used(self, verb: str) -> AsyncpgLease:
        """Return the lease, if it lasts. Raises LeaseReleased, WrongLoop."""
        lease = self._lease()
        if self._con is None or lease is None or lease.released:
            raise LeaseReleased(
                f"cannot call {verb}(): its lease of pool {self._pool_name!r} has been given back",
                pool=self._pool_name,
            )
        if self._loop_of_lease is not _get_running_loop():
            raise WrongLoop(
                f"cannot call {verb}(): the lease of pool {self._pool_name!r} was acquired on "
                "another event loop",
                pool=self._pool_name,
            )
        return lease

    def __getattr__(self, attr: str) -> Any:
        if attr.startswith("__"):
            raise AttributeError(attr)
        self._used(attr)
        return getattr(self._con, attr)

    def __repr__(self) -> str:
        state = "released" if self._con is None else "leased"
        return f"<{type(self).__name__} of pool {self._pool_name!r}, {state}>"

    def transaction(
        self, *, isolation: str | None = None, readonly: bool = False, deferrable: bool = False
    ) -> Transaction:
        """Begin a transaction, or a savepoint, as a block; see asyncpg's `transaction()`."""
        self._used("transaction")
        connection: Any = self._con
        if type(connection).transaction is not asyncpg.Connection.transaction:
            own: Transaction = connection.transaction(
                isolation=isolation, readonly=readonly, deferrable=deferrable
            )
            return own  # a `connection_class` has blocks of its own
        connection._check_open()
        return LeasedTransaction(self._lease, connection, isolation, readonly, deferrable)

    async def close(self, *, timeout: float | None = None) -> None:
        """Close the connection itself. The lease is still to be released."""
        self._used("close")
        con = self._con
        await con.close(timeout=timeout)


async def run_noted(
    lease: AsyncpgLease, copies: bool, plain: Callable[..., Any], /, *args: Any, **options: Any
) -> Any:
    """Await one of asyncpg's verbs; the lease knows that it runs, and what may be left of it."""
    lease.running += 1
    try:
        return await plain(*args, **options)
    except asyncpg.PostgresError:
        raise  # the server has ended it
    except BaseException:
        lease.note_cut_short(copies)
        raise
    finally:
        lease.running -= 1


def _statement(verb: str) -> Callable[..., Any]:
    plain = getattr(asyncpg.Connection, verb)
    copies = verb.startswith("copy_")

    async def call(self: LeasedConnection, query: Any, *args: Any, **options: Any) -> Any:
        lease = self._lease()
        if (
            self._con is None
            or lease is None
            or lease.released
            or self._loop_of_lease is not _get_running_loop()
        ):
            lease = self._used(verb)  # which says what is wrong
        if type(query) is str and query in lease.line.plain and lease.dirty is None:
            lease.ran, lease.statement = True, query  # all that there is to note
        else:
            lease.note(query)
        # As `run_noted()`; every statement passes here.
        lease.running += 1
        try:
            return await plain(self._con, query, *args, **options)
        except asyncpg.PostgresError:
            raise
        except BaseException:
            lease.note_cut_short(copies)
            raise
        finally:
            lease.running -= 1

    return call


def _later(verb: str) -> Callable[..., Any]:
    plain = getattr(asyncpg.Connection, verb)

    def call(self: LeasedConnection, query: Any, *args: Any, **options: Any) -> Any:
        lease = self._used(verb)
        lease.note(query)
        lease.later = True
        return plain(self._con, query, *args, **options)

    return call


def _awaited(verb: str) -> Callable[..., Any]:
    plain = getattr(asyncpg.Connection, verb)
    copies = verb.startswith("copy_")

    async def call(self: LeasedConnection, *args: Any, **options: Any) -> Any:
        lease = self._used(verb)
        lease.ran = True
        if verb in _SPOIL:
            lease.spoiled = "codecs"
        elif verb == "add_listener":
            lease.mark_dirty("listen")
        return await run_noted(lease, copies, plain, self._con, *args, **options)

    return call


def _plain(verb: str) -> Callable[..., Any]:
    plain = getattr(asyncpg.Connection, verb)

    def call(self: LeasedConnection, *args: Any, **options: Any) -> Any:
        self._used(verb)
        return plain(self._con, *args, **options)

    return call


def _complete() -> None:
    """Give the class each verb that asyncpg's connection has."""
    own = vars(LeasedConnection)
    for verb, method in inspect.getmembers(asyncpg.Connection, inspect.isfunction):
        if verb.startswith("_") or verb in own:
            continue
        if verb in _WITH_TEXT:
            make = _statement
        elif verb in _LATER:
            make = _later
        else:
            make = _awaited if inspect.iscoroutinefunction(method) else _plain
        call = make(verb)
        call.__name__, call.__doc__ = verb, method.__doc__
        call.__qualname__ = f"LeasedConnection.{verb}"
        setattr(LeasedConnection, verb, call)


_complete()
