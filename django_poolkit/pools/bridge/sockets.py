"""The sockets that calls in the bridge wait for, as their loop looks at them.

A reader that comes and goes with each wait costs a loop two dozen functions. So where the kernel
has epoll, a loop has one reader of ours that stays: an epoll, in which a socket is armed for the
one event that somebody waits for. What comes while nobody waits wakes nobody, as what a server says
unasked, or its answer to a thread that has the connection meanwhile. And what is closed the kernel
forgets by itself, whoever closes it in whatever thread: a loop would have to be told before that,
else it never looks at the next socket of that number.
"""

from __future__ import annotations

import asyncio
import select
import threading
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary, ref

from psycopg.waiting import Ready, Wait

from django_poolkit.pools.forks import in_child


def _no_epoll() -> Any:
    raise OSError("this system has no epoll")


_READ: Final = int(Wait.R)
_WRITE: Final = int(Wait.W)
_IS_READABLE: Final = int(Ready.R)
_IS_WRITABLE: Final = int(Ready.W)
_epoll: Final[Callable[[], Any]] = getattr(select, "epoll", _no_epoll)
# Of poll() and epoll alike, and the same on each system. What is neither is an error, or the end.
_IN: Final = 0x1
_OUT: Final = 0x4
_ONCE: Final = 1 << 30  # EPOLLONESHOT
_EVENTS: Final = {_READ: _IN | _ONCE, _WRITE: _OUT | _ONCE, _READ | _WRITE: _IN | _OUT | _ONCE}


class Readiness(asyncio.Future[int]):
    """For what a socket is ready, as a future that resumes its task in the turn it is woken.

    One of asyncio's has the loop do so in its next turn, and to look at all sockets in between.
    """

    wanted: int
    """For what its task waits."""
    _resume: Callable[[Any], object] | None = None
    _context: Context | None

    def wake(self, ready: int) -> None:
        """Resume who waits. Called by the loop, and so in no task."""
        if self.done():
            return
        self.set_result(ready)
        if (resume := self._resume) is not None:
            self._resume = None
            if self._context is None:
                resume(self)
            else:
                self._context.run(resume, self)

    def cancel(self, msg: Any = None) -> bool:
        """Cancel it, as asyncio does: who cancels is a task, so that the loop resumes."""
        if not super().cancel(msg):
            return False
        if (resume := self._resume) is not None:
            self._resume = None
            self.get_loop().call_soon(resume, self, context=self._context)
        return True

    def add_done_callback(
        self, fn: Callable[[Any], object], /, *, context: Context | None = None
    ) -> None:
        """Have a function called when it is woken; of several the first is called at once."""
        if self._resume is None and not self.done():
            self._resume, self._context = fn, context
        else:
            super().add_done_callback(fn, context=context)

    def remove_done_callback(self, fn: Callable[[Any], object], /) -> int:
        """Have a function not called; return how often it would have been."""
        removed = super().remove_done_callback(fn)
        if self._resume == fn:
            self._resume = None
            removed += 1
        return removed


class Sockets(Protocol):
    """Those of one loop, on which alone they are used."""

    def arm(self, fileno: int, waits: Readiness) -> None:
        """Have somebody woken as soon as a socket is ready. Raises OSError for a closed one."""
        ...

    def disarm(self, fileno: int, waits: Readiness) -> None:
        """Have nobody woken any more."""
        ...


class InEpoll:
    """Sockets in an epoll. It is kept by the reader of its loop alone, and so ends with that."""

    __slots__ = ("__weakref__", "_epoll", "_waiting", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = ref(loop)
        self._waiting: dict[int, Readiness] = {}
        self._epoll = _epoll()
        # In no context: that of whoever comes first would be kept for as long as the loop is.
        Context().run(loop.add_reader, self._epoll.fileno(), self._look)

    def arm(self, fileno: int, waits: Readiness) -> None:
        self._waiting[fileno] = waits
        events = _EVENTS[waits.wanted]
        try:
            self._epoll.modify(fileno, events)
        except FileNotFoundError:  # a new one, or another one of that number
            self._epoll.register(fileno, events)

    def disarm(self, fileno: int, waits: Readiness) -> None:
        # It may be armed still: the kernel tells of it once more at most.
        if self._waiting.get(fileno) is waits:
            del self._waiting[fileno]

    def _look(self) -> None:
        """Wake those whose sockets are ready."""
        waiting = self._waiting
        found = self._epoll.poll(0, len(waiting) or 1)
        for number, (fileno, events) in enumerate(found, 1):
            if (waits := waiting.pop(fileno, None)) is not None:
                try:
                    # What is there to be read has nearly always been waited for, and nothing else.
                    waits.wake(_IS_READABLE if events == _IN else ready(events) & waits.wanted)
                except BaseException:  # an interrupt, which ends a task, and its loop as well
                    self._arm_again(found[number:])
                    raise

    def _arm_again(self, found: list[tuple[int, int]]) -> None:
        for fileno, _ in found:
            if (waits := self._waiting.get(fileno)) is not None:
                self.arm(fileno, waits)


class ByReaders:
    """Sockets of which a loop is told for each wait, where there is no epoll to be had."""

    __slots__ = ("_loop",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def arm(self, fileno: int, waits: Readiness) -> None:
        if waits.wanted & _READ:
            self._loop.add_reader(fileno, waits.wake, _IS_READABLE)
        if waits.wanted & _WRITE:
            self._loop.add_writer(fileno, waits.wake, _IS_WRITABLE)

    def disarm(self, fileno: int, waits: Readiness) -> None:
        if not self._loop.is_closed():  # else nobody looks at the socket any more
            if waits.wanted & _READ:
                self._loop.remove_reader(fileno)
            if waits.wanted & _WRITE:
                self._loop.remove_writer(fileno)


class _Here(threading.local):
    """The loops that have run in a thread, and calls on them."""

    def __init__(self) -> None:
        self.known: WeakKeyDictionary[asyncio.AbstractEventLoop, ref[InEpoll]]
        self.known, self.last = WeakKeyDictionary(), _nobody


def _nobody() -> InEpoll | None:
    return None


_here: Final = _Here()


def sockets_of(loop: asyncio.AbstractEventLoop) -> Sockets:
    """Return those of the running loop."""
    last = _here.last()
    if last is not None and last.loop() is loop:
        return last
    known = _here.known.get(loop)
    if known is None or (sockets := known()) is None:
        try:
            sockets = InEpoll(loop)
        except OSError:  # there is no epoll, or no descriptor left for one
            return ByReaders(loop)
        known = _here.known[loop] = ref(sockets)
    _here.last = known
    return sockets


def ready(events: int) -> int:
    """Return what the events of a socket are to psycopg."""
    return (events & ~_OUT and _IS_READABLE) | (events & ~_IN and _IS_WRITABLE)


# What a child inherits is its parent's: to change it there would be to change it here.
in_child(_here.__init__)  # type: ignore[misc]
