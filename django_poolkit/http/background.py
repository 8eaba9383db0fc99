"""One event loop in a thread of its own, for those who have none: a process has at most one."""

from __future__ import annotations

import asyncio
import os
import selectors
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any, Final, TypeVar

from django_poolkit.pools.endings import at_end
from django_poolkit.pools.errors import PoolClosed
from django_poolkit.pools.forks import in_child
from django_poolkit.pools.patched import is_patched

T = TypeVar("T")
NAME: Final = "poolkit-http"
"""Of the thread."""


class NoThread(RuntimeError):
    """gevent has made threads greenlets, and an event loop needs a real one."""


class Background:
    """Runs coroutines for threads. Its own thread starts with the first, and anew after a fork."""

    def __init__(self) -> None:
        self._inherited: list[Any] = []
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()  # guards the two below, and who gives the loop work
        self.loop: _Loop | None = None
        self._thread: threading.Thread | None = None

    def run(self, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run what `start()` returns on the loop, and return its result.

        Blocks the calling thread until then; what is raised there cancels the coroutine. Must
        not be called in the thread of a running loop. Raises PoolClosed if the loop is stopped
        meanwhile, and NoThread where gevent has made threads greenlets.
        """
        if is_patched("threading"):
            # The loop would run in the thread of all greenlets, in each of which Django would take
            # itself to be called by a coroutine, and refuse to query.
            raise NoThread(
                "client_sessions[…].sync needs a thread of its own for its event loop, and gevent "
                "has made threads greenlets: use a blocking HTTP client, or another kind of worker"
            )
        # Whatever is on the loop's list when it is told to stop is still begun, and cancelled.
        with self._lock:
            loop = self._running_locked()
            future = asyncio.run_coroutine_threadsafe(start(), loop)
        try:
            return future.result()
        except CancelledError:
            raise PoolClosed("the client sessions of this process are being closed") from None
        except BaseException:
            future.cancel()  # an interrupt or a server's time limit, in this thread
            raise

    def stop(self, timeout: float) -> None:
        """End the loop and its thread. What runs is cancelled. Blocks for `timeout` at most."""
        with self._lock:
            loop, thread = self.loop, self._thread
            self.loop = self._thread = None
        if loop is not None and thread is not None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(loop.stop)
            thread.join(timeout)

    def after_fork(self) -> None:
        """Begin anew in a forked child, which has inherited the loop but not the thread."""
        if self.loop is not None:
            self.loop.abandon()
            # Not to be collected: its finalizer would touch what the parent still uses.
            self._inherited.append(self.loop)
        self._reset()

    def _running_locked(self) -> asyncio.AbstractEventLoop:
        if self.loop is None:
            loop = _Loop()
            thread = threading.Thread(target=self._serve, args=(loop,), name=NAME, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # at the end of the process there are no new threads
                loop.close()
                raise
            self.loop, self._thread = loop, thread
        return self.loop

    def _serve(self, loop: _Loop) -> None:
        """Run the loop until it is stopped, then end what is left on it, as asyncio.run() does."""
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            with self._lock:
                if self.loop is loop:  # not stopped: a coroutine has raised SystemExit
                    self.loop = self._thread = None
            while tasks := asyncio.all_tasks(loop):
                for task in tasks:
                    task.cancel()
                loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            # Here the client sessions close that are still open on it.
            loop.run_until_complete(loop.shutdown_asyncgens())
            asyncio.set_event_loop(None)
            loop.close()


class _Loop(asyncio.SelectorEventLoop):
    """Of a kind that is known, whatever the policy says: a forked child must let go of it."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._selector_of_ours = selectors.DefaultSelector()
        super().__init__(self._selector_of_ours)

    def abandon(self) -> None:
        """Close the descriptors, and nothing else: the kernel shares what the selector watches."""
        self._selector_of_ours.close()
        for name in ("_ssock", "_csock"):  # asyncio/selector_events.py: it wakes itself by these
            if (sock := getattr(self, name, None)) is not None:
                sock.close()

    def __del__(self, *args: Any, **kwargs: Any) -> None:
        if self._pid == os.getpid():
            super().__del__(*args, **kwargs)


background = Background()
"""That of this process."""

in_child(background.after_fork)
at_end(background.stop, 1.0)
