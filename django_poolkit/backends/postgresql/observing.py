"""Session mode under observation: when transaction mode would have given the lease back."""

from __future__ import annotations

import sys
import weakref
from typing import TYPE_CHECKING

from psycopg.pq import TransactionStatus

from django_poolkit.pools.lease import Lease
from django_poolkit.pools.observe import Recorder, Watch
from django_poolkit.pools.postgres.connection import PoolConnection, reported

if TYPE_CHECKING:
    from django_poolkit.backends.postgresql.leasing import LeasingMixin

_IDLE = TransactionStatus.IDLE


def watch(wrapper: LeasingMixin, lease: Lease, recorder: Recorder) -> Watch:
    """Begin to watch a lease that the wrapper has just taken."""
    # What receivers of a new connection have set would be there in transaction mode, too.
    connection: PoolConnection = lease.connection
    parameters = reported(connection)
    owner, server = weakref.ref(wrapper), weakref.ref(connection)

    def idle(lease: Lease) -> bool:
        held_by, connection = owner(), server()
        return (
            held_by is not None
            and connection is not None
            and not lease.busy
            and not held_by._by_hand
            and bool(held_by.settings_dict["AUTOCOMMIT"])
            # Django notes it on the wrapper a moment after it has set it here.
            and connection._autocommit
            and connection.pgconn.transaction_status == _IDLE
            and not (connection._pipeline or connection._num_transactions or connection._tpc)
        )

    def changed() -> bool:
        connection = server()
        return connection is not None and reported(connection) != parameters

    return recorder.watch(lease, sys._getframe(1), idle=idle, changed=changed)
