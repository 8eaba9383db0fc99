"""A fence around a pool: servers that it must not lead to, though its settings do.

A primary that was replaced may come back, and takes writes as before. What tells it from its
successor is its timeline, which each promotion makes a later one. So whoever knows how far the
timelines of a cluster have come demands as much of each server that the pool connects to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

import psycopg
from psycopg.conninfo import conninfo_to_dict

from django_poolkit.pools.postgres import probe, reset
from django_poolkit.pools.postgres.connection import PoolConnection

Connect = Callable[[str, Mapping[str, Any]], PoolConnection]

# The name of a file of the log begins with the timeline, in hexadecimal digits.
_QUESTION: Final = b"""
SELECT system_identifier, CASE WHEN NOT pg_catalog.pg_is_in_recovery()
    THEN pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_flush_lsn()) END
FROM pg_catalog.pg_control_system()
"""
_DIGITS: Final = 8
# What a server says that answers and has no such thing to tell, as one that is no PostgreSQL of
# the project's own: no such feature, no such function or no right to it, not in this state.
_UNTOLD: Final = ("0A", "42", "55")


class History(NamedTuple):
    """What a server's log is a part of."""

    system: int
    """The cluster of servers that it belongs to."""
    timeline: int


class Fenced(psycopg.OperationalError):
    """A server has been replaced as the primary, or is none of the cluster."""


class Fence:
    """What is demanded of the servers of one pool. Changed by whoever looks, read by connects."""

    def __init__(self) -> None:
        self.least: History | None = None
        """The cluster, and the timeline that a primary of it must at least be on. None: any."""

    def objection(self, connection: PoolConnection, timeout: float = reset.TIMEOUT) -> str | None:
        """Ask the server of a connection; return why the pool must not lead there, if so.

        What is a replica, or cannot tell, is let pass. Blocks for `timeout` seconds at most.
        Raises psycopg.Error where the connection is lost.
        """
        if (least := self.least) is None:
            return None
        try:
            [result] = probe.execute(connection, _QUESTION, timeout)
        except psycopg.Error as error:
            if untold(error.sqlstate or ""):
                return None
            raise
        system, name = result.get_value(0, 0), result.get_value(0, 1)
        if system is not None and int(system) != least.system:
            return "the server belongs to another cluster of servers"
        if name is None:
            return None
        timeline = int(name[:_DIGITS], 16)
        if timeline >= least.timeline:
            return None
        return f"the server is on timeline {timeline}, and was replaced by one on {least.timeline}"

    def connect(
        self, connect: Connect, conninfo: str, kwargs: Mapping[str, Any], *, lenient: bool = False
    ) -> PoolConnection:
        """Return a connection to a server that is let pass, by `connect(conninfo, kwargs)`.

        Where the parameters name several servers, and libpq's choice is none to lead to, each of
        the others is tried. Where there is none, raises Fenced; for one who is `lenient`, and has
        to see such a server, it returns that.
        """
        connection = connect(conninfo, kwargs)
        if (reason := self._objection_or_close(connection)) is None:
            return connection
        been = _place_of(connection)
        if not lenient:
            connection.close()
        for host, port, more in _places(conninfo, kwargs):
            if (host, port) == been:
                continue
            with suppress(psycopg.OperationalError):
                other = connect(conninfo, {**kwargs, "host": host, "port": port, **more})
                if self._objection_or_close(other) is None:
                    connection.close()
                    return other
                other.close()
        if lenient:
            return connection
        raise Fenced(reason)

    def _objection_or_close(self, connection: PoolConnection) -> str | None:
        try:
            return self.objection(connection)
        except BaseException:
            connection.close()
            raise


def untold(sqlstate: str) -> bool:
    """Return whether a server that says this answers, and cannot tell where it stands."""
    return sqlstate.startswith(_UNTOLD)


def _place_of(connection: PoolConnection) -> tuple[str, str]:
    return connection.pgconn.host.decode(), connection.pgconn.port.decode()


def _places(conninfo: str, kwargs: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield host, port and the rest of each server that connect parameters name, if several."""
    given = {**conninfo_to_dict(conninfo), **kwargs}
    hosts = str(given.get("host") or "").split(",")
    if len(hosts) < 2:
        return
    # One port is that of all of them.
    ports = str(given.get("port") or "5432").split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    addresses = str(given.get("hostaddr") or "").split(",")
    for index, (host, port) in enumerate(zip(hosts, ports, strict=False)):
        several = len(addresses) == len(hosts)
        yield host, port or "5432", {"hostaddr": addresses[index]} if several else {}
