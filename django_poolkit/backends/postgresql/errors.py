"""The pool's errors as Django code meets them: Django's, psycopg_pool's and ours at once."""

from __future__ import annotations

from typing import cast

from django.db import utils

from django_poolkit.pools.errors import PoolError
from django_poolkit.pools.postgres import errors


class PoolClosed(errors.PoolClosed, utils.OperationalError):
    """The pool is closed."""


class PoolTimeout(errors.PoolTimeout, utils.OperationalError):
    """No connection became free within the timeout."""


class PoolPaused(errors.PoolPaused, utils.OperationalError):
    """The pool stayed paused for as long as the caller was ready to wait."""


class TooManyWaiters(errors.TooManyWaiters, utils.OperationalError):
    """The queue of the pool already holds `max_waiting` waiters."""


_BY_KIND = (PoolTimeout, PoolPaused, TooManyWaiters, PoolClosed)
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
