"""Cursors belong to their lease: after it they refuse, whatever is asked of them."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import sql

from django_poolkit.pools.postgres.cursor import text_of
from django_poolkit.pools.postgres.errors import LeaseReleased
from django_poolkit.pools.postgres.leased_cursor import leased
from tests.pools.support import fill

pytestmark = pytest.mark.core

USES = {
    "execute": lambda cursor: cursor.execute("SELECT 1"),
    "executemany": lambda cursor: cursor.executemany("SELECT %s", [(1,), (2,)]),
    "fetchone": lambda cursor: cursor.fetchone(),
    "fetchmany": lambda cursor: cursor.fetchmany(2),
    "fetchall": lambda cursor: cursor.fetchall(),
    "iteration": list,
    "next": next,
    "scroll": lambda cursor: cursor.scroll(1),
    "stream": lambda cursor: next(cursor.stream("SELECT 1")),
    "copy": lambda cursor: cursor.copy("COPY (SELECT 1) TO STDOUT").__enter__(),
}
NAMED_USES = {
    key: USES[key]
    for key in ("execute", "fetchone", "fetchmany", "fetchall", "iteration", "scroll")
}
QUERY = "SELECT generate_series(1, 5)"


@pytest.fixture
def pool(far_pool):
    return far_pool(max_size=1)


def left_behind(pool, *name, **kwargs):
    """Return a cursor whose lease has ended, and whose connection is another's by now."""
    lease = pool.acquire()
    cursor = lease.connection.cursor(*name, **kwargs)
    cursor.execute(QUERY)
    assert cursor.fetchone() == (1,)
    lease.connection.commit()
    lease.release()
    return cursor


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("by_another", [False, True])
def test_after_release_it_refuses_and_sends_nothing(pool, proxy, use, by_another):
    cursor = left_behind(pool)
    owner = pool.acquire() if by_another else None
    before = proxy.client_bytes
    with pytest.raises(LeaseReleased):
        USES[use](cursor)
    assert proxy.client_bytes == before
    cursor.close()
    assert proxy.client_bytes == before
    if owner is not None:
        assert owner.connection.execute("SELECT 42").fetchone() == (42,)
        owner.release()


@pytest.mark.parametrize("use", NAMED_USES)
@pytest.mark.parametrize("withhold", [False, True])
def test_a_named_one_too(pool, proxy, use, withhold):
    cursor = left_behind(pool, "c", withhold=withhold)
    owner = pool.acquire()
    before = proxy.client_bytes
    with pytest.raises(LeaseReleased):
        NAMED_USES[use](cursor)
    cursor.close()
    assert proxy.client_bytes == before
    owner.release()


def test_closing_does_not_close_the_cursor_of_the_next(pool):
    old = left_behind(pool, "c")
    with pool.acquire() as connection:
        new = connection.cursor("c")
        new.execute(QUERY)
        old.close()
        assert new.fetchall() == [(n,) for n in range(1, 6)]
        new.close()


def test_it_stays_refused_when_its_connection_is_leased_again(pool):
    cursor = left_behind(pool)
    with pool.acquire() as connection:
        assert connection.info.backend_pid == cursor.connection.info.backend_pid
        with pytest.raises(LeaseReleased):
            cursor.execute("SELECT 1")


def test_in_the_middle_of_an_iteration(pool):
    lease = pool.acquire()
    rows = iter(lease.connection.execute(QUERY))
    assert next(rows) == (1,)
    lease.release()
    with pytest.raises(LeaseReleased):
        next(rows)


def test_in_the_middle_of_a_copy(pool):
    lease = pool.acquire()
    with (
        pytest.raises(psycopg.Error),
        lease.connection.cursor().copy("COPY (SELECT generate_series(1, 99999)) TO STDOUT") as copy,
    ):
        copy.read()
        lease.release()
        for _ in range(100_000):
            copy.read()
    assert pool.stats().closed == {"active": 1}


def test_a_discarded_lease_refuses_too(pool):
    lease = pool.acquire()
    cursor = lease.connection.execute(QUERY)
    lease.discard()
    with pytest.raises(LeaseReleased):
        cursor.fetchone()


def test_it_can_be_caught_as_the_drivers_error(pool):
    cursor = left_behind(pool)
    with pytest.raises(psycopg.InterfaceError):
        cursor.fetchone()


