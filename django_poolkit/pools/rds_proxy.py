"""What has RDS Proxy hold a client on one session ("pinning"), as far as texts show it.

The conditions are those of its documentation for PostgreSQL. It was not tried. What it holds, it
holds until the client disconnects: then its own pool shares nothing any more.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from types import FrameType
from typing import Final

from django_poolkit.pools.observe import MOST_ROWS, OTHER, line_of
from django_poolkit.pools.statement_kinds import Residue

LONGEST: Final = 16 * 1024
"""Bytes of a statement. A longer one pins."""
CURSOR: Final = "cursor"
_LONG: Final = "over 16 KB"
_TEMPORARY: Final = "temporary object"
_SEQUENCE: Final = "sequence"
_PREPARED: Final = "PREPARE, EXECUTE, DEALLOCATE, DISCARD"
_BY_RESIDUE: Final[dict[str, str]] = {
    Residue.SET: "SET, RESET, set_config",
    Residue.LISTEN: "LISTEN",
    Residue.PREPARE: _PREPARED,
    Residue.EXECUTE: _PREPARED,
    Residue.DISCARD: _PREPARED,
    Residue.CURSOR_HOLD: CURSOR,
    Residue.TEMP_TABLE: _TEMPORARY,
    Residue.LOAD: "LOAD",
    Residue.ADVISORY_LOCK: "advisory lock",
    Residue.SEQUENCE: _SEQUENCE,
}
_BY_TEXT: Final = (
    (re.compile(r"\s*declare\b", re.IGNORECASE), CURSOR),
    (
        re.compile(r"\s*create\s+(?:or\s+replace\s+)?(?:(?:global|local)\s+)?temp", re.IGNORECASE),
        _TEMPORARY,
    ),
    (re.compile(r"\b(?:nextval|setval)\s*\(", re.IGNORECASE), _SEQUENCE),
)
CONDITIONS: Final = (
    *dict.fromkeys((*_BY_RESIDUE.values(), *(name for _, name in _BY_TEXT), _LONG)),
)
"""All that are looked for."""


def condition(text: str, residue: str | None) -> str | None:
    """Return for what RDS Proxy would pin at a statement, None for nothing that its text shows.

    `residue` is the session state that it leaves behind by the rules of the kit.
    """
    if len(text) * 4 > LONGEST and len(text.encode("utf-8", "replace")) > LONGEST:
        return _LONG
    if residue is not None and (found := _BY_RESIDUE.get(residue)) is not None:
        return found
    return next((name for pattern, name in _BY_TEXT if pattern.search(text)), None)


class Proxied:
    """Counts by line of code what would pin there. Safe to share among threads."""

    def __init__(self) -> None:
        self.site: Callable[[FrameType], str] = line_of
        """Returns the line of user code above a frame."""
        self.forget()

    def forget(self) -> None:
        """Start anew, as in a forked child."""
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], int] = {}  # guarded by _lock

    def statement(self, text: str, residue: str | None, frame: FrameType) -> None:
        """Take note of a statement that begins."""
        if (found := condition(text, residue)) is not None:
            self.add(found, frame)

    def add(self, name: str, frame: FrameType) -> None:
        """Count one condition at the line of user code above a frame."""
        key = self.site(frame), name
        with self._lock:
            if key not in self._counts and len(self._counts) >= MOST_ROWS:
                key = OTHER, name
            self._counts[key] = self._counts.get(key, 0) + 1

    def rows(self) -> list[tuple[str, str, int]]:
        """Return line, condition and count of all that was found, most frequent first."""
        with self._lock:
            found = [(site, name, count) for (site, name), count in self._counts.items()]
        return sorted(found, key=lambda row: (-row[2], row[:2]))
