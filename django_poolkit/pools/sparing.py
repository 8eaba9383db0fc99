"""Saying the same thing once in a while, and how often it has come to pass.

A server that is away is tried some times a second by each process, and each failure has the same
words. What reads the log would see nothing else.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

# Seconds after which the same text is said again.
AGAIN: Final = 1.0
# So many texts are remembered: of an outage there are a few, one for each address.
_MOST: Final = 32


class Sparing:
    """What was said lately. Guarded by its owner's lock."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[float, int]] = {}

    def times(self, text: str) -> int:
        """Count one more time; return how often since it was last said, 0 if not to be said now."""
        now = monotonic()
        at, times = self._said.get(text, (now - AGAIN, 0))
        if now - at < AGAIN:
            self._said[text] = at, times + 1
            return 0
        if text not in self._said and len(self._said) >= _MOST:
            self._said.clear()
        self._said[text] = now, 0
        return times + 1
