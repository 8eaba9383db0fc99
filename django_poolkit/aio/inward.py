"""Async code that synchronous code calls by `async_to_sync()`: it has the caller's transactions.

Such are async receivers of `post_save`. In the bridge the caller's task awaits them itself, where
asgiref would refuse; elsewhere asgiref does as it ever did, and only the transactions are lent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

from django.db import connections

from django_poolkit.aio.calls import Call, call_of_bridge
from django_poolkit.aio.turns import Node, node_of
from django_poolkit.backends.postgresql.awaiting import lost_by_cancellation
from django_poolkit.backends.postgresql.base import PooledDatabaseWrapperMixin
from django_poolkit.pools.bridge.driver import await_only, bridging
from django_poolkit.pools.bridge.shields import shielded
from django_poolkit.pools.postgres import port


def inward(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return an `AsyncToSync.__call__` that works in the bridge, and lends transactions."""

    @wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not bridging():
            with _lent(_of_thread()):
                return original(self, *args, **kwargs)
        within = call_of_bridge()
        with _lent([] if within is None else _of_call(within)):
            # Itself, and in no task of its own: context variables are the caller's, both ways.
            return await_only(self.awaitable(*args, **kwargs))

    return call


def _of_call(call: Call) -> list[Node]:
    """Return a node below for what a call holds: who awaits something does not use it himself."""
    return [
        Node(alias, wrapper, call.shared.get(alias))
        for alias, wrapper in call.items()
        if alias in call.shared or wrapper.in_atomic_block or wrapper._lease is not None
    ]


def _of_thread() -> list[Node]:
    """Return the same for the transactions that this thread has open."""
    nodes = []
    for alias in connections:
        wrapper = getattr(connections._connections, alias, None)  # type: ignore[attr-defined]
        if isinstance(wrapper, PooledDatabaseWrapperMixin) and wrapper.in_atomic_block:
            around = node_of(alias)
            shared = around is not None and around.wrapper is wrapper
            nodes.append(Node(alias, wrapper, around if shared else None))
    return nodes


@contextmanager
def _lent(nodes: list[Node]) -> Iterator[None]:
    before = [node.wrapper._cancelled_by() for node in nodes]
    for node in nodes:
        node.wrapper._join_net()  # not that of a thread which begins and ends with what is called
        node.wrapper.inc_thread_sharing()
        node.publish()
    try:
        yield
    finally:
        with ExitStack() as ends:  # all of them, also where waiting for one fails
            for node in nodes:
                ends.callback(node.wrapper.dec_thread_sharing)
                ends.callback(node.wrapper._use_here)
                # A task that goes on may be in the middle of a call.
                ends.callback(_wait_for, node)
                ends.callback(node.withdraw)
    # Django's block would roll back without a word.
    for node, known in zip(nodes, before, strict=True):
        if (cancelled := node.wrapper._cancelled_by()) not in (None, known):
            raise lost_by_cancellation() from cancelled


def _wait_for(node: Node) -> None:
    """Wait until nobody uses a wrapper any more by way of a node that has been withdrawn."""
    if node.turns.try_take():
        return
    if bridging():
        try:
            with shielded(port.ENDING):
                await_only(node.turns.take())
        except BaseException:
            if (raw := node.wrapper._raw) is not None:
                raw.cut_off()  # what that call does must not be taken for the caller's
            raise
    else:
        node.turns.take_in_thread()
