"""What a client session counts, told by aiohttp's own tracing. In no figure is a URL or a host."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic
from typing import Any

from aiohttp import ClientSession, TraceConfig
from aiohttp.connector import Connection

from django_poolkit.pools.stats import Histogram, PoolStats

KIND = "http"
"""`PoolStats.kind` of a client session."""


class Call:
    """One request, from its first try to the end of its answer. Made by aiohttp's tracing."""

    __slots__ = ("_figures", "leases", "loop", "queued")

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self.loop = asyncio.get_running_loop()
        self.queued = 0.0
        """Seconds it has spent in the queue for the connection that it is about to get."""
        self.leases = 0
        """Connections it has been given, one after the other."""

    def leased(self, connection: Connection) -> None:
        """Have it counted when the connection that was just given is given back: by a try that
        failed, too, after which a request may sleep before the next."""
        connection.add_callback(partial(self._figures.release, self, self.leases))


class Figures:
    """Counts and histograms of a client session, over all of its event loops."""

    def __init__(self) -> None:
        # Guards all that follows. Reentrant: a response that is collected gives back what it holds
        # at any line, also in the middle of one of these.
        self._lock = threading.RLock()
        self._acquired = self._waited = self._timeouts = 0
        self._connects = self._connect_errors = 0
        self._errors: Counter[str] = Counter()
        self._last_connect_error: str | None = None
        self._wait, self._use, self._connect = Histogram(), Histogram(), Histogram()
        # Since when, the oldest first.
        self._waiting: dict[Call, float] = {}
        self._connecting: dict[Call, float] = {}
        self._using: dict[Call, float] = {}
        self._settled_at = 0.0
        """When a lease last ended."""

    def trace(self) -> TraceConfig:
        """Return what has to be among the `trace_configs` of a client session."""
        trace = TraceConfig(trace_config_ctx_factory=self._call)  # type: ignore[arg-type]
        trace.on_connection_queued_start.append(_told(self._queued))
        trace.on_connection_queued_end.append(_told(self._unqueued))
        trace.on_connection_create_start.append(_told(self._connect_begun))
        trace.on_connection_create_end.append(_told(self._connected))
        trace.on_connection_reuseconn.append(_told(self._reused))
        trace.on_request_exception.append(_told(self._failed))
        return trace

    def _call(self, trace_request_ctx: object = None) -> Call:
        return Call(self)

    def note(self, error: BaseException) -> None:
        """Count an error that aiohttp's tracing is not told of."""
        with self._lock:
            self._errors[type(error).__name__] += 1

    def forget_closed_loops(self) -> None:
        """Strike out the requests that were under way on loops that have ended."""
        with self._lock:
            for table in (self._waiting, self._connecting, self._using):
                for call in [call for call in list(table) if call.loop.is_closed()]:
                    table.pop(call, None)

    def stats(self, *, name: str, state: str, max_size: int, sockets: int) -> PoolStats:
        """Return a snapshot. Connections that nobody uses or makes are idle."""
        now = monotonic()
        with self._lock:
            used, connecting = len(self._using), len(self._connecting)
            idle = max(0, sockets - used - connecting)
            return PoolStats(
                name=name,
                kind=KIND,
                mode="request",
                state=state,
                min_size=0,
                max_size=max_size,
                size=idle + used + connecting,
                idle=idle,
                used=used,
                connecting=connecting,
                waiters=len(self._waiting),
                oldest_waiter=now - next(iter(self._waiting.values()), now),
                oldest_lease=now - next(iter(self._using.values()), now),
                standstill=self._standstill_locked(now),
                acquired=self._acquired,
                waited=self._waited,
                timeouts=self._timeouts,
                too_many_waiters=0,
                connects=self._connects,
                connect_errors=self._connect_errors,
                resets=0,
                leaks=0,
                overdue=0,
                errors=dict(self._errors),
                last_connect_error=self._last_connect_error,
                wait=self._wait.snapshot(),
                use=self._use.snapshot(),
                connect=self._connect.snapshot(),
            )

    # -- what happens to one request, in this order or from the top again

    def _queued(self, call: Call, _: Any) -> None:
        with self._lock:
            self._settle_locked(call)
            self._waiting[call] = monotonic()

    def _unqueued(self, call: Call, _: Any) -> None:
        with self._lock:
            # It may have to go back, where somebody else was faster.
            now = monotonic()
            call.queued += now - self._waiting.pop(call, now)

    def _connect_begun(self, call: Call, _: Any) -> None:
        with self._lock:
            self._settle_locked(call)
            self._connecting[call] = monotonic()

    def _connected(self, call: Call, _: Any) -> None:
        with self._lock:
            now = monotonic()
            self._connects += 1
            self._connect.observe(now - self._connecting.pop(call, now))
            self._last_connect_error = None
            self._acquire_locked(call)

    def _reused(self, call: Call, _: Any) -> None:
        with self._lock:
            self._settle_locked(call)
            self._acquire_locked(call)

    def release(self, call: Call, lease: int) -> None:
        """Count that a connection was given back, unless its request has another already."""
        with self._lock:
            if call.leases == lease:
                self._release_locked(call)

    def _failed(self, call: Call, params: Any) -> None:
        with self._lock:
            self._errors[type(params.exception).__name__] += 1
            self._settle_locked(call, params.exception)
            self._release_locked(call)

    # -- how it is counted

    def _acquire_locked(self, call: Call) -> None:
        self._release_locked(call)  # of the try before, or the redirect
        self._using[call] = monotonic()
        self._acquired += 1
        call.leases += 1
        if call.queued:
            self._waited += 1
            self._wait.observe(call.queued)
            call.queued = 0.0

    def _release_locked(self, call: Call) -> None:
        if (since := self._using.pop(call, None)) is not None:
            self._settled_at = monotonic()
            self._use.observe(self._settled_at - since)

    def _standstill_locked(self, now: float) -> float:
        newest = next(reversed(self._using.values()), None)
        return 0.0 if newest is None else now - max(newest, self._settled_at)

    def _settle_locked(self, call: Call, error: BaseException | None = None) -> None:
        """Close what is still open of a try that failed."""
        cancelled = isinstance(error, asyncio.CancelledError)
        if self._waiting.pop(call, None) is not None and not cancelled:
            self._timeouts += 1
        if self._connecting.pop(call, None) is not None and not cancelled:
            call.queued = 0.0
            self._connect_errors += 1
            # Of the text nothing: a host may be in it.
            causes = [type(each).__name__ for each in (error, getattr(error, "os_error", None))]
            self._last_connect_error = ": ".join(n for n in causes if n != "NoneType") or "retried"


def _told(
    count: Callable[[Call, Any], None],
) -> Callable[[ClientSession, Any, Any], Awaitable[None]]:
    async def receive(session: ClientSession, call: Any, params: Any) -> None:
        count(call, params)

    return receive
