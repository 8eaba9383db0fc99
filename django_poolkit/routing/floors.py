"""Floors: what a visitor has to see of a cluster, wherever it reads.

A position in the write-ahead log of the cluster's primary, or a time until which it reads that
primary: a *time pin*, where no position can be had. Each ends by itself after a while: then every
replica is taken to have come that far.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PAGE: Final = 8192
"""Bytes of a page of the write-ahead log, as PostgreSQL is built where nobody says otherwise."""

# Bytes of what stands at the head of a page (XLogPageHeaderData), and of the first page of a
# segment (XLogLongPageHeaderData, PostgreSQL access/xlog_internal.h).
_HEADER: Final = 24
_LONG_HEADER: Final = 40


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the write-ahead log of one server and those that follow it."""

    system: int
    """The system identifier of the cluster of servers."""
    timeline: int
    """Begins anew with each promotion: numbers of two timelines say nothing of each other."""
    lsn: int
    """Bytes from the beginning, without the head of a page at whose first record it stands."""

    def reached_by(self, other: Position) -> bool:
        """Return whether a server at `other` has all that is before this."""
        return (
            self.lsn <= other.lsn
            and self.timeline == other.timeline
            and self.system == other.system
        )


@dataclass(frozen=True, slots=True)
class Floor:
    """What is to be seen of one cluster."""

    position: Position | None
    """What a replica must have replayed. None: only the primary will do."""
    expires: float
    """Until when, in seconds as `time.time()` has them."""


def later(one: Floor | None, other: Floor | None) -> Floor | None:
    """Return the floor that fulfils both, of one cluster; None where there is neither.

    Where their positions cannot be compared it is a time pin.
    """
    if one is None or other is None:
        return other if one is None else one
    return Floor(_higher(one.position, other.position), max(one.expires, other.expires))


def _higher(one: Position | None, other: Position | None) -> Position | None:
    if one is None or other is None:
        return None
    if (one.system, one.timeline) != (other.system, other.timeline):
        return None
    return max(one, other, key=_lsn)


def _lsn(position: Position) -> int:
    return position.lsn


def without_page_header(lsn: int, segment: int, page: int = PAGE) -> int:
    """Return where the last record before `lsn` ends.

    A primary whose last record ends with its page says that the next one begins behind the head of
    the page to come. A replica gets there with that record, which may be a long time.

    `segment` and `page` are sizes in bytes.
    """
    if lsn % segment == _LONG_HEADER:
        return lsn - _LONG_HEADER
    if lsn % page == _HEADER:
        return lsn - _HEADER
    return lsn


def lsn_of(text: str) -> int:
    """Return a position as a number: PostgreSQL writes it as `16/B374D848`. Raises ValueError."""
    high, slash, low = text.partition("/")
    if not slash:
        raise ValueError(f"no position in a write-ahead log: {text[:20]!r}")
    return (int(high, 16) << 32) + int(low, 16)
