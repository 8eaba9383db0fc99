"""The driver: runs a synchronous function in a greenlet of the running task, and awaits for it.

Where the function has to wait it hands an awaitable to `await_only()`. That switches to the
driver, a coroutine, which awaits it as any coroutine would, and switches back with the result. So
the function is suspended, and neither the thread nor the event loop is.

A greenlet that is suspended belongs to its thread: no other one can resume it, or end it. What it
refers to is invisible to the garbage collector.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from _thread import get_ident
from asyncio import current_task, get_running_loop
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic
from types import FrameType
from typing import Any, Final, ParamSpec, Protocol, TypeAlias, TypeVar
from weakref import ref

from django_poolkit.pools.bridge.greenlets import GreenletExit, getcurrent, greenlet
from django_poolkit.pools.lease import inside_of
from django_poolkit.pools.postgres.steadfast import endure

logger = logging.getLogger("django_poolkit.bridge")

Resume: TypeAlias = Callable[..., Any]
_P = ParamSpec("_P")
_T = TypeVar("_T")

# So many calls of a thread rest at most; each keeps the memory of its frames, 16 KiB or more.
_MOST_RESTING: Final = 32
# So often a function is told to end whose task has been thrown away, before it is left alone.
_FAREWELLS: Final = 100


class BridgeGreenlet(greenlet):
    """One call of a synchronous function in a task. Used in the thread of its loop only.

    When that has ended it rests, and is the next call of its thread: Python maps memory for the
    frames of each new one, and unmaps it at its end, which costs ten times what a switch does.
    """

    wrappers: dict[str, Any] | None = None
    """What the call has of its own, by names; for whoever is above the pools."""
    shield = 0
    """How many blocks it is in that a cancellation waits for."""
    thrown_away = False
    """Whether its task is gone, so that nobody awaits anything for it any more."""
    farewells = 0
    """How often it has been told so."""
    suspended: float
    """When it last let others run, as far as connections know, on the monotonic clock."""
    cancelled: asyncio.CancelledError | None = None
    """What it is to be told as soon as its shields are down."""
    cancelled_at = 0.0
    """When that came, on the monotonic clock."""
    patience: float | None = None
    """For how many seconds it waits for the innermost shield, None for as long as that takes."""
    loop: Any = None
    """On which it runs, None while it rests."""
    thread: int
    """Identifies the thread of that loop."""
    task: ref[asyncio.Task[Any]] | None
    """In which it runs, None where a coroutine is driven by other means."""
    over = False
    """Whether its function has ended."""
    value: Any = None
    """What that has returned."""
    failed: BaseException | None = None
    """What it has raised instead."""

    def defer(self, cancelled: asyncio.CancelledError) -> None:
        """Take note of a cancellation, to be told later."""
        if self.cancelled is None:
            self.cancelled_at = monotonic()
        self.cancelled = cancelled

    def left(self) -> float | None:
        """Return for how many seconds a cancellation waits on, None where for any time."""
        if self.patience is None or not _to_be_told(self):
            return None
        return max(0.0, self.cancelled_at + self.patience - monotonic())

    def give_up(self) -> None:
        """Take note that it waits no more, and that what is awaited is cancelled."""
        self.cancelled = None
        logger.warning("event=shield_given_up seconds=%.1f", monotonic() - self.cancelled_at)

    def begin(self, here: greenlet) -> None:
        """Be a call in the running task, started by the greenlet that runs."""
        self.parent, self.gr_context = here, here.gr_context
        self.loop = loop = get_running_loop()
        task = current_task(loop)
        self.task = None if task is None else ref(task)
        self.suspended = monotonic()
        self.over = False

    def rest(self) -> None:
        """Wait for the next call of the thread, if its function has left nothing behind."""
        idle = _resting.calls
        if self.dead or self.shield or self.thrown_away or len(idle) >= _MOST_RESTING:
            return
        self.wrappers = self.task = self.cancelled = self.gr_context = self.loop = None
        idle.append(self)


class _Resting(threading.local):
    """The calls of a thread that have ended. Those of a thread that ends, end with it."""

    def __init__(self) -> None:
        self.calls: list[BridgeGreenlet] = []


_resting: Final = _Resting()


def _work(function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    """Be one call after the other. What rests refers to nothing of the call before.

    Nor to its greenlet: of what its own frame refers to, no garbage collector would know.
    """
    failed: BaseException | None
    while True:
        try:
            value, failed = function(*args, **kwargs), None
        except BaseException as error:
            if _here().thrown_away or isinstance(error, GreenletExit):
                _here().over = True
                raise
            # Without this frame, which is going to be that of another call.
            error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
            value, failed = None, error
        here = _here()
        here.value, here.failed, here.over = value, failed, True
        if here.thrown_away:
            return
        del here, function, args, kwargs, value, failed
        function, args, kwargs = _here().parent.switch()  # type: ignore[union-attr]


_here: Callable[[], BridgeGreenlet] = getcurrent  # type: ignore[assignment]


class Watching(Protocol):
    """What times the calls, as `slices.py` does."""

    def timed(self, call: BridgeGreenlet, function: Callable[..., Any]) -> tuple[Resume, Resume]:
        """Return what resumes a call with a value, and with an error."""
        ...

    def after_fork(self) -> None: ...
    def end(self) -> None: ...


watch: Watching | None = None
"""What times the calls that begin from here on, None where nobody wants to know."""


def current() -> BridgeGreenlet | None:
    """Return the call in the bridge that runs here, None outside of the bridge."""
    here = getcurrent()
    return here if type(here) is BridgeGreenlet else None


def bridging() -> bool:
    """Return whether this code runs in the bridge, where `await_only()` is allowed."""
    return type(getcurrent()) is BridgeGreenlet


def await_only(awaitable: Awaitable[_T]) -> _T:
    """Await in the bridge, from synchronous code, and return the result. Suspends the task.

    Raises RuntimeError outside of the bridge.
    """
    if type(getcurrent()) is not BridgeGreenlet:  # held by no variable: see `port.getcurrent`
        _drop(awaitable)
        raise RuntimeError(
            "await_only() works in synchronous code that the bridge runs: call that by "
            "`await run(function)`, or use `await` itself"
        )
    here: BridgeGreenlet = getcurrent()  # type: ignore[assignment]
    if here.thrown_away:
        _drop(awaitable)
        here.farewells += 1
        if here.farewells <= _FAREWELLS:
            raise GeneratorExit
    assert here.parent is not None
    return here.parent.switch(awaitable)  # type: ignore[no-any-return]


async def run(function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Run a synchronous function in the bridge, and return its result.

    It shares the context variables of the task, and may call `await_only()`. Cancelling the task
    raises CancelledError where it waits. Within the bridge it is simply called.
    """
    if type(getcurrent()) is BridgeGreenlet:  # held by no variable: see `port.getcurrent`
        return function(*args, **kwargs)
    if idle := _resting.calls:
        call = idle.pop()
    else:
        call = BridgeGreenlet(_work)
        call.thread = get_ident()
    call.begin(getcurrent())
    switch, throw = call.switch, call.throw
    if watch is not None:
        switch, throw = watch.timed(call, function)
    wanted = switch(function, args, kwargs)
    while not call.over:
        try:
            if call.shield or call.cancelled is not None:
                value = await _await_guarded(call, wanted)
            else:
                value = await wanted
        except GeneratorExit:
            _throw_away(call)
            raise
        except BaseException as error:
            call.parent = getcurrent()
            wanted = throw(type(error), error, error.__traceback__)
        else:
            call.parent = getcurrent()
            wanted = switch(value)
    return _result(call)  # type: ignore[no-any-return]