class Mine(psycopg.Cursor[Any]):
    def greet(self):
        return "hello"


class TestFactories:
    def test_one_of_the_pool_is_bound(self, make_pool):
        pool = make_pool(max_size=1, kwargs={"cursor_factory": Mine})
        cursor = left_behind(pool)
        assert cursor.greet() == "hello"
        assert type(cursor).__name__ == "Mine"
        with pytest.raises(LeaseReleased):
            cursor.fetchone()

    def test_one_set_later_is_bound(self, make_pool):
        """As instrumentation does, on a connection that lives already."""
        pool = make_pool(max_size=1)
        lease = pool.acquire()
        lease.connection.cursor_factory = Mine
        cursor = lease.connection.cursor()
        cursor.execute("LISTEN news")
        lease.connection.commit()
        assert lease.dirty
        lease.release()
        assert cursor.greet() == "hello"
        with pytest.raises(LeaseReleased):
            cursor.execute("SELECT 1")

    def test_one_made_by_hand_is_bound(self, make_pool):
        pool = make_pool(max_size=1)
        lease = pool.acquire()
        cursor = lease.connection.cursor_factory(lease.connection)
        cursor.execute("SELECT 1")
        lease.release()
        with pytest.raises(LeaseReleased):
            cursor.fetchone()

    def test_a_client_side_cursor_is_bound(self, make_pool):
        pool = make_pool(max_size=1, kwargs={"cursor_factory": psycopg.ClientCursor})
        with pytest.raises(LeaseReleased):
            left_behind(pool).fetchone()

    def test_a_class_is_mixed_once(self):
        assert leased(Mine) is leased(Mine)
        assert leased(leased(Mine)) is leased(Mine)
        assert issubclass(leased(Mine), Mine)

    def test_its_ancestry_does_not_grow_with_the_leases(self, make_pool):
        pool = make_pool(max_size=1, kwargs={"cursor_factory": Mine})
        depths = set()
        for _ in range(5):
            with pool.acquire() as connection:
                depths.add(len(type(connection.cursor()).__mro__))
        assert len(depths) == 1


class TestText:
    @pytest.mark.parametrize(
        "query",
        ["SELECT 1", b"SELECT 1", sql.SQL("SELECT 1"), sql.SQL("SELECT {}").format(sql.Literal(1))],
    )
    def test_of_whatever_psycopg_takes(self, make_pool, query):
        pool = make_pool(max_size=1)
        with pool.acquire() as connection:
            assert text_of(query, connection) == "SELECT 1"

    def test_of_what_has_none(self, make_pool):
        pool = make_pool(max_size=1)
        with pool.acquire() as connection:
            query: Any = object()
            assert text_of(query, connection) is None


@pytest.mark.parametrize(
    "run",
    [
        lambda c: c.execute("LISTEN news"),
        lambda c: c.cursor().execute(b"LISTEN news"),
        lambda c: c.cursor().execute(sql.SQL("LISTEN {}").format(sql.Identifier("news"))),
        lambda c: c.cursor().executemany("SELECT set_config('a.b', %s, false)", [("1",), ("2",)]),
        lambda c: list(c.cursor().stream("SELECT set_config('a.b', '1', false)")),
        lambda c: c.cursor("c").execute("SELECT set_config('a.b', '1', false)"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning")
def test_every_way_to_run_a_statement_is_seen(make_pool, run):
    pool = make_pool(max_size=1)
    lease = pool.acquire()
    assert not lease.dirty
    run(lease.connection)
    assert lease.dirty is not None
    lease.release()


def test_a_copy_is_seen(make_pool):
    pool = make_pool(max_size=1, reset="request")
    lease = pool.acquire()
    with lease.connection.cursor().copy(
        "COPY (SELECT set_config('a.b', '1', false)) TO STDOUT"
    ) as copy:
        list(copy)
    assert lease.foreign
    assert lease.dirty is not None
    lease.release()


def test_callbacks_may_use_cursors(make_pool):
    def run(connection):
        connection.execute("SELECT 1")
        connection.rollback()

    pool = make_pool(max_size=1, configure=run, check=run, reset=run)
    fill(pool, 1)
    pool.acquire().release()
    assert pool.stats().closed == {}
