"""Slow slices: what calls in the bridge do between two waits, for too long.

Meanwhile the loop stands still, and all its other tasks with it. A thread looks in on the calls
that run, so that the stack which is told is that of where the time goes. A slice that lets no
thread run, as one long call of C code may, is told with the stack of its end.
"""

from __future__ import annotations

import inspect
import logging
import sys
import threading
from _thread import get_ident
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final
from weakref import WeakSet

from django_poolkit.pools.bridge import driver
from django_poolkit.pools.bridge.driver import BridgeGreenlet
from django_poolkit.pools.forks import in_child
from django_poolkit.pools.lease import Stack, format_stack, stack_from

logger = logging.getLogger("django_poolkit.bridge")

# The watcher looks so many times within the threshold.
_LOOKS: Final = 2
# So deep a stack is told of: to the function that was given to the bridge, through all that the
# ORM and its receivers have in between.
_DEPTH: Final = 400
# After so many looks at which nothing has run meanwhile it sleeps until something does.
_QUIET_LOOKS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowSlice:
    """What a call did for too long without a wait."""

    seconds: float
    """For how long the loop stood still."""
    task: str | None
    """Name of the task."""
    stack: tuple[str, ...]
    """Where it was, innermost first."""


Tell = Callable[[SlowSlice], None]


class _Slice:
    """What runs on one thread at the moment. Written there, but for `stack`, and read by all."""

    __slots__ = ("__weakref__", "count", "since", "stack", "thread")

    def __init__(self) -> None:
        self.thread = get_ident()
        self.since = 0.0  # 0.0 while nothing runs
        self.count = 0
        self.stack: tuple[float, Stack] | None = None  # when the slice began, and where it was


class Watch:
    """Times the slices of all calls, and tells of those above a threshold."""

    def __init__(self, threshold: float, tell: Tell) -> None:
        self.threshold = threshold
        self._tell = tell
        self._lock = threading.Lock()  # guards _slices and _thread
        self._slices: WeakSet[_Slice] = WeakSet()
        self._here = threading.local()
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._sleeps = True  # written by the watcher, and by whoever wakes it
        self.over = False
        """Whether the watcher is to end."""

    def timed(
        self, call: BridgeGreenlet, function: Callable[..., Any]
    ) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Return what resumes a call, with a value or an error, and takes the time."""
        here = self._slice()

        def timed(resume: Callable[..., Any]) -> Callable[..., Any]:
            def resumed(*args: Any, **kwargs: Any) -> Any:
                here.count += 1
                if self._sleeps:
                    self._start()
                here.since = monotonic()
                try:
                    return resume(*args, **kwargs)
                finally:
                    since, here.since = here.since, 0.0
                    if (seconds := monotonic() - since) > self.threshold:
                        self._say(call, function, seconds, here.stack, since)

            return resumed

        return timed(call.switch), timed(call.throw)

    def _slice(self) -> _Slice:
        found: _Slice | None = getattr(self._here, "slice", None)
        if found is None:
            found = self._here.slice = _Slice()
            with self._lock:
                self._slices.add(found)
        return found

    def _say(
        self,
        call: BridgeGreenlet,
        function: Callable[..., Any],
        seconds: float,
        seen: tuple[float, Stack] | None,
        since: float,
    ) -> None:
        if seen is not None and seen[0] == since:
            stack = format_stack(seen[1])
        else:  # no thread could look meanwhile
            stack = format_stack(stack_from(call.gr_frame, _DEPTH)) or (_place_of(function),)
        task = None if call.task is None else call.task()
        name = None if task is None else task.get_name()
        try:
            self._tell(SlowSlice(seconds=seconds, task=name, stack=stack))
        except Exception as error:  # whom it is told is not the caller's affair
            logger.warning("event=slice_not_told error=%s", type(error).__name__, exc_info=True)

    # -- the watcher

    def _start(self) -> None:
        """Wake the watcher, or make one: in a forked child there is none."""
        with self._lock:
            self._sleeps = False
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._look, name="poolkit-slow-slices", daemon=True
                )
                try:
                    self._thread.start()
                except RuntimeError:  # the system gives no thread: stacks are those of the end
                    self._thread = None
        self._wake.set()

    def _look(self) -> None:
        before, quiet = -1, 0
        while not self.over:
            with self._lock:
                slices = list(self._slices)
            for each in slices:
                self._look_at(each)
            count = sum(each.count for each in slices)
            busy = count != before or any(each.since for each in slices)
            before, quiet = count, 0 if busy else quiet + 1
            if quiet > _QUIET_LOOKS:
                self._wake.clear()
                self._sleeps = True
                # Whoever begins counts first, and then looks whether the watcher sleeps.
                if count == sum(each.count for each in slices) and len(slices) == self._known():
                    self._wake.wait()
                self._sleeps, quiet = False, 0
            threading.Event().wait(self.threshold / _LOOKS)

    def _known(self) -> int:
        with self._lock:
            return len(self._slices)

    def _look_at(self, each: _Slice) -> None:
        since = each.since
        if not since or monotonic() - since <= self.threshold:
            return
        if each.stack is not None and each.stack[0] == since:
            return
        stack = stack_from(sys._current_frames().get(each.thread), _DEPTH)
        if each.since == since:  # else it is that of what came after
            each.stack = since, stack

    def end(self) -> None:
        """Have the watcher end."""
        self.over = True
        self._wake.set()

    def after_fork(self) -> None:
        """Begin anew in a child, where one thread runs."""
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._thread, self._sleeps = None, True
        self._slices, self._here = WeakSet(), threading.local()


def _place_of(function: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return f"? {getattr(function, '__qualname__', type(function).__qualname__)}"
    return f"{code.co_filename}:{code.co_firstlineno} {code.co_qualname}"


def watch(threshold: float, tell: Tell) -> None:
    """Have `tell` called with each slice of more than `threshold` seconds, from here on.

    It is called by the thread of the loop, right after the slice, and must not block. Of several
    watches the last one holds.
    """
    unwatch()
    driver.watch = Watch(threshold, tell)


def unwatch() -> None:
    """Have nobody told any more. Calls that run are timed until they end."""
    if (before := driver.watch) is not None:
        driver.watch = None
        before.end()


def _after_fork() -> None:
    if driver.watch is not None:
        driver.watch.after_fork()


in_child(_after_fork)
