"""Shields: blocks of synchronous code in the bridge that a cancellation waits for."""

from __future__ import annotations

from django_poolkit.pools.bridge.driver import BridgeGreenlet
from django_poolkit.pools.bridge.greenlets import getcurrent


class shielded:  # noqa: N801 - used as a verb, like contextlib's own
    """Have cancellations of the task wait for the end of a block; outside of the bridge, nothing.

    They are told at the next wait after the block, or at the end of the call. What is awaited in
    the block may not cancel the task itself, as `asyncio.timeout()` does: bound it by other means.
    With `seconds` they wait no longer than that, and are told where the block waits then. Of
    blocks in each other it is the innermost one that says for how long.
    """

    __slots__ = ("_before", "_seconds", "_shields")

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        here = getcurrent()
        self._shields = here if type(here) is BridgeGreenlet else None
        if self._shields is not None:
            self._before = self._shields.patience
            self._shields.patience = self._seconds
            self._shields.shield += 1

    def __exit__(self, *exc_info: object) -> None:
        if self._shields is not None:
            self._shields.shield -= 1
            self._shields.patience = self._before
