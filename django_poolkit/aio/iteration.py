"""`aiterator()` in the bridge: each slice is a call, and one lease serves them all.

Django's own has a thread fetch each slice, and leaves it to the garbage collector to close the
cursor of an iteration that is given up: that would block the loop for a round trip.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

from django_poolkit.aio.calls import Call


async def bridged_generator(iterable: Any) -> AsyncIterator[Any]:
    """Stand for `BaseIterable._async_generator()` of Django's.

    The iteration has a wrapper of its own, so other queries run beside it; within a block it
    has the block's, and takes its turn for each slice. It holds its connection from its first
    slice to its last one, or until it is closed: in the bridge, as soon as the loop hears of it.
    """
    call, rows = Call(), _Rows(iterable)
    try:
        while chunk := await _next(call, rows):
            for row in chunk:
                yield row
            if len(chunk) < rows.size:
                return
    finally:
        if not rows.closed:
            await call.run(rows.close)


async def _next(call: Call, rows: _Rows) -> list[Any]:
    try:
        return await call.run_part(rows.slice)
    except GeneratorExit:  # the task is thrown away: nobody may await anything any more
        call.abandon()
        with suppress(ValueError):  # it still runs: the thread of its loop ends it
            rows.close()
        raise


class _Rows:
    """The rows of an iteration, of which nobody else keeps hold."""

    def __init__(self, iterable: Any) -> None:
        self._iterable = iterable
        self._rows: Iterator[Any] | None = None
        self.size: int = iterable.chunk_size
        self.closed = False

    def slice(self) -> list[Any]:
        """Return the next rows, in the bridge. Some of Django's ask for them as they are made."""
        if self._rows is None:
            self._rows = iter(self._iterable)
        return list(islice(self._rows, self.size))

    def close(self) -> None:
        """Close the cursor. What is no generator does so as it is dropped."""
        self.closed = True
        rows, self._rows = self._rows, None
        if (close := getattr(rows, "close", None)) is not None:
            close()
