"""The pool's errors as Django code meets them: Django's, psycopg_pool's and ours at once."""

from __future__ import annotations

from asyncio import CancelledError
from types import TracebackType
from typing import Any, cast

from django.db import utils
from psycopg.errors import ReadOnlySqlTransaction

from django_poolkit.backends import ports
from django_poolkit.pools.errors import PoolError
from django_poolkit.pools.postgres import errors


class PoolClosed(errors.PoolClosed, utils.OperationalError):
    """The pool is closed."""


class PoolTimeout(errors.PoolTimeout, utils.OperationalError):
    """No connection became free within the timeout."""


class PoolDeadlock(errors.PoolDeadlock, PoolTimeout):
    """All connections are held by threads that wait for a further one of the same pool."""


class DeadlineExceeded(errors.DeadlineExceeded, utils.OperationalError):
    """A statement was still running as its deadline passed, or was to begin after that."""


class PoolPaused(errors.PoolPaused, utils.OperationalError):
    """The pool stayed paused for as long as the caller was ready to wait."""


class TooManyWaiters(errors.TooManyWaiters, utils.OperationalError):
    """The queue of the pool already holds `max_waiting` waiters."""


class LeaseReleased(errors.LeaseReleased, utils.InterfaceError):
    """A cursor was used after its connection had been given back."""


_BY_KIND = (
    PoolDeadlock, PoolTimeout, PoolPaused, TooManyWaiters, PoolClosed, LeaseReleased,
    DeadlineExceeded,
)  # fmt: skip
EXHAUSTED = (errors.PoolTimeout, errors.PoolPaused, errors.TooManyWaiters)


def as_django_error(error: PoolError) -> PoolError:
    """Return the error as one that `except django.db.OperationalError` catches, too."""
    for kind in _BY_KIND:
        if isinstance(error, kind):
            return error
        if isinstance(error, kind.__mro__[1]):
            twin = cast(PoolError, kind(str(error)))
            twin.__dict__.update(error.__dict__)
            return twin
    return error


class ErrorWrapper(utils.DatabaseErrorWrapper):
    """Django's translator of the driver's errors, which keeps the pool's own kinds."""

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is None:
            return  # as Django's does: every statement passes here three times
        if isinstance(exc_value, PoolError):
            translated = as_django_error(exc_value)
            if translated is not exc_value:
                raise translated.with_traceback(traceback) from exc_value
            return
        if isinstance(exc_value, CancelledError):
            cast(Any, self).wrapper._note_cancelled(exc_value)
            return
        if ports.note_failure is not None and isinstance(exc_value, Exception):
            ports.note_failure(cast(Any, self).wrapper, exc_value)
        if isinstance(exc_value, ReadOnlySqlTransaction):
            cast(Any, self).wrapper._note_refused_write()
        super().__exit__(exc_type, exc_value, traceback)
