"""What a connection goes through before the next lease may have it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import psycopg

from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres import reset, verify
from django_poolkit.pools.postgres.connection import PoolConnection, no_lease
from django_poolkit.pools.postgres.shell import critical
from django_poolkit.pools.postgres.state import State

logger = logging.getLogger("django_poolkit.pool")


class Cleaning(State):
    """Cleans connections on their way home. `ConnectionPool` is the whole."""

    def _clean(self, lease: Lease, connection: PoolConnection, *, full: bool) -> str | None:
        """Bring the connection to rest; return the reason to close it where that failed."""
        if full or not reset.at_rest(connection):
            if not full:
                logger.warning("pool=%s event=rollback reason=open_transaction", self.name)
            if not reset.clean(connection, full=full, prepared=lease.prepares):
                return "reset_failed"
        connection._lease_ref = no_lease  # it has ended, and would refuse the callbacks
        if full and self._configure is not None and not self._calls(self._configure, connection):
            return "reset_failed"  # what `configure` had SET is gone, and could not be again
        connection._baseline.restore(connection)
        if full:
            connection._baseline.read_parameters(connection)
            connection._greeted = None  # what receivers had SET is gone
            self._count_reset()
        callback = self.config.reset_callback
        if callback is not None and not self._calls(callback, connection):
            return "reset_failed"
        if full:
            try:
                connection.read_ground_state()
            except (psycopg.Error, OSError):
                return "reset_failed"
        return None

    def _verify(
        self, lease: Lease, connection: PoolConnection
    ) -> tuple[str | None, tuple[str, ...]]:
        """Clear away what nobody has seen; return a reason to close, and what it was."""
        left: tuple[str, ...] = ()
        try:
            left = verify.left(connection)
            if not left:
                return None, ()
            # Also for those who give back where nobody can catch an error, as a finalizer.
            logger.warning("pool=%s event=state_left left=%s", self.name, "; ".join(left))
        except (psycopg.Error, OSError) as error:
            name = type(error).__name__
            logger.warning("pool=%s event=verify_failed error=%s", self.name, name)
            if (reason := reset.hopeless(connection, lease)) is not None:
                return reason, ()
        lease.prepares = True  # by what, is not known
        return self._clean(lease, connection, full=True), left

    def _calls(self, callback: Callable[[Any], None], connection: PoolConnection) -> bool:
        """Return whether a user's callable ran well and left the connection at rest."""
        try:
            callback(connection)
        except Exception as error:
            name = type(error).__name__
            logger.warning("pool=%s event=reset_failed error=%s", self.name, name)
            return False
        return reset.at_rest(connection)

    @critical
    def _count_reset(self) -> None:
        self._ledger.resets += 1
