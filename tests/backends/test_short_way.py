"""The short way through connect() and close(): it comes to what Django's own comes to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from copy import deepcopy
from typing import Any
from unittest import mock

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connection as default_connection
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql import base
from django.db.backends.signals import connection_created

from django_poolkit.backends.postgresql.base import DatabaseWrapper, PooledDatabaseWrapperMixin
from django_poolkit.pools.postgres import ConnectionPool

pytestmark = [pytest.mark.core, pytest.mark.django_db(transaction=True)]


class Between(base.DatabaseWrapper):
    """A wrapper class of another package that has no step of its own, until it is given one."""


class Pooled(PooledDatabaseWrapperMixin, Between):
    """Theirs, with leases."""


class InFront(DatabaseWrapper):
    """A project's own, derived from ours."""

    closed = 0

    def close(self) -> None:
        self.closed += 1
        super().close()


@pytest.fixture
def made(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A wrapper of its own, of our class or of the one that the test asks for; connected once."""
    default: Any = default_connection
    default.close()
    kind = getattr(request, "param", DatabaseWrapper)
    wrapper = kind(deepcopy(default.settings_dict), "short")
    wrapper.ensure_connection()
    wrapper.close()
    yield wrapper
    wrapper.close()
    wrapper.close_pool()


def long(wrapper: Any) -> int:
    """Connect and close; return how often Django's own code has asked the pool."""
    getconn = ConnectionPool.getconn
    with mock.patch.object(ConnectionPool, "getconn", autospec=True, side_effect=getconn) as asked:
        wrapper.ensure_connection()
        assert wrapper.pool.stats().used == 1
        wrapper.close()
    assert wrapper.connection is None
    assert wrapper.pool.stats().used == 0
    return asked.call_count


def state(wrapper: Any) -> dict[str, Any]:
    """Return all that a wrapper knows of itself, but for what differs each time."""
    each_time = {"_lease", "_seen", "close_at", "_thread_ident"}
    return {name: value for name, value in vars(wrapper).items() if name not in each_time}


def by_django(wrapper: Any) -> None:
    """Connect by Django's own code."""
    with mock.patch.object(type(wrapper), "_made_in", None):
        wrapper.ensure_connection()


def test_both_ways_leave_the_wrapper_in_the_same_state(made: Any) -> None:
    states = []
    for connect in (made.ensure_connection, lambda: by_django(made)):
        made.closed_in_transaction = made.errors_occurred = made.needs_rollback = True
        made.savepoint_ids, made.run_on_commit, made.autocommit = ["s"], ["hook"], False
        connect()
        states.append(state(made))
        made.close()
    assert states[0] == states[1]
    assert states[0]["_raw"] is not None


def test_both_ways_close_alike(made: Any) -> None:
    states = []
    for made_out in (DatabaseWrapper._made_out, None):
        made.ensure_connection()
        made.run_on_commit = ["hook"]
        with mock.patch.object(DatabaseWrapper, "_made_out", made_out):
            made.close()
        states.append(state(made))
        assert made.pool.stats().used == 0
    assert states[0] == states[1]
    assert states[0]["_raw"] is None


def test_a_plain_wrapper_takes_the_short_way(made: Any) -> None:
    assert long(made) == 0


def test_who_listens_hears_of_each_connection(made: Any) -> None:
    heard: list[Any] = []

    def hear(connection: Any, **_: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        heard.append(connection)

    connection_created.connect(hear)
    try:
        assert long(made) == 0
        assert long(made) == 0
    finally:
        connection_created.disconnect(hear)
    assert heard == [made, made]


@pytest.mark.parametrize("made", [Pooled], indirect=True)
def test_a_class_in_between_sees_each_step(made: Any) -> None:
    assert long(made) == 1
    with mock.patch.object(Between, "close", autospec=True, side_effect=Between.close) as close:
        assert long(made) == 1
    assert close.call_count == 1


@pytest.mark.parametrize("made", [InFront], indirect=True)
def test_a_class_in_front_sees_each_close(made: Any) -> None:
    assert long(made) == 0
    assert made.closed == 2  # the first is the fixture's


@pytest.mark.parametrize("step", ["connect", "_set_autocommit", "init_connection_state"])
def test_a_step_of_djangos_that_was_replaced_is_taken(made: Any, step: str) -> None:
    owner = base.DatabaseWrapper if step in vars(base.DatabaseWrapper) else BaseDatabaseWrapper
    replaced = mock.patch.object(owner, step, autospec=True, side_effect=getattr(owner, step))
    with replaced as taken:
        assert long(made) == 1
    assert taken.call_count == 1
    assert long(made) == 0


@pytest.mark.parametrize("step", ["get_new_connection", "set_autocommit", "_close"])
def test_a_step_that_was_put_on_the_wrapper_is_taken(made: Any, step: str) -> None:
    with mock.patch.object(made, step, side_effect=getattr(made, step)) as taken:
        long(made)
    assert taken.call_count == 1
    assert long(made) == 0


def test_the_long_way_is_taken_for_an_isolation_level_of_ones_own(made: Any) -> None:
    made.settings_dict["OPTIONS"]["isolation_level"] = 3
    made.ensure_connection()
    assert made.isolation_level == made.connection.isolation_level == 3


def test_a_pool_that_was_closed_meanwhile_is_replaced(made: Any) -> None:
    first = made.pool
    acquire = ConnectionPool.acquire

    def closing(pool: ConnectionPool, *args: Any, **options: Any) -> Any:
        if pool is first:
            made.close_pool()
        return acquire(pool, *args, **options)

    with mock.patch.object(ConnectionPool, "acquire", closing):
        made.ensure_connection()
    assert made.pool is not first
    assert made.pool.stats().used == 1


def test_an_acquire_in_vain_leaves_nothing_behind(made: Any) -> None:
    for _ in range(2):
        with (
            mock.patch.object(ConnectionPool, "acquire", side_effect=LookupError),
            pytest.raises(LookupError),
        ):
            made.ensure_connection()
        assert made.connection is made._known is made._lease is None
    # So it is looked anew which pool the settings ask for.
    made.settings_dict["OPTIONS"] = {**made.settings_dict["OPTIONS"], "application_name": "anew"}
    with made.cursor() as cursor:
        cursor.execute("SHOW application_name")
        assert cursor.fetchone() == ("anew",)


def test_on_an_event_loop_it_is_refused_as_ever(made: Any) -> None:
    made.ensure_connection()

    async def close() -> None:
        made.close()

    with pytest.raises(SynchronousOnlyOperation):
        asyncio.run(close())
    assert made.pool.stats().used == 1
