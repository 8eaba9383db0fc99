"""The lock of a connection, for threads and for calls in the bridge alike.

psycopg holds it while a statement runs. A plain one would be held across a switch: the next call
on that connection would stop the thread for ever in which the first one waits to be resumed. Here
a thread waits as before, and a call in the bridge suspends its task; first come, first served.
"""

from __future__ import annotations

import _thread
import asyncio
from _thread import get_ident
from collections import deque
from contextlib import suppress
from typing import Any

from django_poolkit.pools.bridge.driver import BridgeGreenlet, await_only, current
from django_poolkit.pools.bridge.greenlets import getcurrent, greenlet


class HybridLock:
    """A lock to be entered by `with`, on top of a plain one that somebody may hold already.

    Holding `_raw` is holding the lock; it is passed on to the first of `_waiters` without being
    released in between. Who queues looks afterwards whether it has become free meanwhile, and who
    releases it looks afterwards whether somebody has queued meanwhile: so one sees the other.
    """

    __slots__ = ("_fitted", "_holder", "_raw", "_waiters")

    def __init__(self, raw: Any = None) -> None:
        self._fitted = raw is not None and raw.locked()
        self._raw = _thread.allocate_lock() if raw is None else raw
        self._waiters: deque[_Waiter] = deque()
        self._holder: greenlet | None = None  # or who is about to hold it

    def locked(self) -> bool:
        """Return whether somebody holds it."""
        return bool(self._raw.locked())

    def __enter__(self) -> bool:
        if self._waiters or not self._raw.acquire(False):
            self._wait()
        self._holder = getcurrent()
        return True

    def __exit__(self, *exc_info: object) -> None:
        self._holder = None
        if not self._waiters:
            self._raw.release()
            if not self._waiters or not self._raw.acquire(False):
                return
        self._pass_on()

    def _wait(self) -> None:
        """Queue, and return when the lock is held. Raises RuntimeError instead of a deadlock."""
        call = current()
        waiter = _ThreadWaiter() if call is None else _CallWaiter(call)
        self._waiters.append(waiter)
        in_vain = False
        try:
            if self._raw.acquire(False):
                self._pass_on()
            elif self._fitted and self._holder is None:
                # Held by who knows nothing of this queue.
                _thread.start_new_thread(self._await_old_holder, ())
            # After it has queued: whoever passes the lock on looks after that who else waits.
            in_vain = self._waits_for_itself(waiter) and waiter.claim()
            if not in_vain:
                waiter.sleep()
        except BaseException:
            if waiter.claim():
                self._leave(waiter)
            else:
                self._pass_on()  # it came in the same moment
            raise
        if in_vain:
            self._leave(waiter)
            raise RuntimeError(
                "this code would wait for itself: it, or a call in the bridge that is suspended "
                "in this thread, is in the middle of using the connection. End that first; or "
                "use the connection in the bridge as well, by `await run(function)`"
            )

    def _await_old_holder(self) -> None:
        self._raw.acquire()
        self._fitted = False
        self._pass_on()

    def _waits_for_itself(self, waiter: _Waiter) -> bool:
        holder = self._holder
        if holder is waiter.who:
            return True
        stands = isinstance(waiter, _ThreadWaiter) and type(holder) is BridgeGreenlet
        return stands and holder.thread == waiter.thread  # type: ignore[union-attr]

    def _leave(self, waiter: _Waiter) -> None:
        with suppress(ValueError):
            self._waiters.remove(waiter)

    def _pass_on(self) -> None:
        """Give the lock, which is held, to the first who waits; release it where nobody does."""
        while True:
            while self._waiters:
                with suppress(IndexError):  # it has just left
                    if self._next(self._waiters.popleft()).take():
                        return
            self._holder = None
            self._raw.release()
            if not self._waiters or not self._raw.acquire(False):
                return

    def _next(self, first: _Waiter) -> _Waiter:
        """Return who is to have the lock: the first, unless it cannot be resumed meanwhile."""
        self._holder = first.who
        if isinstance(first, _CallWaiter):
            for waiter in list(self._waiters):
                if isinstance(waiter, _ThreadWaiter) and waiter.thread == first.thread:
                    # Plain code in that thread, which stands still until it is served.
                    self._leave(waiter)
                    self._waiters.appendleft(first)
                    self._holder = waiter.who
                    return waiter
        return first


class _Waiter:
    """One place in the queue. Who claims it has the word: the giver, or the one who gives up."""

    __slots__ = ("_claimed", "thread", "who")

    def __init__(self) -> None:
        self.who = getcurrent()
        self._claimed = _thread.allocate_lock()
        self.thread = get_ident()

    def claim(self) -> bool:
        """Return whether nobody has claimed it before."""
        return self._claimed.acquire(False)

    def take(self) -> bool:
        """Make it the holder; return False where it has gone. Called by who passes the lock on."""
        raise NotImplementedError

    def sleep(self) -> None:
        """Return when it holds the lock."""
        raise NotImplementedError


class _ThreadWaiter(_Waiter):
    __slots__ = ("_gate",)

    def __init__(self) -> None:
        super().__init__()
        self._gate = _thread.allocate_lock()
        self._gate.acquire()

    def take(self) -> bool:
        if not self.claim():
            return False
        self._gate.release()
        return True

    def sleep(self) -> None:
        self._gate.acquire()


class _CallWaiter(_Waiter):
    __slots__ = ("_future", "_loop")

    def __init__(self, call: BridgeGreenlet) -> None:
        super().__init__()
        self._loop = call.loop
        self._future = call.loop.create_future()

    def take(self) -> bool:
        # One that was cancelled has not run since, and claims its place as soon as it does.
        if self._future.cancelled() or self._loop.is_closed() or not self.claim():
            return False
        if self.thread == get_ident():
            _settle(self._future)
            return True
        try:
            self._loop.call_soon_threadsafe(_settle, self._future)
        except RuntimeError:  # it was closed in this moment: it never runs again
            self._claimed.release()
            return False
        return True

    def sleep(self) -> None:
        await_only(self._future)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
