"""Asks a server how far it has come, on a connection of its own beside those of the pool."""

from __future__ import annotations

import select
from dataclasses import dataclass
from typing import Final

import psycopg

from django_poolkit.pools.patched import poller as new_poller
from django_poolkit.pools.postgres.connection import PoolConnection
from django_poolkit.pools.postgres.prober import Prober
from django_poolkit.pools.postgres.wal import READING, Position, lsn_of, server_of, written_at

# Linux tells the end of a stream from data. Elsewhere an answer under way looks like one, and the
# server is asked once more.
_HUNG_UP: Final = getattr(select, "POLLRDHUP", select.POLLIN)


@dataclass(frozen=True, slots=True)
class Reading:
    """How far a server has come."""

    in_recovery: bool
    """Whether it is a replica."""
    position: Position
    """What a replica has replayed, or a primary has written."""
    sure: bool
    """Whether the timeline is its present one. Else it may have gone on to a later one."""
    source: PoolConnection | None
    """On which connection it said so."""


class PositionReader(Prober):
    """Asks one server. Makes a connection when it is asked, and keeps it until `release()`."""

    # Where a server stands that was replaced says nothing.
    _lenient = False

    def read(self, seconds: float) -> Reading:
        """Ask the server. Blocks, and raises, as `ask()` does.

        Whoever asks is one thread at a time: the others are kept waiting.
        """
        return _reading(self.row(READING, seconds), self._connection)

    def still(self, reading: Reading) -> bool:
        """Return whether it is the same run of the server as at that reading.

        A replica that has been started again may be behind where it was. Sends nothing, and may
        be called by any thread, also while another one asks.
        """
        connection = self._connection
        if connection is None or connection is not reading.source or connection._shared:
            return False  # of a pooler in between the socket tells, and of no server
        try:
            # Each caller has a poll of its own: two at a time must not use the same object. An
            # answer that is being waited for is no end of the connection.
            poller = new_poller()
            poller.register(connection.pgconn.socket, _HUNG_UP)
            return not poller.poll(0)
        except (psycopg.Error, OSError, ValueError):
            return False


def _reading(columns: list[bytes | None], source: PoolConnection | None) -> Reading:
    recovering, lsn, timeline, sure, *rest = columns
    server = server_of(rest)
    if recovering != b"t":
        return Reading(False, written_at(server, (lsn, timeline)), True, source)
    # Nothing has been replayed: a replica that has not been sent anything yet.
    replayed = lsn_of(lsn.decode()) if lsn else 0
    position = Position(server.system, int(timeline or 0), replayed)
    return Reading(True, position, sure == b"t", source)
