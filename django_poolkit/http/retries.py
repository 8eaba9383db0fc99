"""Sends an idempotent request again that failed: a few times, after a while, within a budget.

The budget is what keeps retries from finishing off an upstream that has too much to do already:
in the long run they are no more than a share of all requests.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from aiohttp import (
    ClientConnectionError,
    ClientHandlerType,
    ClientRequest,
    ClientResponse,
    ClientSSLError,
    ServerTimeoutError,
)
from aiohttp.payload import BytesPayload

from django_poolkit.pools.chance import chance

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""RFC 9110, 9.2.2."""
STATUSES: Final = frozenset({502, 503, 504})
"""What says that somebody else may have more luck, or the same one later."""
BASE: Final = 0.1
"""Seconds before the first retry at most; twice as many before each further one."""
LONGEST: Final = 5.0
"""Seconds before a retry at most. A server that asks for more gets none."""
_RESERVE: Final = 10.0


class Budget:
    """Of how many retries there may be: a share of the requests, and a few to begin with."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._lock = threading.Lock()  # guards the rest: there may be several loops
        self._left = _RESERVE

    def earn(self) -> None:
        """Count a request."""
        with self._lock:
            self._left = min(_RESERVE, self._left + self._share)

    def spend(self) -> bool:
        """Count a retry; return False if there may be none."""
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
            return True


class Retry:
    """The outermost middleware of one request."""

    def __init__(self, most: int, budget: Budget, note: Callable[[BaseException], None]) -> None:
        self._most = most
        self._budget = budget
        self._note = note
        self._failures = 0
        self._last: ClientConnectionError | None = None
        budget.earn()

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        # aiohttp by itself asks once more where a connection broke, which comes here again.
        if self._last is not None and self._failures > self._most:
            raise self._last
        while True:
            try:
                response = await handler(request)
            except ClientConnectionError as error:
                self._last = error
                # Who waited in vain, for a connection or an answer, has waited long enough.
                if isinstance(error, (ServerTimeoutError, ClientSSLError)):
                    raise
                delay = self._delay(request)
                if delay is None:
                    raise
                self._note(error)
            else:
                if response.status not in STATUSES:
                    return response
                delay = self._delay(request, response.headers.get("Retry-After", ""))
                if delay is None:
                    return response
                response.release()
            await asyncio.sleep(delay)

    def _delay(self, request: ClientRequest, asked: str = "") -> float | None:
        """Return how long to wait before the next try, None where there is to be none."""
        self._failures += 1
        least = _seconds(asked)
        if (
            self._failures > self._most
            or request.method not in IDEMPOTENT
            or not isinstance(request.body, (bytes, BytesPayload))  # may be read once only
            or least > LONGEST
            or not self._budget.spend()
        ):
            return None
        return max(least, chance.uniform(0, min(LONGEST, BASE * 2 ** (self._failures - 1))))


def _seconds(asked: str) -> float:
    """Return for how long a server asks one to stay away, by seconds or until a date; 0 else."""
    if asked.isdecimal():
        return float(asked)
    try:
        until = parsedate_to_datetime(asked)
        return max(0.0, until.replace(tzinfo=until.tzinfo or UTC).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
