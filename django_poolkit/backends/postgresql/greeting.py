"""A new connection is shown once to those who prepare connections, in transaction mode.

In session mode, as with Django's own pool, `connection_created` is sent at the begin of each
lease. Leases of a statement each would pay for that with every statement. So the receivers see
a connection at its first lease, and again after a reset, which undoes what they had SET; what
they leave behind is the ground state to which each release goes back.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

from django.db.backends.signals import connection_created
from django.db.utils import ProgrammingError

from django_poolkit.backends.postgresql.leasing import LeasingMixin
from django_poolkit.backends.postgresql.pooling import Handed
from django_poolkit.backends.request import RequestScope
from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres import ConnectionPool, reset
from django_poolkit.pools.postgres.connection import PoolConnection, no_lease
from django_poolkit.pools.postgres.errors import LeaseReleased

# What belongs to a transaction, and what it is outside of one.
_OUTSIDE: dict[str, Any] = {
    "autocommit": True,
    "in_atomic_block": False,
    "needs_rollback": False,
    "run_commit_hooks_on_set_autocommit_on": False,
}
_LISTS = ("savepoint_ids", "atomic_blocks", "run_on_commit")


class GreetingMixin(LeasingMixin):
    """Shows a physical connection to the wrapper classes below, and to signal receivers."""

    def _greet(self, lease: Lease, raw: PoolConnection) -> None:
        """Prepare a connection under its first lease, which is of no use where that fails."""
        # Taken first: who comes meanwhile has not seen it.
        greeted = lease.pool.greeting, [*connection_created.receivers]
        lease.cursors += 1
        # What they run is no statement of this lease, and opens no cursor of it.
        raw._lease_ref = no_lease
        try:
            with self._outside_transaction():
                if not raw._introduced:
                    self._introduce(raw)
                self.init_connection_state()
                connection_created.send(sender=self.__class__, connection=self)
            if not reset.at_rest(raw):
                raise ProgrammingError(
                    "a receiver of connection_created left a transaction open on the new "
                    "connection: it has to commit what it begins"
                )
            raw._autocommit = True
            raw.settle()
            raw._greeted = greeted
        finally:
            lease.cursors -= 1
            if not lease.released:
                raw._lease_ref = weakref.ref(lease)

    def _introduce(self, raw: PoolConnection) -> None:
        """Let every wrapper class in between see the connection, as Django's pool would."""
        self._handed = cast(ConnectionPool, Handed(raw))
        try:
            self.get_new_connection(self.get_connection_params())
        finally:
            self._handed = None
        raw._introduced = True

    @contextmanager
    def _outside_transaction(self) -> Iterator[None]:
        """The block that took the lease has not begun on the server yet: nor for receivers."""
        names = (*_OUTSIDE, *_LISTS)
        before = {name: getattr(self, name) for name in names}
        for name, value in (_OUTSIDE | {name: [] for name in _LISTS}).items():
            setattr(self, name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                setattr(self, name, value)

    def _throw_away(self, lease: Lease) -> None:
        """End a lease that has just been taken, and its connection."""
        lease.keeper = None
        scope = self._detach() if self._lease is lease else None
        if scope is not None:
            scope.claim(lease)
        with suppress(LeaseReleased):  # the end of its request was faster
            lease.discard()

    def _detach(self) -> RequestScope | None:
        self._raw = self._handed = None
        return super()._detach()
