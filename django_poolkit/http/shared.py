"""A client session that is shared: one of aiohttp's for each event loop of this process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import aiohttp
from aiohttp import ClientResponse
from aiohttp.client import _RequestContextManager

from django_poolkit import registry
from django_poolkit.conf.http import HttpConfig
from django_poolkit.http import body, options
from django_poolkit.http.connector import Connector
from django_poolkit.http.figures import KIND, Figures
from django_poolkit.http.opened import Opened
from django_poolkit.http.policy import Guard, OutsideGuard, Policy
from django_poolkit.http.retries import Budget, Retry
from django_poolkit.http.sync import SyncClientSession, SyncResponse
from django_poolkit.pools.errors import PoolClosed, WrongLoop
from django_poolkit.pools.stats import PoolStats


class SharedClientSession:
    """`client_sessions[name]`: has aiohttp's verbs, and closes what it opens with its loop.

    `await session.get(url)` and `async with session.get(url) as response` take and give what
    aiohttp's do, on whichever event loop runs; `session.sync` is for code without one.
    """

    def __init__(self, config: HttpConfig) -> None:
        self.config = config
        self.name = f"{KIND}:{config.name}"
        """As metrics and `poolstatus` show it: a pool may have the same alias."""
        self.aliases: tuple[str, ...] = ()
        self.sync = SyncClientSession(config.name, self._fetch)
        """The same for code that has no event loop."""
        self.ended = False
        """Whether it has been closed for good."""
        self._options = options.read(config)
        self._policy = Policy.of(config, self._options.base_url)
        self._middlewares = tuple(self._options.session.get("middlewares") or ())
        self._inherited: list[object] = []
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.RLock()  # guards the two below
        self._opened: dict[asyncio.AbstractEventLoop, Opened] = {}
        self._announced = False
        self._figures = Figures()
        self._budget = Budget(self.config.retry_budget)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.config.name!r}>"

    # -- requests

    def request(self, method: str, url: Any, **options: Any) -> _RequestContextManager:
        """Send a request, with aiohttp's options.

        To be awaited, or entered with `async with`, which also gives the connection back. Raises
        WrongLoop where no event loop runs.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise WrongLoop(
                f"no event loop runs in this thread. Write: client_sessions[{self.config.name!r}]"
                f".sync.{method.lower()}(...)",
                pool=self.name,
            ) from None
        return _RequestContextManager(self._request(method, url, **options))

    def get(self, url: Any, **options: Any) -> _RequestContextManager:
        """Send a GET request."""
        return self.request("GET", url, **options)

    def options(self, url: Any, **options: Any) -> _RequestContextManager:
        """Send an OPTIONS request."""
        return self.request("OPTIONS", url, **options)

    def head(self, url: Any, **options: Any) -> _RequestContextManager:
        """Send a HEAD request. Redirects are not followed."""
        return self.request("HEAD", url, **{"allow_redirects": False, **options})

    def post(self, url: Any, **options: Any) -> _RequestContextManager:
        """Send a POST request."""
        return self.request("POST", url, **options)

    def put(self, url: Any, **options: Any) -> _RequestContextManager:
        """Send a PUT request."""
        return self.request("PUT", url, **options)

    def patch(self, url: Any, **options: Any) -> _RequestContextManager:
        """Send a PATCH request."""
        return self.request("PATCH", url, **options)

    def delete(self, url: Any, **options: Any) -> _RequestContextManager:
        """Send a DELETE request."""
        return self.request("DELETE", url, **options)

    def probe(self, url: Any) -> _RequestContextManager:
        """Send a GET request on the running event loop as a health check does: once.

        A retry would be taken from those of all others, and say less of how the upstream is.
        """
        return _RequestContextManager(self._send([], "GET", url))

    async def _request(self, method: str, url: Any, **options: Any) -> ClientResponse:
        tries, budget = self.config.retries, self._budget
        outermost = [Retry(tries, budget, self._figures.note)] if tries else []
        return await self._send(outermost, method, url, **options)

    async def _send(
        self,
        outermost: list[Retry],
        method: str,
        url: Any,
        /,
        *,
        middlewares: Any = None,
        **options: Any,
    ) -> ClientResponse:
        if self.config.redirects == "never":
            if options.get("allow_redirects"):
                raise ValueError("allow_redirects=True: the setting REDIRECTS is 'never'")
            options["allow_redirects"] = False
        # Those of a request replace those of the client session; ours are among both.
        inner = self._middlewares if middlewares is None else middlewares
        chain = (*outermost, *inner, Guard(self._policy, self._bound))
        opened = await self._of_this_loop()
        try:
            return await opened.session.request(method, url, middlewares=chain, **options)
        except asyncio.CancelledError:
            # A connector that closes cancels those who wait for it, not their tasks.
            task = asyncio.current_task()
            if opened.closing and task is not None and not task.cancelling():
                raise self._closed() from None
            raise

    async def _fetch(self, method: str, url: Any, **options: Any) -> SyncResponse:
        async with self.request(method, url, **options) as response:
            return SyncResponse(
                response.status, response.headers, str(response.url), await response.read()
            )

    def _bound(self, response: ClientResponse) -> None:
        body.bound(response, self.config.max_body, self._figures.note)

    # -- life

    async def open(self) -> None:
        """Open it on the running event loop. No connection is made yet. Raises PoolClosed."""
        await self._of_this_loop()

    async def close(self) -> None:
        """Close it for good, on all event loops. Takes `CLOSE_TIMEOUT` seconds at most."""
        own = asyncio.get_running_loop()
        closings = []
        for opened in self._end():
            if opened.loop is own:
                closings.append(opened.close())
            elif (future := opened.close_from_thread()) is not None:
                closings.append(self._wait_for(future))
        await asyncio.gather(*closings)

    async def _wait_for(self, future: Future[None]) -> None:
        with suppress(Exception):
            await asyncio.wait_for(asyncio.wrap_future(future), self.config.close_timeout)

    def close_from_thread(self, timeout: float) -> None:
        """Close it for good, on all event loops. Blocks for `timeout` seconds at most.

        On a loop that runs in the calling thread it closes with the loop's next turns.
        """
        deadline = time.monotonic() + timeout
        futures = [opened.close_from_thread() for opened in self._end()]
        for future in futures:
            if future is not None:
                with suppress(Exception):
                    future.result(max(0.0, deadline - time.monotonic()))

    def forget(self) -> None:
        """Begin anew in a forked child: the parent's connections are not touched."""
        opened = list(self._opened.values())
        # Not to be collected: their finalizers would touch what the parent still uses.
        self._inherited += opened
        self._reset()  # first: the lock may have been another thread's, which the child has not got
        for each in opened:
            each.abandon()

    def stats(self) -> PoolStats:
        """Return a snapshot over all event loops. Opens nothing, and waits for nobody."""
        self._sweep()
        opened = list(self._opened.values())
        return self._figures.stats(
            name=self.name,
            state="closed" if self.ended else "open",
            max_size=self.config.options["limit"] * max(1, len(opened)),
            sockets=sum(each.connector.open for each in opened),
        )

    # -- the loops

    async def _of_this_loop(self) -> Opened:
        loop = asyncio.get_running_loop()
        opened = self._opened.get(loop)
        if opened is not None and not opened.closing:
            return opened
        self._sweep()
        if not self._announced:
            registry.pools.events.opening(self)
        with self._lock:
            if self.ended:
                raise self._closed()
            self._announced = True
            opened = self._opened[loop] = self._open()
        await opened.keep()
        return opened

    def _open(self) -> Opened:
        ours = self._options
        outside = OutsideGuard(self._policy, self._bound)
        tcp = {**ours.connector, "ssl": ours.ssl}
        connector = Connector(self.config.addresses, tcp, self._closed)
        given = {
            **ours.session,
            "timeout": ours.timeout,
            # A jar is everybody's: one user's cookies would be sent with the next one's request.
            "cookie_jar": aiohttp.CookieJar() if self.config.cookies else aiohttp.DummyCookieJar(),
            "middlewares": (*self._middlewares, outside),
            "trace_configs": [
                self._figures.trace(),
                outside.trace(),
                *(ours.session.get("trace_configs") or ()),
            ],
        }
        session = aiohttp.ClientSession(connector=connector, **given)
        return Opened(session, connector, self.config.close_timeout, self._gone)

    def _gone(self, opened: Opened) -> None:
        with self._lock:
            if self._opened.get(opened.loop) is opened:
                del self._opened[opened.loop]

    def _sweep(self) -> None:
        """Let go of what belongs to loops that were closed without a chance to close it."""
        with self._lock:
            dead = [opened for loop, opened in self._opened.items() if loop.is_closed()]
            for opened in dead:
                del self._opened[opened.loop]
        for opened in dead:
            opened.abandon()
        # Of one that was ended properly somebody may have a response as well, half read.
        self._figures.forget_closed_loops()

    def _end(self) -> Iterator[Opened]:
        """Refuse all use from now on, and return what is to be closed."""
        with self._lock:
            self.ended = True
        self._sweep()
        yield from list(self._opened.values())

    def _closed(self) -> PoolClosed:
        return PoolClosed(f"client session {self.config.name!r} is closed", pool=self.name)
