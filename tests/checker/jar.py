"""What visitors keep, and count with."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from http.cookies import SimpleCookie


class Numbers:
    """Numbers that are given once. Any thread may take one."""

    def __init__(self) -> None:
        self._count = itertools.count(1)
        self._lock = threading.Lock()  # guards two at a time

    def take(self) -> int:
        """Return the next one."""
        return next(self._count)

    def pair(self) -> int:
        """Return the first of two that follow each other."""
        with self._lock:
            return next(self._count) * 2


class Jar:
    """The cookies of one browser. Its tabs are threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the cookies
        self._cookies: dict[str, tuple[str, float]] = {}

    def sent(self, *, ours: bool) -> str:
        """Return what goes with a request; `ours`: those of the package among them."""
        now = time.monotonic()
        with self._lock:
            return "; ".join(
                f"{name}={value}"
                for name, (value, until) in self._cookies.items()
                if now < until and (ours or not name.startswith("poolkit_"))
            )

    def take(self, headers: Sequence[str]) -> None:
        """Keep what an answer says that is to be kept."""
        now = time.monotonic()
        with self._lock:
            for text in headers:
                for name, morsel in SimpleCookie(text).items():
                    age = morsel["max-age"]
                    until = now + (float("inf") if age == "" else float(age))
                    self._cookies[name] = (morsel.value, until)
