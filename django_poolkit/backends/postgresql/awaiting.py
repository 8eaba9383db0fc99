"""In the bridge a statement may be cancelled where it waits: what that must not leave behind.

A transaction is committed with its hooks, or it is rolled back without them, and never in
between: so a cancellation waits for either. And one of which a statement was cancelled is not
committed as if nothing had happened.
"""

from __future__ import annotations

import asyncio
from _thread import get_ident
from asyncio import CancelledError
from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, Final

from asgiref.sync import async_to_sync
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql.base import DatabaseWrapper
from django.db.transaction import TransactionManagementError
from django.db.utils import DatabaseError
from psycopg.pq import TransactionStatus

from django_poolkit.backends import ports
from django_poolkit.backends.postgresql.holding import HoldingMixin
from django_poolkit.pools.postgres import ConnectionPool, port

_FAILED = TransactionStatus.INERROR
_ENSURES: Final = BaseDatabaseWrapper.ensure_connection
_CLOSES: Final = BaseDatabaseWrapper.close
_CONNECTING: Final = "ensure_connection", "connect"
# What it is to be open, but for its lists.
_OPENED: Final = (
    "_host", "_me", "_met", "_opened", "_outside", "_repeats", "_reroutes", "_steady", "autocommit",
    "close_at", "closed_in_transaction", "errors_occurred", "health_check_done",
    "health_check_enabled", "in_atomic_block", "isolation_level", "needs_rollback",
)  # fmt: skip


class AwaitingMixin(HoldingMixin):
    """Has a wrapper whose calls may be cancelled end its transactions whole.

    One that is a single call's is opened and closed by short ways, since each call does so.
    """

    # Our own ensure_connection() and connect(), as the class has them that is derived from this.
    _connecting: tuple[Any, Any]

    def connect(self) -> None:
        """Connect, as Django does, unless the call or the block is over whose wrapper it is.

        A thread that was reached within may go on after it. Django refuses that where it uses what
        it has connected, and nobody would end the lease.
        """
        before = self._lease
        with self.first or nullcontext():
            if self._lease is before:  # else a thread, or a call, that began at once has connected
                super().connect()
        if self._bridged and self._thread_ident != get_ident():  # type: ignore[attr-defined]
            try:
                self.validate_thread_sharing()
            except DatabaseError:
                # Not given back: who has ended the call may see it, too, and close it.
                if (lease := self._lease) is not None:
                    self._throw_away(lease)
                self._forget_lease()
                raise

    def _attach(self) -> bool:
        """Open what is one call's, as `connect()` does; return whether that could be done.

        Not where anybody has put something of his own in between, as Django's test cases do.
        """
        if self._raw is not None or self.in_atomic_block or not self._connects_by_ours():
            return False
        found, kept = self._found(), self._kept
        if kept is not None and self._open_again(kept.opening):
            return True
        if not isinstance(found, ConnectionPool) or found.config.mode != "transaction":
            return False
        try:
            self._open(found)
        except Exception:
            with self.wrap_database_errors:
                raise
        self._met = True
        if kept is not None and ports.reroutes is None:
            own = vars(self)
            kept.opening = self._seen, {name: own[name] for name in _OPENED}
        return True

    def _connects_by_ours(self) -> bool:
        """Return whether nobody has put anything in the place of what connects."""
        ensures, connects = self._connecting
        if self._kept is not None:  # of a class of ours, and so of Django's below
            cls = type(self)
            return (
                cls.ensure_connection is ensures
                and cls.connect is connects
                and DatabaseWrapper.ensure_connection is _ENSURES
                and vars(self).keys().isdisjoint(_CONNECTING)
            )
        return (
            getattr(super().ensure_connection, "__func__", None) is _ENSURES
            and getattr(self.ensure_connection, "__func__", None) is ensures
            and getattr(self.connect, "__func__", None) is connects
        )

    def _open_again(self, opening: tuple[Any, dict[str, Any]] | None) -> bool:
        """Open it as it has been before, if the settings are the same; return whether they are."""
        if opening is None or opening[0] is not self._seen or ports.reroutes is not None:
            return False
        vars(self).update(opening[1])
        self.savepoint_ids, self.atomic_blocks, self.run_on_commit = [], [], []
        return True

    def close(self) -> None:
        """Close the wrapper, as Django does."""
        close = super().close
        if (
            self._bridged
            and self._lease is None
            and self._raw is None
            and getattr(close, "__func__", None) is _CLOSES
            and self._thread_ident == get_ident()  # type: ignore[attr-defined]
        ):
            self.run_on_commit = []  # Django's own does no more where it has no connection
        else:
            close()

    def _commit(self) -> None:
        if type(port.getcurrent()) is not port.Greenlet:
            super()._commit()
            return
        raw = self._raw
        if raw is not None and raw.pgconn.transaction_status == _FAILED:
            # The server would answer COMMIT with ROLLBACK, and psycopg would not complain.
            raise lost_by_cancellation()
        with port.shielded(port.ENDING):
            super()._commit()

    def _rollback(self) -> None:
        if type(port.getcurrent()) is not port.Greenlet:
            super()._rollback()
            return
        with port.shielded(port.ENDING):
            super()._rollback()

    def _close(self) -> None:
        if type(port.getcurrent()) is not port.Greenlet:
            super()._close()
            return
        with port.shielded(port.ENDING):
            super()._close()

    def run_and_clear_commit_hooks(self) -> None:
        """Run the callbacks, as Django does. A cancellation waits for them, but not for ever."""
        with port.shielded(port.ENDING):
            super().run_and_clear_commit_hooks()

    def on_commit(self, func: Callable[[], Any], robust: bool = False) -> None:
        """Register a callback, as Django does; here it may be a coroutine function as well."""
        super().on_commit(_awaited(func) if iscoroutinefunction(func) else func, robust)

    def _note_cancelled(self, cancelled: CancelledError) -> None:
        """Take note that a statement has been cancelled, of which Django takes none.

        Whether it has come to pass is unknown: so the block can but be rolled back.
        """
        if self.in_atomic_block:
            self.needs_rollback, self.rollback_exc = True, cancelled

    def _cancelled_by(self) -> BaseException | None:
        """Return the cancellation of a statement for which the present block has to roll back.

        Or the end of a coroutine that was closed within a block of its own.
        """
        exc: BaseException | None = self.rollback_exc
        told = isinstance(exc, CancelledError | GeneratorExit)
        return exc if self.needs_rollback and told else None


def lost_by_cancellation() -> TransactionManagementError:
    """Return what is raised by a block that nobody has told of its failure."""
    return TransactionManagementError(
        "a statement of this block failed or was cancelled, as by a timeout, and the exception was "
        "caught within the block, or a generator was dropped that is within a block of its own: so "
        "it has been rolled back. Put a block of its own around what may fail, within the `try`, "
        "and leave generators by `contextlib.aclosing()`"
    )


def _awaited(function: Callable[[], Any]) -> Callable[[], Any]:
    @wraps(function)
    def awaited() -> Any:
        return async_to_sync(_in_a_task)(function)

    return awaited


async def _in_a_task(function: Callable[[], Any]) -> Any:
    # In one of its own: `asyncio.timeout()` and the like cancel the task that they are in, and a
    # cancellation of the one that commits waits.
    task = asyncio.ensure_future(function())
    try:
        return await task
    finally:
        task.cancel()  # where nobody can wait any more