def _result(call: BridgeGreenlet) -> Any:
    """Return what a call has returned, or raise what it has, and have it rest."""
    value, failed = call.value, call.failed
    told = None if call.cancelled is None or not _to_be_told(call) else _told(call)
    call.value = call.failed = None
    call.rest()
    if told is None and failed is None:
        return value
    try:
        if told is not None and isinstance(failed, Exception | None):
            raise told from failed
        assert failed is not None
        raise failed
    finally:
        del failed, told  # which refer to this frame by now


async def _await_guarded(call: BridgeGreenlet, wanted: Awaitable[_T]) -> _T:
    """Await for a call that is shielded, or has been before a cancellation came."""
    if call.shield:
        return await endure(_coroutine(wanted), call.defer, call.left, call.give_up)
    if _to_be_told(call):
        _drop(wanted)
        raise _told(call)
    call.cancelled = None
    return await wanted


async def _coroutine(wanted: Awaitable[_T]) -> _T:
    return await wanted


def _to_be_told(call: BridgeGreenlet) -> bool:
    """Return whether a cancellation is to be told that nobody has taken back meanwhile."""
    if call.cancelled is None:
        return False
    task = None if call.task is None else call.task()
    return task is None or task.cancelling() > 0


def _told(call: BridgeGreenlet) -> asyncio.CancelledError:
    cancelled, call.cancelled = call.cancelled, None
    assert cancelled is not None
    return cancelled


def _throw_away(call: BridgeGreenlet) -> None:
    """End a call of which the coroutine is closed: nobody may await anything any more.

    A garbage collector may come here in any thread, and only that of its loop can end it.
    """
    call.thrown_away = True
    if call.thread == get_ident():
        _end(call)
        return
    with suppress(RuntimeError):  # the loop was closed: the pool takes back what it has
        call.loop.call_soon_threadsafe(_end, call)


def _end(call: BridgeGreenlet) -> None:
    try:
        call.parent = getcurrent()
    except RuntimeError:  # the interpreter is ending
        return
    with suppress(GeneratorExit):
        call.throw(GeneratorExit)
    if not call.dead:
        logger.warning("event=not_ended farewells=%d", call.farewells)


def _drop(wanted: Awaitable[Any]) -> None:
    """Have nobody wait for an awaitable that is not going to be awaited."""
    if asyncio.iscoroutine(wanted):
        wanted.close()
    elif isinstance(wanted, asyncio.Future):
        wanted.cancel()


def _inside(frame: FrameType) -> FrameType | None:
    call = frame.f_locals.get("call")
    return call.gr_frame if isinstance(call, BridgeGreenlet) else None


inside_of[run.__code__] = _inside
