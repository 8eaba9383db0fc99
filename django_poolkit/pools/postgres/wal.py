"""Positions in a server's write-ahead log: what they are, and how one asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

# Bytes of what stands at the head of a page (XLogPageHeaderData), and of the first page of a
# segment (XLogLongPageHeaderData, PostgreSQL access/xlog_internal.h).
_HEADER: Final = 24
_LONG_HEADER: Final = 40

WRITTEN: Final = (
    b"pg_catalog.pg_current_wal_insert_lsn(), "
    b"pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn())"
)
"""Columns: how far a primary has come. What it has written, not what is safe on its disk: a commit
need not be by the time that it returns (`synchronous_commit`)."""

SERVER: Final = b"c.system_identifier, i.bytes_per_wal_segment, i.wal_block_size"
"""Columns: which cluster of servers this is, and the sizes that its log is made of."""
SERVER_FROM: Final = b"pg_catalog.pg_control_system() c, pg_catalog.pg_control_init() i"

# A replica's timeline is what its receiver is sent, where the role may know (pg_read_all_stats).
# The rest follows with the next restart point, so it may be that of a primary that has been
# replaced. The position comes first: a timeline that is looked at afterwards is not older than it.
READING: Final = b"""
SELECT r.recovering,
    CASE WHEN r.recovering THEN pg_catalog.pg_last_wal_replay_lsn()
         ELSE pg_catalog.pg_current_wal_insert_lsn() END,
    CASE WHEN r.recovering THEN greatest(
             w.received_tli,
             (SELECT m.min_recovery_end_timeline FROM pg_catalog.pg_control_recovery() m),
             (SELECT k.timeline_id FROM pg_catalog.pg_control_checkpoint() k))::pg_catalog.text
         ELSE pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()) END,
    w.pid IS NULL OR w.received_tli IS NOT NULL,
    %s
FROM (SELECT pg_catalog.pg_is_in_recovery() AS recovering OFFSET 0) r,
    pg_catalog.pg_stat_get_wal_receiver() w, %s
""" % (SERVER, SERVER_FROM)
"""Asks a primary or a replica how far it has come."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the write-ahead log of one server and those that follow it."""

    system: int
    """The system identifier of the cluster of servers."""
    timeline: int
    """Begins anew with each promotion: numbers of two timelines say nothing of each other."""
    lsn: int
    """Bytes from the beginning to the end of a record, never to the head of the next page."""

    def reached_by(self, other: Position) -> bool:
        """Return whether a server at `other` has all that is before this."""
        return (
            self.lsn <= other.lsn
            and self.timeline == other.timeline
            and self.system == other.system
        )


class Server(NamedTuple):
    """What stays the same of a server."""

    system: int
    segment: int
    """Bytes of a file of its log."""
    page: int
    """Bytes of a page of that."""


def server_of(columns: Sequence[bytes | None]) -> Server:
    """Read the columns of `SERVER`."""
    system, segment, page = (int(value or b"") for value in columns)
    return Server(system, segment, page)


def written_at(server: Server, columns: Sequence[bytes | None]) -> Position:
    """Read the columns of `WRITTEN`."""
    lsn, segment_name = ((value or b"").decode() for value in columns)
    end = without_page_header(lsn_of(lsn), server.segment, server.page)
    return Position(server.system, int(segment_name[:8], 16), end)


def without_page_header(lsn: int, segment: int, page: int = 8192) -> int:
    """Return where the last record before `lsn` ends.

    A primary whose last record fills its page says that the next one begins behind the head of
    the page to come. A replica gets there only with that record, which may be a long time.

    `segment` and `page` are sizes in bytes.
    """
    if lsn % segment == _LONG_HEADER:
        return lsn - _LONG_HEADER
    return lsn - _HEADER if lsn % page == _HEADER else lsn


def lsn_of(text: str) -> int:
    """Return a position as a number: PostgreSQL writes it as `16/B374D848`. Raises ValueError."""
    high, slash, low = text.partition("/")
    if not slash:
        raise ValueError(f"no position in a write-ahead log: {text[:20]!r}")
    return (int(high, 16) << 32) + int(low, 16)
