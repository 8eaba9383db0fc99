"""A request to cancel what runs on a connection, for others than the one who waits for its answer.

It is made while the connection is open, and holds after that: its owner may close it at any moment.
So such a connection must never be lent again, whatever comes of the request.
"""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from time import sleep
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import capabilities, generators, waiting
from psycopg.pq import TransactionStatus

from django_poolkit.pools.postgres import late

if TYPE_CHECKING:
    from django_poolkit.pools.postgres.connection import PoolConnection

_INTERVAL: Final = 0.1  # psycopg's own


class CancelRequest:
    """Asks the server, as often as it is told to: one that overtakes its statement is lost.

    Raises psycopg.OperationalError for a connection that is closed: here with a libpq before 17,
    else where it is sent.
    """

    def __init__(self, connection: PoolConnection) -> None:
        self._safe = capabilities.has_cancel_safe()
        pgconn = connection.pgconn
        self._request: Any = pgconn.cancel_conn() if self._safe else pgconn.get_cancel()

    def send(self) -> None:
        """Send it. Blocks until the server has passed it on, for `late.GRACE` seconds at most.

        With a libpq before 17 that is as long as the network likes. Raises psycopg.Error, OSError.
        """
        if not self._safe:
            self._request.cancel()
            return
        self._request.reset()
        self._request.start()
        steps = generators.cancel(self._request)
        waiting.wait_conn(steps, interval=_INTERVAL, timeout=late.GRACE)

    def send_twice(self) -> None:
        """Send it for what has begun just now, if at all. Blocks and raises as `send()`."""
        self.send()
        sleep(late.AGAIN)
        self.send()


def abandon(connection: PoolConnection) -> None:
    """Have what runs cancelled by a thread, and never lend the connection again. Does not block.

    For one whose task is gone. The connection may be closed at once. Of those who end its lease
    several may come here: the first one's thread is enough.
    """
    if connection._abandoned or connection.pgconn.transaction_status != TransactionStatus.ACTIVE:
        return
    connection._generation = late.DOUBTFUL
    if sys.is_finalizing():  # Python 3.11 would wait for ever for a thread to begin
        return
    with suppress(psycopg.Error, RuntimeError):  # it is broken, or the system gives no thread
        work = (CancelRequest(connection),)
        threading.Thread(target=_send_twice, args=work, name="cancel", daemon=True).start()
        connection._abandoned = True


def _send_twice(request: CancelRequest) -> None:
    with suppress(psycopg.Error, OSError):
        request.send_twice()
