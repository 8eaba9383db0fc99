"""The errors that know no driver: what they carry, also over a process border."""

from __future__ import annotations

import copy
import pickle

import pytest

from django_poolkit.pools import errors
from tests.pools.support import make_stats

pytestmark = pytest.mark.core

KINDS = [
    errors.PoolError, errors.PoolClosed, errors.PoolTimeout, errors.PoolPaused,
    errors.TooManyWaiters, errors.WrongLoop, errors.LeaseReleased, errors.PoolConfigError,
    errors.SessionStateLeft,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("through", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
def test_an_error_keeps_what_it_carries(kind, through):
    error = kind("the text", pool="orders", stats=make_stats(used=3))
    error.waited = 1.25
    other = through(error)
    assert type(other) is kind
    assert str(other) == "the text"
    assert other.pool == "orders"
    assert other.stats == error.stats
    assert other.waited == 1.25


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_can_be_made_with_nothing(kind):
    error = kind()
    assert (error.pool, error.stats, str(error)) == (None, None, "")


@pytest.mark.parametrize("kind", KINDS[1:])
def test_all_are_errors_of_a_pool(kind):
    assert issubclass(kind, errors.PoolError)


def test_a_timeout_is_pythons_own_too():
    assert issubclass(errors.PoolTimeout, TimeoutError)
    assert errors.PoolTimeout("late").waited == 0.0


def test_a_bad_option_is_a_value_error():
    assert issubclass(errors.PoolConfigError, ValueError)


def test_a_warning_is_the_users_to_filter():
    assert issubclass(errors.PoolWarning, UserWarning)
