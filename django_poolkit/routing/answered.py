"""An event that threads set, and that a task waits for."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Answered:
    """Of the running loop. For a task what `threading.Event` is for a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake the task. May be called on any thread, and never blocks."""
        with suppress(RuntimeError):  # the loop has been closed meanwhile
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, seconds: float) -> None:
        """Wait until it is set, for so long at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()

    def clear(self) -> None:
        """Have the next who waits wait anew. Called by the task."""
        self._event.clear()
