"""`idempotent()`: the caller's word that what it writes may be made again."""

from __future__ import annotations

from contextvars import ContextVar
from types import TracebackType

from django_poolkit.backends import ports
from django_poolkit.routing.blocks import Block, leave
from django_poolkit.routing.topology import role_of

_entries: ContextVar[tuple[_Entry, ...]] = ContextVar("django_poolkit_idempotent", default=())


class _Entry:
    __slots__ = ("owner",)

    def __init__(self, owner: Idempotent) -> None:
        self.owner: object = owner


class Idempotent(Block[None]):
    """A block whose writes may be made again."""

    def __enter__(self) -> None:
        ports.repeats = _repeats  # until somebody wants it, no statement asks
        _entries.set((*_entries.get(), _Entry(self)))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _entries.set(leave(self, _entries.get()))


def idempotent() -> Idempotent:
    """Have a write be made once more that meets a replica, within a `with` block or a function.

    That is where a primary has just been demoted, and its name leads elsewhere by now. Only what is
    in autocommit, outside of `atomic()`, and once; all else is raised as it is. Coroutine functions
    can be decorated, too. Never blocks.
    """
    return Idempotent()


def _repeats(alias: str) -> bool:
    return bool(_entries.get()) and role_of(alias) == "primary"
