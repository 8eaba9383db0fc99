"""Turns: who may use a database wrapper that several tasks share, one after the other.

A block such as `aatomic()` has a wrapper that all calls in the bridge within it share. Turns form
a tree: who has the turn of a node, and starts more on its own, publishes a node below. So siblings
wait for each other, and nobody waits for himself.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Container, Mapping
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any, Final
from weakref import WeakKeyDictionary


class TurnDeadlock(RuntimeError):
    """A task waits for a turn that another one has, which waits for a turn of the first one."""


class Turns:
    """The turns of one node: taken in the order they were asked for, by tasks of any loop."""

    __slots__ = ("_holder", "_queue", "_taken")

    def __init__(self) -> None:
        # All of it is guarded by `_gate`.
        self._taken = False
        self._holder: asyncio.Task[Any] | None = None
        self._queue: deque[_Waiter] = deque()

    def try_take(self) -> bool:
        """Take the turn if nobody has it, or waits for it. Never blocks."""
        with _gate:
            if self._taken:
                return False
            self._taken, self._holder = True, running_task()
            return True

    async def take(self) -> None:
        """Take the turn as soon as it is free. Raises TurnDeadlock."""
        task = running_task()
        if (waiter := self._queued(task, asyncio.get_running_loop())) is None:
            return
        try:
            await asyncio.wrap_future(waiter.future)
        except BaseException:
            if not waiter.future.cancel():  # whoever passed the turn on was faster
                self.give()
            raise
        finally:
            if task is not None:
                _waits.pop(task, None)

    def take_in_thread(self) -> None:
        """Take the turn as soon as it is free. Blocks the thread."""
        if (waiter := self._queued(None, None)) is not None:
            waiter.future.result()

    def _queued(
        self, task: asyncio.Task[Any] | None, loop: asyncio.AbstractEventLoop | None
    ) -> _Waiter | None:
        """Queue for the turn; return None where nobody has it, and it has been taken."""
        with _gate:
            if not self._taken:
                self._taken, self._holder = True, task
                return None
            if task is not None:
                self._refuse_circle(task)
                _waits[task] = self
            waiter = _Waiter(loop, task)
            self._queue.append(waiter)
            return waiter

    def give(self) -> None:
        """Pass the turn on to the next who waits. Never blocks."""
        while True:
            with _gate:
                if not self._queue:
                    self._taken, self._holder = False, None
                    return
                waiter = self._queue.popleft()
                self._holder = waiter.task
            # One whose loop was closed never comes back.
            closed = waiter.loop is not None and waiter.loop.is_closed()
            if not closed and waiter.future.set_running_or_notify_cancel():
                waiter.future.set_result(None)
                return

    def _refuse_circle(self, task: asyncio.Task[Any]) -> None:
        turns: Turns | None = self
        for _ in range(len(_waits) + 1):
            holder = None if turns is None else turns._holder
            if holder is None:
                return
            if holder is task:
                raise TurnDeadlock(
                    f"{task.get_name()} would wait for itself: tasks of one transaction use the "
                    "same aliases in opposite order. Have them use these in the same order, or "
                    "await one task before the next begins"
                )
            turns = _waits.get(holder)


class _Waiter:
    """A task, or a thread, that waits for a turn."""

    __slots__ = ("future", "loop", "task")

    def __init__(
        self, loop: asyncio.AbstractEventLoop | None, task: asyncio.Task[Any] | None
    ) -> None:
        self.loop = loop
        self.task = task
        self.future: Future[None] = Future()


_gate = threading.Lock()
# For which turn a task waits. Guarded by `_gate` where it is written together with a queue.
_waits: WeakKeyDictionary[asyncio.Task[Any], Turns] = WeakKeyDictionary()


def running_task() -> asyncio.Task[Any] | None:
    """Return the task that runs here, None where there is none."""
    try:
        return asyncio.current_task()
    except RuntimeError:  # a thread that has no loop
        return None


class Node:
    """A wrapper that a context shares, for as long as the block that published it lasts."""

    __slots__ = ("__weakref__", "_before", "_over", "alias", "parent", "turns", "wrapper")

    def __init__(self, alias: str, wrapper: Any, parent: Node | None = None) -> None:
        self.alias = alias
        self.wrapper = wrapper
        self.parent = parent
        """The node of which the publisher has the turn; None where it has the wrapper alone."""
        self.turns = Turns()
        self._over = False
        self._before: Node | None = None

    @property
    def live(self) -> bool:
        """Whether its block, and each block around that one, has not ended."""
        node: Node | None = self
        while node is not None:
            if node._over:
                return False
            node = node.parent
        return True

    def publish(self) -> None:
        """Have this context, and tasks that are started in it, use the wrapper."""
        nodes = _here.get()
        self._before = _going_on(nodes.get(self.alias))
        _here.set({**nodes, self.alias: self})

    def withdraw(self) -> None:
        """End what `publish()` began. Tasks that go on have what was there before."""
        self._over = True
        nodes = dict(_here.get())
        # A finalizer may run in another context than the one it was published in.
        if nodes.get(self.alias) is self:
            del nodes[self.alias]
            if (before := _going_on(self._before)) is not None:
                nodes[self.alias] = before
            _here.set(nodes)


def _going_on(node: Node | None) -> Node | None:
    """Return the node, or the nearest before it, that has not been withdrawn.

    One that has been, by a finalizer in another context, is not to be kept by all that follow.
    """
    while node is not None and node._over:
        node = node._before
    return node


_NONE: Final[Mapping[str, Node]] = {}
_here: Final[ContextVar[Mapping[str, Node]]] = ContextVar("django_poolkit_nodes", default=_NONE)


def node_of(alias: str) -> Node | None:
    """Return the innermost node of this context for an alias whose block has not ended."""
    node = _here.get().get(alias)
    while node is not None and not node.live:
        node = node._before
    return node


def innermost(alias: str, among: Container[Node]) -> Node | None:
    """Return which of some nodes was published last in this context for an alias.

    Not simply the last of all: that may be of a generator that is suspended within its block.
    """
    node = _here.get().get(alias)
    while node is not None and node not in among:
        node = node._before
    return node
