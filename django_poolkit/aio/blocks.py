"""Blocks of async code that have a database wrapper to themselves: what they have in common.

A block that is the first one of its alias in a context has a wrapper of its own, as any call in
the bridge would, and ends it. One within another takes that one's turn for as long as it lasts,
and uses its wrapper. Either publishes a node, on which the calls within it take turns.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from inspect import CO_ASYNC_GENERATOR
from types import TracebackType
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.transaction import TransactionManagementError

from django_poolkit.aio.calls import Call
from django_poolkit.aio.needed import install
from django_poolkit.aio.serving import refuse, throw_away
from django_poolkit.aio.turns import Node, innermost, running_task
from django_poolkit.pools.bridge.driver import run
from django_poolkit.pools.bridge.lock import HybridLock
from django_poolkit.pools.bridge.shields import shielded
from django_poolkit.pools.postgres import port


class Block(ABC):
    """An asynchronous context manager in which all calls of an alias share a wrapper."""

    def __init__(self, using: str | None) -> None:
        install()
        self.using = using or DEFAULT_DB_ALIAS
        """The alias."""
        # One object may be entered by several tasks, and again by who is in it.
        self._entered: dict[Node, _Entry] = {}

    @abstractmethod
    def _begin(self, wrapper: Any) -> Any:
        """Begin, in the bridge; return what `_end()` is to have of it."""

    @abstractmethod
    def _end(self, begun: Any, wrapper: Any, exc: BaseException | None) -> None:
        """End, in the bridge, where a cancellation waits for it."""

    async def __aenter__(self) -> None:
        entry = _Entry()
        try:
            await run(self._open, entry)
        except asyncio.CancelledError as cancelled:
            if entry.wrapper is not None:  # it came as all had been done, and was told after that
                await run(self._close, entry, cancelled, False)
            raise
        node = Node(self.using, entry.wrapper, entry.call.shared.get(self.using))
        self._entered[node] = entry
        node.publish()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        node = innermost(self.using, self._entered)
        if node is None:  # left in another context than it was entered in
            node = next(reversed(self._entered))
        entry = self._entered.pop(node)
        if isinstance(exc, GeneratorExit) and not entry.may_wait(traceback):
            node.withdraw()
            entry.abandon(exc)
            return
        try:
            told = await self._last_turn(node, exc)
        except GeneratorExit as closed:
            node.withdraw()
            entry.abandon(closed)
            raise
        try:
            orphaned = node.parent is not None and not node.parent.live
            node.withdraw()
            if orphaned:
                entry.leave_ended()
            else:
                await run(self._close, entry, exc or told, told is not None)
        finally:
            if told is None:
                node.turns.give()  # to those who came too late, and have to look elsewhere
        if told is not None and told is not exc:
            raise told
        if orphaned and exc is None:
            raise TransactionManagementError(
                "the block around this one has ended before it, and what this one has done was "
                "rolled back: await tasks that have blocks of their own within the outer block"
            )

    async def _last_turn(self, node: Node, exc: BaseException | None) -> BaseException | None:
        """Wait for the calls within the block; return what it was told instead of waiting on.

        One that was cancelled before waits for those whom that concerns as well, and not for ever.
        """
        if node.turns.try_take():
            return None
        cancelled = isinstance(exc, asyncio.CancelledError)
        try:
            async with asyncio.timeout(port.ENDING if cancelled else None):
                await node.turns.take()
        except GeneratorExit:
            raise
        except BaseException as error:
            # Somebody goes on in the middle of a call, or of a block of his own: what that has
            # begun must not be committed, so it is the server that is told first.
            if (raw := node.wrapper._raw) is not None:
                raw.cut_off()
            return exc if isinstance(error, TimeoutError) else error
        return None

    def _open(self, entry: _Entry) -> None:
        entry.call.enter()
        try:
            wrapper: Any = connections[self.using]
            refuse(self.using, wrapper)
            begun = self._begin(wrapper)
        except BaseException:
            entry.call.end()
            raise
        wrapper.blocks += 1
        wrapper.first = wrapper.first or HybridLock()
        wrapper.inc_thread_sharing()  # for threads that are reached within the block
        entry.note(wrapper, begun)

    def _close(self, entry: _Entry, exc: BaseException | None, cut: bool) -> None:
        entry.call.enter()
        with shielded(port.ENDING):
            try:
                if cut:
                    entry.rewind()
                self._end(entry.begun, entry.wrapper, exc)
            finally:
                entry.leave()
                entry.call.end()


class _Entry:
    """One time that a block was entered."""

    __slots__ = ("begun", "call", "depths", "task", "wrapper")

    def __init__(self) -> None:
        self.call = Call()
        self.task = running_task()
        self.begun: Any = None
        self.wrapper: Any = None
        """None until it has begun."""
        self.depths = 0, 0

    def note(self, wrapper: Any, begun: Any) -> None:
        """Take note that it has begun."""
        self.wrapper, self.begun = wrapper, begun
        self.depths = len(wrapper.atomic_blocks), len(wrapper.savepoint_ids)

    def rewind(self) -> None:
        """Have Django see no blocks within this one: of tasks that go on, and have lost theirs."""
        blocks, savepoints = self.depths
        del self.wrapper.atomic_blocks[blocks:]
        del self.wrapper.savepoint_ids[savepoints:]

    def leave(self) -> None:
        """Count it out of what is on the wrapper. Never blocks."""
        self.wrapper.blocks -= 1
        if not self.wrapper.blocks:
            self.wrapper.first = None  # which an interrupt may have left held
        self.wrapper.dec_thread_sharing()

    def may_wait(self, traceback: TracebackType | None) -> bool:
        """Return whether a GeneratorExit is of a generator that its own task closes, and awaits.

        Else it is of a coroutine that is closed, or of a generator that was dropped: what its task
        has done since then may be within the block.
        """
        if self.task is None or running_task() is not self.task:
            return False
        while traceback is not None:
            if not traceback.tb_frame.f_code.co_flags & CO_ASYNC_GENERATOR:
                return False
            traceback = traceback.tb_next
        return True

    def leave_ended(self) -> None:
        """Leave where the block around it has ended before, and everything with that."""
        self.leave()
        self.call.abandon()

    def abandon(self, closed: GeneratorExit) -> None:
        """Give up all that it has where nobody can wait any more: its coroutine is closed."""
        self.leave()
        throw_away(self.wrapper)
        self.wrapper.rollback_exc = closed  # for a block around it, which is lost with that
        self.call.abandon()
