"""What a pool raises when it cannot give a connection.

None of these names loads a driver. The pools raise subclasses that also derive from their
driver's own errors, so that code written for the driver goes on catching them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django_poolkit.pools.stats import PoolStats


class PoolError(Exception):
    """Base of all errors of a pool.

    Keeps its attributes through pickling, so that it survives a process border.
    """

    pool: str | None
    """Name of the pool, None where no pool is concerned."""
    stats: PoolStats | None
    """The pool at the moment of the error, None where it was not looked at."""

    def __init__(
        self, message: str = "", *, pool: str | None = None, stats: PoolStats | None = None
    ) -> None:
        super().__init__(message)
        self.pool = pool
        self.stats = stats

    def __reduce__(self) -> tuple[Any, ...]:
        # The inherited form calls the class with `args` alone: keyword-only attributes would
        # be lost, and psycopg's errors bring a __reduce__ of their own that drops ours.
        return _rebuild, (type(self), str(self), dict(self.__dict__))


def _rebuild(kind: type[PoolError], message: str, state: dict[str, Any]) -> PoolError:
    error = kind(message)
    error.__dict__.update(state)
    return error


class PoolClosed(PoolError):
    """The pool is closed, or was never opened."""


class PoolTimeout(PoolError, TimeoutError):
    """No connection became free within the timeout."""

    waited: float = 0.0
    """Seconds this caller waited."""
    deadline: float | None = None
    """Seconds of the deadline that left no more time, None where it was the pool's timeout."""
    share: str | None = None
    """The share of the pool that was used up, None where the pool was."""


class DeadlineExceeded(PoolError, TimeoutError):
    """A statement was still running as its deadline passed, or was to begin after that.

    It has been cancelled, and its connection is clean, or closed.
    """

    deadline: float = 0.0
    """Seconds of the deadline, from its beginning."""
    waited_for: str = ""
    """What ran, or was to begin: of a statement its first word."""


class PoolDeadlock(PoolTimeout):
    """All connections are held by threads that wait for a further one of the same pool."""


class PoolPaused(PoolError):
    """The pool stayed paused for as long as the caller was ready to wait."""


class TooManyWaiters(PoolError):
    """The queue of the pool already holds `max_waiting` waiters."""


class WrongLoop(PoolError):
    """The pool belongs to another event loop."""


class LeaseReleased(PoolError):
    """A cursor or connection was used after its lease had been given back."""


class SessionStateLeft(PoolError):
    """A lease left session state behind that the text of none of its statements shows.

    Raised by the release, where `verify_state` is on. The connection has been reset by then.
    """

    left: tuple[str, ...] = ()
    """Kind and name of each thing that was left, never a value."""


class CredentialsError(PoolError):
    """A function that supplies credentials gave none. The text holds nothing that it returned."""


class PoolConfigError(PoolError, ValueError):
    """An option of a pool has a value that cannot be honoured."""


class PoolWarning(UserWarning):
    """Something was repaired that should not have had to be: a lost lease, a dropped option."""
