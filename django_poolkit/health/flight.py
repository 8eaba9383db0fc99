"""One look of a check that is under way, for as many as want to know what comes of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

from django_poolkit.health.report import Result


class Flight:
    """A look that has begun. Those who wait for it may leave; it goes on without them."""

    def __init__(self, name: str, seconds: float) -> None:
        self.name = name
        self.seconds = seconds
        """How long it may take."""
        self.started = monotonic()
        self._lock = threading.Lock()  # guards the two below
        self._result: Result | None = None
        self._wakers: set[Callable[[], None]] = set()

    @property
    def late(self) -> bool:
        """Whether its time is up."""
        return self._left() <= 0

    def land(self, result: Result) -> None:
        """End it, and wake all who wait. Only the first result counts."""
        with self._lock:
            if self._result is None:
                self._result = result
            wakers, self._wakers = self._wakers, set()
        for wake in wakers:
            wake()

    def result(self) -> Result:
        """Return what came of it, or that its time is up. Blocks until either is so."""
        landed = threading.Event()
        if self._join(landed.set):
            try:
                landed.wait(max(0.0, self._left()))
            finally:
                self._leave(landed.set)
        return self._so_far()

    async def aresult(self) -> Result:
        """Do as `result()`, without blocking the running event loop."""
        loop = asyncio.get_running_loop()
        landed = loop.create_future()

        def wake() -> None:
            with suppress(RuntimeError):  # that loop has been closed
                loop.call_soon_threadsafe(_end, landed)

        if self._join(wake):
            try:
                await asyncio.wait([landed], timeout=max(0.0, self._left()))
            finally:
                self._leave(wake)
        return self._so_far()

    def _left(self) -> float:
        return self.started + self.seconds - monotonic()

    def _join(self, wake: Callable[[], None]) -> bool:
        """Have `wake` called at the end; return False if that has been, or is not waited for."""
        with self._lock:
            if self._result is not None or self.late:
                return False
            self._wakers.add(wake)
            return True

    def _leave(self, wake: Callable[[], None]) -> None:
        with self._lock:
            self._wakers.discard(wake)

    def _so_far(self) -> Result:
        if (result := self._result) is not None:
            return result
        return overdue(self.name, self.started)


def overdue(name: str, started: float) -> Result:
    """Return the result of a look that has not ended in time."""
    now = monotonic()
    return Result(name=name, status="fail", reason="timeout", latency=now - started, observed=now)


def _end(landed: asyncio.Future[None]) -> None:
    if not landed.done():
        landed.set_result(None)
