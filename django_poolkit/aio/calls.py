"""What a call in the bridge has: database wrappers of its own, and turns on those it shares."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any, ParamSpec, TypeVar

from django_poolkit.aio import carrying, making
from django_poolkit.aio.serving import end, prepare, throw_away
from django_poolkit.aio.turns import Node, node_of
from django_poolkit.backends.own import of_context
from django_poolkit.pools.bridge.driver import BridgeGreenlet, await_only, current, run
from django_poolkit.pools.bridge.greenlets import getcurrent
from django_poolkit.pools.bridge.shields import shielded
from django_poolkit.pools.postgres import port

P = ParamSpec("P")
T = TypeVar("T")


class Call(dict[str, Any]):
    """The database wrappers that a call has, by alias.

    Its own ones end with the call. Of the shared ones it has the turn until then.
    """

    __slots__ = ("paused", "shared")

    def __init__(self) -> None:
        self.shared: dict[str, Node] = {}
        """The node of each wrapper that is not its own."""
        self.paused: dict[str, Node] = {}
        """Those whose turn it has passed on, to take it again."""

    def run(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]:
        """Run a synchronous function in the bridge, and end what it has used."""
        return run(self._run, function, args, kwargs, self.end)

    def run_part(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]:
        """Run a part of what is one piece of work: what is its own it keeps for the next part."""
        return run(self._run, function, args, kwargs, self.pause)

    def _run(
        self,
        function: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        after: Callable[[], None],
    ) -> T:
        getcurrent().wrappers = self  # type: ignore[attr-defined]
        try:
            if self.paused:
                self._resume()
            return function(*args, **kwargs)
        finally:
            after()

    def enter(self) -> None:
        """Have the present greenlet use what this has."""
        here = current()
        assert here is not None
        here.wrappers = self

    def find(self, alias: str) -> Any:
        """Return the wrapper of an alias, None where one has to be made. Waits for its turn."""
        wrapper = self.get(alias)
        if wrapper is not None and (not self.shared or self._may_use(alias)):
            return wrapper
        while True:
            near = of_context(alias)
            node = node_of(alias) or (carrying.node_of(alias, near) if near else None)
            if node is None:
                break
            if self._take(node):
                return node.wrapper
        if (wrapper := making.again(alias)) is not None:
            self[alias] = wrapper
            if near:
                carrying.adopt(wrapper, near)
        return wrapper

    def own(self, alias: str, wrapper: Any) -> None:
        """Have a wrapper that has just been made for this call."""
        prepare(alias, wrapper)
        self[alias] = wrapper
        if near := of_context(alias):
            carrying.adopt(wrapper, near)

    def drop(self, alias: str) -> None:
        """Forget the wrapper of an alias, and pass on its turn. Raises AttributeError."""
        if alias not in self:
            raise AttributeError(alias)
        if alias in self.shared:
            self._give(alias)
        del self[alias]

    def end(self) -> None:
        """End what is its own, and pass on its turns. Cancellations wait."""
        if not self:
            return
        if len(self) == 1 and not self.shared:  # as nearly always
            alias, wrapper = self.popitem()
            kept = getattr(wrapper, "_kept", None)
            if kept is None or not kept.end(alias):
                with shielded(port.ENDING):
                    end(alias, wrapper)
            return
        with shielded(port.ENDING), ExitStack() as ends:
            ends.callback(self.clear)
            for alias in list(self.shared):
                ends.callback(self._give, alias)
            for alias, wrapper in self.items():
                if alias not in self.shared:
                    ends.callback(end, alias, wrapper)

    def abandon(self) -> None:
        """Do so where nobody can wait any more: its connections are closed. Never blocks."""
        for alias in list(self.shared):
            self._give(alias)
            del self[alias]
        for wrapper in self.values():
            throw_away(wrapper)
        self.clear()

    def pause(self) -> None:
        """Pass on its turns, to take them again. Never blocks."""
        for alias, node in list(self.shared.items()):
            self._give(alias)
            del self[alias]
            self.paused[alias] = node

    def _resume(self) -> None:
        """Take the turns again that it had before it paused."""
        for alias, node in list(self.paused.items()):
            # Its task may be in a block within that node's by now, and so have the turn.
            nearer = node_of(alias)
            self._take(nearer if nearer is not None and nearer.wrapper is node.wrapper else node)
            del self.paused[alias]

    def _may_use(self, alias: str) -> bool:
        """Return whether a wrapper is its own, or one of a block that has not ended."""
        if alias not in self.shared or self.shared[alias].live:
            return True
        self._give(alias)
        del self[alias]
        return False

    def _take(self, node: Node) -> bool:
        """Take a turn; return whether its block has not ended meanwhile."""
        if not node.turns.try_take():
            await_only(node.turns.take())
        if not node.live:
            node.turns.give()
            return False
        node.wrapper.inc_thread_sharing()  # it may have been made by another thread
        self.shared[node.alias] = node
        self[node.alias] = node.wrapper
        return True

    def _give(self, alias: str) -> None:
        _leave(self.shared.pop(alias))


def _leave(node: Node) -> None:
    node.wrapper.dec_thread_sharing()
    carrying.returned(node)
    node.turns.give()


def call_of_bridge() -> Call | None:
    """Return what the call has that runs here, None outside of the bridge."""
    here = getcurrent()
    return here.wrappers if type(here) is BridgeGreenlet else None  # type: ignore[return-value]
