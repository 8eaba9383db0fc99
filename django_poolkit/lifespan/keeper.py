"""One task that opens a resource, keeps it open, and closes it.

That it is one task is what anyio's task groups and cancel scopes ask for. That it is a task of
its own keeps one that hangs from holding up the others, and lets one be tried again.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, suppress
from time import monotonic
from typing import Any, Final, Literal, NamedTuple

from django_poolkit.lifespan.base import Resource, ResourceError, said_of, stack_of
from django_poolkit.pools.chance import chance

logger = logging.getLogger("django_poolkit.lifespan")

State = Literal["pending", "ready", "failed", "closed"]

# Seconds between two attempts: the first pause, and the longest, reached by doubling.
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 10.0
# Seconds for a task to end that has been cancelled; and between two cancellations, for one that
# was in several things that hang.
_FAREWELL: Final = 0.5
_AGAIN: Final = 0.1


class Status(NamedTuple):
    """How a resource is."""

    state: State
    """`pending` until its first opening has ended; `failed` while it is tried again, too."""
    text: str = ""
    """Why it failed. Safe to show: names and classes, never a driver's words."""


class Keeper:
    """Keeps one resource open on the running event loop, from its making on.

    A required resource has one attempt to open. An optional one, and any that ends while it
    should be open, is tried again until it is stopped.
    """

    def __init__(
        self,
        resource: Resource[Any],
        timeout: float,
        *,
        first_timeout: float | None = None,
        changed: Callable[[Keeper], None] = lambda keeper: None,
        loop_ends: Callable[[], bool] = lambda: False,
    ) -> None:
        self.resource = resource
        self.name: Final = resource.name
        self.status = Status("pending")
        self.value: Any = None
        """What it was opened as, while it is ready."""
        self._timeout = timeout
        self._first_timeout = timeout if first_timeout is None else first_timeout
        self._changed = changed
        self._loop_ends = loop_ends
        self._attempts = 0
        self._entering = False
        self._opened = False  # by the present attempt
        self._stopped = asyncio.Event()
        self._settled = asyncio.Event()
        loop = asyncio.get_running_loop()
        # Not in the context of whoever asks for it first: it outlives a request.
        self._task = loop.create_task(
            self._run(), name=f"poolkit {self.name}", context=contextvars.Context()
        )

    async def settled(self, seconds: float) -> Status:
        """Return how it is after its first attempt, or after `seconds`."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._settled.wait(), seconds)
        return self.status

    async def stop(self, seconds: float) -> None:
        """Close the resource, or end the attempt to open it, within `seconds`.

        A close that takes longer is cancelled; half a second later it is left to itself.
        """
        self._stopped.set()
        if self._entering:
            self._task.cancel()
        elif self.status.state == "ready":
            self._set(Status("closed"))  # nobody gets it any more while it is being closed
        await asyncio.wait({self._task}, timeout=seconds)
        if self._task.done():
            return
        logger.warning("resource=%s event=close_timeout seconds=%.2f", self.name, seconds)
        until = monotonic() + _FAREWELL
        while not self._task.done() and monotonic() < until:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_AGAIN)
        if not self._task.done():
            what = "it goes on although it was cancelled, and may keep the process from ending"
            logger.error("resource=%s event=abandoned: %s", self.name, what)

    def cancel(self) -> None:
        """End it without waiting: there is no time left."""
        self._stopped.set()
        self._task.cancel()

    # -- in the task

    async def _run(self) -> None:
        pauses = _pauses()
        try:
            while True:
                error = await self._attempt()
                if self._stopped.is_set():
                    if error is not None and self._opened:
                        self._log(logging.ERROR, "event=close_failed", error)
                    return
                if self._opened:
                    pauses = _pauses()
                self._fail(error)
                if self.resource.required and self._attempts == 1 and not self._opened:
                    return
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopped.wait(), next(pauses))
                    return
        finally:
            if self._stopped.is_set() or self.status.state != "failed":
                self._set(Status("closed"))
            self._settled.set()

    async def _attempt(self) -> BaseException | None:
        """Open it and keep it open; return what went wrong, None where it has just ended."""
        self._attempts += 1
        self._opened = False
        try:
            await self._keep()
        except asyncio.CancelledError as error:
            if self._task.cancelling():
                raise
            return error  # of something that the resource waited for
        except Exception as error:
            return error
        return None

    async def _keep(self) -> None:
        started = monotonic()
        async with AsyncExitStack() as stack:
            value = await self._enter(stack)
            self._opened = True
            seconds = monotonic() - started
            logger.info("resource=%s event=opened seconds=%.3f", self.name, seconds)
            self._set(Status("ready"), value)
            await self._until_stopped()
            started = monotonic()
        if self._stopped.is_set():
            logger.info("resource=%s event=closed seconds=%.3f", self.name, monotonic() - started)

    async def _enter(self, stack: AsyncExitStack) -> Any:
        timeout = self._first_timeout if self._attempts == 1 else self._timeout
        self._entering = True
        try:
            async with asyncio.timeout(timeout) as limit:
                return await stack.enter_async_context(self.resource.manager())
        except TimeoutError as error:
            if not limit.expired():
                raise
            text = f"resource {self.name!r}: not open within {max(timeout, 0.0):.2f} s"
            raise ResourceError(text) from error
        except RuntimeError as error:
            # contextlib's, for an async generator that ends before it yields.
            if error.args != ("generator didn't yield",):
                raise
            raise ResourceError(f"resource {self.name!r}: its function yields nothing") from None
        finally:
            self._entering = False

    async def _until_stopped(self) -> None:
        try:
            await self._stopped.wait()
        except asyncio.CancelledError:
            if not self._loop_ends():
                raise  # by a cancel scope of the resource, which has to see it
            # The loop has cancelled all its tasks at once. This one waits for its turn.
            self._task.uncancel()
            await self._stopped.wait()

    def _fail(self, error: BaseException | None) -> None:
        text = said_of(error) if error is not None else "it ended by itself"
        known = self.status == Status("failed", text)
        self._set(Status("failed", text))
        if self._opened:
            self._log(logging.ERROR, "event=ended", error)
        elif not known:  # else it is the same outage, and has been told of
            level = logging.ERROR if self.resource.required else logging.WARNING
            self._log(level, "event=open_failed", error)

    def _set(self, status: Status, value: Any = None) -> None:
        self.status, self.value = status, value
        self._changed(self)
        if status.state in ("ready", "failed"):
            self._settled.set()

    def _log(self, level: int, event: str, error: BaseException | None) -> None:
        said, stack = ("none", "") if error is None else (said_of(error), stack_of(error))
        logger.log(level, "resource=%s %s error=%s\n%s", self.name, event, said, stack)


def _pauses() -> Iterator[float]:
    seconds = _FIRST_PAUSE
    while True:
        yield chance.uniform(0.8, 1.2) * seconds
        seconds = min(2 * seconds, _LONGEST_PAUSE)
