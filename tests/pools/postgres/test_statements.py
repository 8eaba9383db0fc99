"""What is noted of a statement as it begins: residue, whose it is, and whether it wrote."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from tests.pools.support import fill

pytestmark = pytest.mark.core


@pytest.fixture
def lease(make_pool):
    pool = make_pool(max_size=1, reset="request", kwargs={"autocommit": True})
    fill(pool, 1)
    lease = pool.acquire()
    yield lease
    if not lease.released:
        lease.release()


@pytest.fixture
def table(primary, app):
    name = app.replace("-", "_")
    primary.execute(f"CREATE TABLE {name} (a int)")
    yield name
    primary.execute(f"DROP TABLE {name}")


def test_a_lease_begins_with_nothing(lease):
    assert (lease.dirty, lease.foreign, lease.wrote, lease.committed) == (None, False, False, False)


def test_without_an_orm_every_statement_is_foreign(lease):
    lease.connection.execute("SELECT 1")
    assert lease.foreign
    assert lease.dirty is None


def test_whose_a_statement_is_is_asked_once_it_matters(lease):
    ask = Mock(side_effect=[False, True])
    lease.pool.statements.foreign = ask
    for _ in range(4):
        lease.connection.execute("SELECT 1")
    assert lease.foreign
    assert ask.call_count == 2


def test_whose_a_statement_is_matters_under_request_only(make_pool):
    pool = make_pool(max_size=1, reset="dirty")
    pool.statements.foreign = lambda: pytest.fail("asked")
    with pool.acquire() as connection:
        connection.execute("SELECT 1")


def test_residue_has_a_reason(lease):
    lease.connection.execute("SET work_mem TO '7MB'")
    assert lease.dirty == "set"


def test_a_function_of_the_project_may_be_harmless(make_pool, primary, app):
    name = app.replace("-", "_")
    primary.execute(f"CREATE FUNCTION {name}() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    for harmless, dirty in (([], True), ([name], False)):
        pool = make_pool(max_size=1, harmless_functions=harmless)
        lease = pool.acquire()
        lease.connection.execute(f"SELECT {name}()")
        assert (lease.dirty is not None) is dirty
        lease.release()
    primary.execute(f"DROP FUNCTION {name}()")


class TestWrites:
    @pytest.mark.parametrize(
        "query",
        [
            "SELECT 1", "  select 1", "(SELECT 1)", "SHOW work_mem", "VALUES (1)", "TABLE {table}",
            "WITH a AS (SELECT 1) SELECT * FROM a", "EXPLAIN SELECT 1", "BEGIN", "ROLLBACK",
            "SELECT 1;", "SELECT 1 ;\n", "SELECT 1 AS intonation", "SELECT 'a' AS analysed",
        ],
    )  # fmt: skip
    def test_a_read_writes_nothing(self, lease, table, query):
        lease.connection.execute(query.format(table=table))
        assert not lease.wrote
        assert not lease.committed

    @pytest.mark.parametrize(
        "query",
        [
            "INSERT INTO {table} VALUES (1)", "UPDATE {table} SET a = 2", "DELETE FROM {table}",
            "WITH a AS (INSERT INTO {table} VALUES (1) RETURNING a) SELECT * FROM a",
            "DO $$ BEGIN INSERT INTO {table} VALUES (1); END $$",
            "EXPLAIN ANALYZE INSERT INTO {table} VALUES (1)",
            "EXPLAIN (COSTS off, analyse) DELETE FROM {table}",
            "SELECT 1; INSERT INTO {table} VALUES (1)", "SELECT 1 AS a\nINTO TEMP made",
            "WITH a AS (SELECT 1) SELECT * INTO TEMP made FROM a",
        ],
    )  # fmt: skip
    def test_a_write_is_committed_at_once_in_autocommit(self, lease, table, query):
        lease.connection.execute(query.format(table=table))
        assert lease.committed

    def test_a_write_in_a_transaction_is_only_written(self, lease, table):
        with lease.connection.transaction():
            lease.connection.execute(f"INSERT INTO {table} VALUES (1)")
            assert lease.wrote
            assert not lease.committed

    def test_a_write_after_residue_is_noted_still(self, lease, table):
        lease.connection.execute("SET work_mem TO '7MB'")
        lease.connection.execute(f"INSERT INTO {table} VALUES (1)")
        assert lease.committed
