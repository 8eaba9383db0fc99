"""`apinned`: one connection for a block of async code."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from django_poolkit.aio.blocks import Block


class apinned(Block):  # noqa: N801 - used as a verb, as `aatomic` is
    """Hold one connection for the length of an `async with` block, from its first statement on.

    For what lives in a session: advisory locks, temporary tables, SET. All calls within the block
    use it, child tasks one after the other, and threads that it reaches. At its end the connection
    is reset and given back. Raises RuntimeError where the alias has no pool of django_poolkit.
    """

    def __init__(self, using: str | None = None) -> None:
        super().__init__(using)

    def _begin(self, wrapper: Any) -> AbstractContextManager[None]:
        pinned: AbstractContextManager[None] = wrapper.pinned()
        pinned.__enter__()
        return pinned

    def _end(
        self, begun: AbstractContextManager[None], wrapper: Any, exc: BaseException | None
    ) -> None:
        begun.__exit__(None, None, None)
