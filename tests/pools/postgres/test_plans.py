"""Prepared statements: what drops them, what makes them invalid, and who notices."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg import _cursor_base
from psycopg._preparing import PrepareManager

from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.postgres.errors import StalePlan
from django_poolkit.testing import Node
from tests.pools.support import unique

# The bodies that were read, of psycopg 3.3.9. Another one is to be read again.
READ = {
    PrepareManager.get: "92bd487924222918",
    PrepareManager.maybe_add_to_cache: "cc8322856abea77a",
    PrepareManager.validate: "76c655be05eda228",
    PrepareManager.clear: "280d908190b94b52",
    PrepareManager._should_discard: "a7e528828b827d8e",
    PrepareManager.maintain_gen: "d5192fdb4082ceb5",
    psycopg.Connection._rollback_gen: "64b119095ea9b755",
    psycopg.Transaction._rollback_gen: "c487fa411e4d081e",
    _cursor_base.BaseCursor._execute_gen: "d4128fe2e2207fb5",
    _cursor_base.BaseCursor._maybe_prepare_gen: "86dc8e74d068ef76",
}
Make = Callable[..., ConnectionPool]


@pytest.mark.core
@pytest.mark.parametrize("function", READ, ids=lambda function: function.__qualname__)
def test_what_is_built_on_reads_as_it_did(function: Any) -> None:
    digest = hashlib.sha256(inspect.getsource(function).encode()).hexdigest()
    assert digest[:16] == READ[function]


@pytest.fixture
def table(primary: Node) -> Iterator[str]:
    """A table with one row."""
    name = unique("plans").replace("-", "_")
    primary.execute(f"CREATE TABLE {name} AS SELECT 1 AS number")
    yield name
    primary.execute(f"DROP TABLE IF EXISTS {name}")


def preparing(make_pool: Make, **kwargs: Any) -> ConnectionPool:
    return make_pool(
        prepare=True, max_size=3, kwargs={"autocommit": True, "prepare_threshold": 1, **kwargs}
    )


def prepared(connection: Any) -> list[str]:
    """Return what the server has prepared for a connection, by the texts."""
    result = connection.execute(
        "SELECT statement FROM pg_prepared_statements ORDER BY name", prepare=False
    )
    return [text for (text,) in result]


def ask(connection: Any, table: str) -> list[Any]:
    """Read all columns, often enough that it is prepared."""
    text = f"SELECT * FROM {table} WHERE number > %s"
    rows = []
    for _ in range(3):
        rows = connection.execute(text, [0]).fetchall()
    return rows


def texts(table: str) -> list[str]:
    return [f"SELECT * FROM {table} WHERE number > $1"]


def widen(primary: Node, table: str, name: str = "more") -> None:
    primary.execute(f"ALTER TABLE {table} ADD {name} int")


class TestRollback:
    def test_it_drops_nothing_that_was_there_before(self, make_pool: Make, table: str) -> None:
        with preparing(make_pool, autocommit=False).lease() as connection:
            ask(connection, table)
            connection.commit()
            before = dict(connection._prepared._names)
            for _ in range(3):
                ask(connection, table)
                connection.rollback()
            assert connection._prepared._names == before
            assert prepared(connection) == texts(table)

    def test_it_sends_nothing_but_itself(self, far_pool: Make, proxy: Any, table: str) -> None:
        pool = far_pool(prepare=True, kwargs={"prepare_threshold": 1})
        with pool.lease() as connection:
            ask(connection, table)
            connection.commit()
            connection.execute(f"SELECT * FROM {table} WHERE number > %s", [0])
            before = proxy.round_trips
            connection.rollback()
            assert proxy.round_trips - before == 1

    @pytest.mark.parametrize("how", ["rollback", "transaction", "savepoint"])
    def test_it_drops_what_was_prepared_in_it(self, make_pool: Make, table: str, how: str) -> None:
        """What it was prepared for may have been made in it."""
        with preparing(make_pool, autocommit=how == "transaction").lease() as connection:
            text = "SELECT %s::of_this_transaction"

            def use() -> None:
                connection.execute("CREATE TYPE of_this_transaction AS ENUM ('a')")
                for _ in range(3):
                    assert connection.execute(text, ["a"]).fetchone() == ("a",)

            for _ in range(3):
                if how == "transaction":
                    with connection.transaction(force_rollback=True):
                        use()
                elif how == "rollback":
                    use()
                    connection.rollback()
                else:
                    connection.execute("SAVEPOINT s")
                    use()
                    connection.execute("ROLLBACK TO SAVEPOINT s")
            assert "SELECT $1::of_this_transaction" not in prepared(connection)
            connection.rollback()

    def test_what_was_committed_stays(self, make_pool: Make, table: str) -> None:
        with preparing(make_pool, autocommit=False).lease() as connection:
            ask(connection, table)
            connection.commit()
            connection.execute("SELECT 1")
            connection.rollback()
            assert texts(table)[0] in prepared(connection)
            connection.rollback()

    def test_that_of_a_release_drops_what_was_prepared_in_it_too(self, make_pool: Make) -> None:
        pool = preparing(make_pool, autocommit=False)
        lease = pool.acquire()
        lease.connection.execute("CREATE TYPE of_this_lease AS ENUM ('a')")
        for _ in range(3):
            lease.connection.execute("SELECT %s::of_this_lease", ["a"])
        lease.release()
        with pool.lease() as connection:
            assert connection._prepared._names == {}
            connection.execute("SELECT 1")
            assert prepared(connection) == []

    def test_a_transaction_without_end_is_not_remembered_without_end(self, make_pool: Make) -> None:
        pool = make_pool(prepare=True, prepared_max=2, kwargs={"prepare_threshold": 0})
        with pool.lease() as connection:
            for number in range(30):
                connection.execute(f"SELECT {number}")
            plans: Any = connection._prepared
            assert len(plans._young) <= 5

    def test_it_is_prepared_again_at_once(self, make_pool: Make, table: str) -> None:
        with preparing(make_pool, autocommit=False).lease() as connection:
            ask(connection, table)
            connection.rollback()
            text = f"SELECT * FROM {table} WHERE number > %s"
            connection.execute(text, [0])
            assert prepared(connection) == texts(table)


class TestMigration:
    def test_nobody_notices_it_in_autocommit(
        self, make_pool: Make, primary: Node, table: str
    ) -> None:
        pool = preparing(make_pool)
        with pool.lease() as connection:
            assert ask(connection, table) == [(1,)]
            assert prepared(connection) == texts(table)
            widen(primary, table)
            assert ask(connection, table) == [(1, None)]
            assert prepared(connection) == texts(table)
        assert pool.plans.healed == 1

    def test_nobody_notices_it_at_the_begin_of_a_transaction(
        self, make_pool: Make, primary: Node, table: str
    ) -> None:
        pool = preparing(make_pool, autocommit=False)
        with pool.lease() as connection:
            connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
            ask(connection, table)
            connection.commit()
            widen(primary, table)
            assert ask(connection, table) == [(1, None)]
            assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
            shown = connection.execute("SHOW transaction_isolation").fetchone()
            assert shown == ("serializable",)
        assert pool.plans.healed == 1

    @pytest.mark.parametrize("before", ["statement", "cursor", "copy", "block"])
    def test_a_transaction_that_has_done_something_is_told_once(
        self, make_pool: Make, primary: Node, table: str, before: str
    ) -> None:
        pool = preparing(make_pool, autocommit=False)
        with pool.lease() as connection:
            ask(connection, table)
            connection.commit()
            widen(primary, table)
            block, held = None, connection.cursor("held")
            if before == "statement":
                connection.execute("SELECT 1")
            elif before == "cursor":
                held.execute("SELECT 1")
            elif before == "copy":
                with connection.cursor().copy("COPY (SELECT 1) TO STDOUT") as copy:
                    assert list(copy)
            else:
                block = connection.transaction()
                block.__enter__()
            with pytest.raises(StalePlan, match="roll back and run it again") as caught:
                ask(connection, table)
            assert caught.value.sqlstate == "0A000"
            assert isinstance(caught.value, psycopg.OperationalError)
            if block is not None:
                block.__exit__(StalePlan, caught.value, None)
            connection.rollback()
            held.close()
            connection.execute("SELECT 1")
            assert ask(connection, table) == [(1, None)]
        assert pool.plans.healed == 0

    def test_one_that_meets_it_tells_all_connections(
        self, make_pool: Make, primary: Node, table: str
    ) -> None:
        pool = preparing(make_pool)
        leases = [pool.acquire() for _ in range(3)]
        for lease in leases:
            ask(lease.connection, table)
        widen(primary, table)
        for lease in leases:
            lease.connection.autocommit = False
            lease.connection.execute("SELECT 1")
        with pytest.raises(StalePlan):
            ask(leases[0].connection, table)
        for lease in leases[1:]:
            assert ask(lease.connection, table) == [(1, None)]
        for lease in leases:
            lease.connection.rollback()
            lease.release()

    def test_what_is_prepared_as_all_is_dropped_stays(
        self, make_pool: Make, primary: Node, table: str
    ) -> None:
        pool = preparing(make_pool)
        with pool.lease() as one, pool.lease() as other:
            for connection in (one, other):
                ask(connection, table)
            widen(primary, table)
            ask(one, table)
            for _ in range(3):
                other.execute("SELECT 1", prepare=True)
            assert prepared(other) == ["SELECT 1"]
        assert pool.plans.healed == 1, "what was new went with the rest, and was missed"

    def test_a_type_that_was_replaced_is_looked_up_again(
        self, make_pool: Make, primary: Node
    ) -> None:
        name = unique("mood").replace("-", "_")
        primary.execute(f"CREATE TYPE {name} AS ENUM ('a')")
        pool = preparing(make_pool)
        with pool.lease() as connection:
            for _ in range(3):
                connection.execute(f"SELECT %s::{name}", ["a"])
            primary.execute(f"DROP TYPE {name}; CREATE TYPE {name} AS ENUM ('a', 'b')")
            found = connection.execute(f"SELECT %s::{name}", ["b"])
            assert found.fetchone() == ("b",)
        assert pool.plans.healed == 1
        primary.execute(f"DROP TYPE {name}")

    def test_statements_that_were_deallocated_are_prepared_again(
        self, make_pool: Make, table: str
    ) -> None:
        pool = preparing(make_pool)
        with pool.lease() as connection:
            ask(connection, table)
            connection.pgconn.exec_(b"DEALLOCATE ALL")
            assert ask(connection, table) == [(1,)]
        assert pool.plans.healed == 1

    def test_many_at_once_are_run_again_if_they_still_can_be(
        self, make_pool: Make, primary: Node, table: str
    ) -> None:
        pool = preparing(make_pool)
        text = f"INSERT INTO {table} (number) VALUES (%s) RETURNING *"
        with pool.lease() as connection:
            connection.cursor().executemany(text, [(2,), (3,)], returning=True)
            widen(primary, table)
            connection.cursor().executemany(text, [(4,), (5,)], returning=True)
            assert pool.plans.healed == 1
            connection.cursor().executemany(text, [(6,)], returning=True)
            widen(primary, table, "yet_more")
            with pytest.raises(StalePlan):
                connection.cursor().executemany(text, iter([(7,)]), returning=True)
            connection.cursor().executemany(text, iter([(8,)]), returning=True)
            rows = connection.execute(f"SELECT number FROM {table} ORDER BY 1").fetchall()
            assert [number for (number,) in rows] == [1, 2, 3, 4, 5, 6, 8]

    def test_in_a_pipeline_it_is_told(self, make_pool: Make, primary: Node, table: str) -> None:
        with preparing(make_pool).lease() as connection:
            ask(connection, table)
            widen(primary, table)
            with pytest.raises(psycopg.errors.FeatureNotSupported), connection.pipeline():
                ask(connection, table)
            assert ask(connection, table) == [(1, None)]

    def test_what_commits_by_itself_is_not_run_twice(
        self, make_pool: Make, primary: Node, table: str
    ) -> None:
        name = f"{table}_twice"
        primary.execute(
            f"CREATE PROCEDURE {name}(n int) LANGUAGE plpgsql AS $$ BEGIN "
            f"INSERT INTO {table} (number) VALUES (n); COMMIT; "
            f"PERFORM 1 / (n - 7); END $$"
        )
        pool = preparing(make_pool)
        with pool.lease() as connection:
            for _ in range(3):
                connection.execute(f"CALL {name}(%s::int)", [8])
            connection.pgconn.exec_(b"DEALLOCATE ALL")
            with pytest.raises(StalePlan):
                connection.execute(f"CALL {name}(%s::int)", [8])
        assert pool.plans.healed == 0
        primary.execute(f"DROP PROCEDURE {name}")

    def test_an_error_of_its_own_is_nobody_elses(self, make_pool: Make, table: str) -> None:
        pool = preparing(make_pool)
        with pool.lease() as connection:
            for number in (1, 1, 1, 0):
                with suppress(psycopg.errors.DivisionByZero):
                    connection.execute("SELECT 1 / %s::int", [number])
            assert prepared(connection) == ["SELECT 1 / $1::int"]
        assert pool.plans.healed == 0


class TestUpkeep:
    def test_ones_own_alter_drops_all(self, make_pool: Make, table: str) -> None:
        with preparing(make_pool).lease() as connection:
            ask(connection, table)
            connection.execute(f"ALTER TABLE {table} ADD more int")
            assert prepared(connection) == []
            assert ask(connection, table) == [(1, None)]
            assert prepared(connection) == texts(table)

    def test_no_more_are_kept_than_may_be(self, make_pool: Make) -> None:
        pool = make_pool(
            prepare=True, prepared_max=4, kwargs={"autocommit": True, "prepare_threshold": 1}
        )
        for _ in range(2):
            with pool.lease() as connection:
                for number in range(12):
                    for _ in range(3):
                        connection.execute(f"SELECT %s + {number}", [1])
                assert len(prepared(connection)) == 4
                assert connection.prepared_max == 4

    def test_they_survive_a_release_and_a_reset(self, make_pool: Make, table: str) -> None:
        pool = make_pool(
            prepare=True, max_size=1, reset="always",
            kwargs={"autocommit": True, "prepare_threshold": 1},
        )  # fmt: skip
        with pool.lease() as connection:
            ask(connection, table)
        with pool.lease() as connection:
            assert prepared(connection) == texts(table)

    def test_a_threshold_of_a_lease_is_its_own(self, make_pool: Make) -> None:
        pool = preparing(make_pool)
        with pool.lease() as connection:
            connection.prepare_threshold, connection.prepared_max = None, 1
        with pool.lease() as connection:
            assert (connection.prepare_threshold, connection.prepared_max) == (1, 100)

    def test_who_does_not_prepare_has_psycopgs_own_manager(self, make_pool: Make) -> None:
        with make_pool().lease() as connection:
            assert type(connection._prepared) is PrepareManager
            assert "PreparingCursor" not in str(type(connection.cursor()).__mro__)
