"""Hears that the process is told to end, beside its server, and cuts what would hold that up.

A server tells its application last, when no request is left. Some wait for ever for a response
without an end, or kill the process under it, so that nothing is ever closed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Any, Final

from django_poolkit.lifespan import in_flight

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
# Seconds at least between two cuts: what is done in `finally` takes some time.
_AGAIN: Final = 1.0


class Notice:
    """Cuts the requests in flight so many seconds after the first signal, and again after as many.

    For the running loop.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._listens = False
        self._before: dict[int, Any] = {}

    def listen(self) -> None:
        """Hear signals from now on. The server's own handlers are called as ever."""
        if threading.current_thread() is not threading.main_thread():
            return  # where Python takes no handlers, and servers are told by other means
        self._listens = True  # all is there first: one may come with the handler
        for number in SIGNALS:
            if (before := signal.getsignal(number)) is None:
                continue  # of a program around Python, whose handler could not be called from here
            self._before[number] = before
            signal.signal(number, self._hear)
            # A loop's handlers are called by what the interpreter writes for each signal, so
            # that they need no place of their own; but system calls must not end early.
            signal.siginterrupt(number, False)

    def ignore(self) -> None:
        """Take back `listen()`. Where another handler has been set since, that one stays, and
        what it hands on goes on to the server's."""
        self._listens = False
        if self._timer is not None:
            self._timer.cancel()
        for number, before in list(self._before.items()):
            if signal.getsignal(number) == self._hear:
                signal.signal(number, before)
                signal.siginterrupt(number, False)
                del self._before[number]

    def _hear(self, number: int, frame: FrameType | None) -> None:
        # Between any two instructions of the main thread: what is to be done is left to the loop.
        if self._listens:
            with suppress(RuntimeError):  # the loop was closed under it
                self._loop.call_soon_threadsafe(self._begin)
        before = self._before.get(number)
        if callable(before):
            before(number, frame)
        elif before == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _begin(self) -> None:
        if self._timer is None and self._listens:
            self._timer = self._loop.call_later(self._seconds, self._cut)

    def _cut(self) -> None:
        in_flight.cut()
        self._timer = self._loop.call_later(max(self._seconds, _AGAIN), self._cut)
