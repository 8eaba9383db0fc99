"""What those above the backend are told of a pool's statements and commits, by its ports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, cast

from django_poolkit.backends import ports
from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.postgres.commit import Asked, Commit


def of_write(lease: Lease) -> None:
    """Tell of a statement that may write."""
    _tell(ports.refuse_write, lease)
    _tell(ports.note_write, lease)


def of_lock(lease: Lease) -> None:
    """Tell of a statement that takes an advisory lock."""
    _tell(ports.refuse_write, lease)
    _tell(ports.note_lock, lease)


def of_act(lease: Lease) -> None:
    """Tell of a statement that does more than read by a function that PostgreSQL ships."""
    _tell(ports.refuse_write, lease)


def of_lone_write(lease: Lease) -> None:
    """Tell of a statement that may write, and whose commit nobody is told of."""
    _tell(ports.note_lone_write, lease)


class Commits:
    """Asks and tells those above of the commits of one pool."""

    def __init__(self) -> None:
        self.knows_writes: bool | None = None

    def ask(self, lease: Lease) -> Asked:
        """Return what is to be known of a commit: of several aliases, the most."""
        if (ask := ports.ask_commit) is None:
            return "nothing"
        asked = {ask(alias) for alias in _aliases(lease)}
        return next((each for each in _BY_PRICE if each in asked), "nothing")

    def tell(self, lease: Lease, commit: Commit) -> None:
        """Tell what has been committed."""
        if (note := ports.note_commit) is not None:
            for alias in _aliases(lease):
                note(alias, commit)


_BY_PRICE: Final[tuple[Asked, ...]] = ("position", "writes")


def _tell(note: Callable[[str], None] | None, lease: Lease) -> None:
    if note is not None:
        for alias in _aliases(lease):
            note(alias)


def _aliases(lease: Lease) -> tuple[str, ...]:
    # One of a bare pool knows no alias: it is of all that the pool serves.
    pool = cast(ConnectionPool, lease.pool)
    return pool.aliases if lease.alias is None else (lease.alias,)
