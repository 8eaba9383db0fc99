"""What a lease leaves behind, and what of it the next one meets: nothing."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from django_poolkit.pools.postgres import probe, reset
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import assert_adds_up, pid

pytestmark = pytest.mark.core


# What leaves session state behind, and a question whose answer shows it.
RESIDUES = {
    "SET": ("SET work_mem TO '7MB'", "SHOW work_mem"),
    "SET ROLE": ("SET ROLE pg_read_all_data", "SELECT current_user"),
    "search_path": ("SET search_path TO nowhere", "SHOW search_path"),
    "TimeZone": ("SET TIME ZONE 'Asia/Tokyo'", "SHOW TimeZone"),
    "set_config": (
        "SELECT set_config('app.tenant', '7', false)",
        "SELECT coalesce(current_setting('app.tenant', true), '')",
    ),
    "session authorization": ("SET SESSION AUTHORIZATION pg_monitor", "SELECT session_user"),
    "temp table": ("CREATE TEMP TABLE mine (a int)", "SELECT to_regclass('pg_temp.mine')"),
    "advisory lock": (
        "SELECT pg_advisory_lock(4711)",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    ),
    "LISTEN": ("LISTEN news", "SELECT count(*) FROM pg_listening_channels()"),
    "WITH HOLD cursor": (
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "SELECT count(*) FROM pg_cursors WHERE is_holdable",
    ),
    "PREPARE": (
        "PREPARE mine AS SELECT 1",
        "SELECT count(*) FROM pg_prepared_statements WHERE name = 'mine'",
    ),
    "transaction default": (
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SHOW default_transaction_read_only",
    ),
}


def ask(connection, question):
    answer = connection.execute(question).fetchone()
    connection.rollback()
    return answer


@pytest.mark.parametrize("policy", ["dirty", "request", "always"])
@pytest.mark.parametrize("residue", RESIDUES)
def test_nothing_reaches_the_next_lease(make_pool, residue, policy):
    pool = make_pool(max_size=1, reset=policy)
    statement, question = RESIDUES[residue]
    with pool.acquire() as connection:
        backend = connection.info.backend_pid
        before = ask(connection, question)
        connection.execute(statement)
        connection.commit()
        assert ask(connection, question) != before
    with pool.acquire() as connection:
        assert connection.info.backend_pid == backend  # cleaned, not replaced
        assert ask(connection, question) == before
    assert pool.stats().closed == {}


@pytest.mark.parametrize("policy", ["dirty", "request", "always"])
def test_the_last_value_of_a_sequence_does_not_reach_the_next_lease(
    make_pool, primary, app, policy
):
    pool = make_pool(max_size=1, reset=policy)
    primary.execute(f'CREATE SEQUENCE "{app}"')
    with pool.acquire() as connection:
        connection.execute(f"SELECT nextval('\"{app}\"')")
        connection.commit()
        connection.execute("SET work_mem TO '7MB'")  # nextval alone marks nothing under `dirty`
        connection.commit()
    with pool.acquire() as connection, pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        connection.execute("SELECT lastval()")
    primary.execute(f'DROP SEQUENCE "{app}"')


class TestPolicies:
    @pytest.mark.parametrize(("policy", "resets"), [("dirty", 0), ("request", 1), ("always", 1)])
    def test_after_a_statement_that_leaves_nothing(self, make_pool, policy, resets):
        pool = make_pool(max_size=1, reset=policy)
        with pool.acquire() as connection:
            ask(connection, "SELECT 1")
        assert pool.stats().resets == resets

    @pytest.mark.parametrize(("policy", "resets"), [("dirty", 0), ("request", 0), ("always", 1)])
    def test_after_no_statement(self, make_pool, policy, resets):
        pool = make_pool(max_size=1, reset=policy)
        with pool.acquire():
            pass
        assert pool.stats().resets == resets

    def test_after_statements_of_the_orm(self, make_pool):
        pool = make_pool(max_size=1, reset="request")
        pool.statements.foreign = lambda: False
        with pool.acquire() as connection:
            ask(connection, "SELECT 1")
        assert pool.stats().resets == 0

    def test_after_a_mark_set_by_hand(self, make_pool):
        pool = make_pool(max_size=1, reset="dirty")
        lease = pool.acquire()
        lease.mark_dirty("by hand")
        lease.release()
        assert pool.stats().resets == 1

    def test_a_held_cursor_that_was_closed_needs_none(self, make_pool):
        pool = make_pool(max_size=1, reset="dirty")
        with pool.acquire() as connection:
            with connection.cursor("c", withhold=True) as cursor:
                cursor.execute("SELECT generate_series(1, 3)")
                connection.commit()
                assert len(cursor.fetchall()) == 3
            connection.commit()
        assert pool.stats().resets == 0

    def test_a_held_cursor_that_was_left_open_needs_one(self, make_pool):
        pool = make_pool(max_size=1, reset="dirty")
        with pool.acquire() as connection:
            cursor = connection.cursor("c", withhold=True)
            cursor.execute("SELECT generate_series(1, 3)")
            connection.commit()
        assert pool.stats().resets == 1
        cursor.close()
        with pool.acquire() as connection:
            assert ask(connection, "SELECT count(*) FROM pg_cursors WHERE is_holdable") == (0,)


class TestRoundTrips:
    def test_a_reset_is_one(self, far_pool, proxy):
        pool = far_pool(max_size=1, kwargs={"autocommit": True})
        lease = pool.acquire()
        lease.connection.execute("LISTEN news")
        before = proxy.round_trips
        lease.release()
        assert proxy.round_trips == before + 1

    def test_a_rollback_is_one(self, far_pool, proxy):
        pool = far_pool(max_size=1)
        lease = pool.acquire()
        lease.connection.execute("SELECT 1")
        before = proxy.round_trips
        lease.release()
        assert proxy.round_trips == before + 1
        assert pool.stats().resets == 0

    @pytest.mark.parametrize("failed", [False, True])
    def test_both_are_one(self, far_pool, proxy, failed):
        pool = far_pool(max_size=1)
        lease = pool.acquire()
        backend = pid(lease)
        lease.connection.execute("SET work_mem TO '7MB'")
        if failed:
            with pytest.raises(psycopg.errors.DivisionByZero):
                lease.connection.execute("SELECT 1/0")
        before = proxy.round_trips
        lease.release()
        assert proxy.round_trips == before + 1
        assert pool.stats().resets == 1
        with pool.acquire() as connection:
            assert connection.info.backend_pid == backend
            assert connection.info.transaction_status == TransactionStatus.IDLE


class TestWhatTheServerReports:
    """State set inside functions shows in no text. A few of the settings are reported."""

    @pytest.mark.parametrize(
        ("setting", "value"), [("search_path", "nowhere"), ("TimeZone", "Asia/Tokyo")]
    )
    def test_a_change_inside_a_function_is_found(self, make_pool, primary, app, setting, value):
        function = app.replace("-", "_")
        primary.execute(
            f"CREATE FUNCTION {function}() RETURNS text LANGUAGE sql"
            f" AS $$ SELECT set_config('{setting}', '{value}', false) $$"
        )
        pool = make_pool(
            max_size=1, reset="dirty", harmless_functions=[function, "public." + function]
        )
        with pool.acquire() as connection:
            before = ask(connection, f"SHOW {setting}")
            assert ask(connection, f"SELECT public.{function}()") == (value,)
            # psycopg rolls back at the end of ask(): set it again, and keep it.
            connection.execute(f"SELECT public.{function}()")
            connection.commit()
        assert pool.stats().resets == 1
        with pool.acquire() as connection:
            assert ask(connection, f"SHOW {setting}") == before
        assert pool.stats().resets == 1
        primary.execute(f"DROP FUNCTION {function}")

    def test_a_change_inside_a_do_block_is_found(self, make_pool):
        pool = make_pool(max_size=1, reset="dirty")
        with pool.acquire() as connection:
            before = ask(connection, "SHOW search_path")
            connection.execute("DO $$ BEGIN PERFORM set_config('search_path', 'x', false); END $$")
            connection.commit()
        with pool.acquire() as connection:
            assert ask(connection, "SHOW search_path") == before


class TestHopeless:
    """What cannot be cleaned is closed, with its reason."""

    def closed(self, pool, primary, app, reason):
        assert pool.stats().closed == {reason: 1}
        assert_adds_up(pool, primary, app)
        with pool.acquire() as connection:
            assert connection.info.transaction_status == TransactionStatus.IDLE
            assert ask(connection, "SELECT 1") == (1,)

    @pytest.fixture
    def pool(self, make_pool, app):
        return make_pool(max_size=1, kwargs={"application_name": app})

    def test_a_query_that_runs_on(self, pool, primary, app):
        lease = pool.acquire()
        lease.connection.pgconn.send_query(b"SELECT pg_sleep(0.3)")
        assert lease.connection.info.transaction_status == TransactionStatus.ACTIVE
        lease.release()
        self.closed(pool, primary, app, "active")

    def test_a_copy_half_way(self, pool, primary, app):
        lease = pool.acquire()
        copy = lease.connection.cursor().copy("COPY (SELECT generate_series(1, 100000)) TO STDOUT")
        data = copy.__enter__()
        data.read()
        lease.release()
        self.closed(pool, primary, app, "active")

    def test_a_stream_half_way(self, pool, primary, app):
        lease = pool.acquire()
        rows = lease.connection.cursor().stream("SELECT generate_series(1, 100000)")
        next(rows)
        lease.release()
        self.closed(pool, primary, app, "active")
        with pytest.raises(psycopg.Error):
            next(rows)

    def test_an_open_pipeline(self, pool, primary, app):
        lease = pool.acquire()
        block = lease.connection.pipeline()
        block.__enter__()
        lease.release()
        self.closed(pool, primary, app, "unfinished")

    def test_an_open_transaction_block(self, pool, primary, app):
        lease = pool.acquire()
        block = lease.connection.transaction()
        block.__enter__()
        lease.release()
        self.closed(pool, primary, app, "unfinished")

    def test_a_two_phase_commit_half_way(self, pool, primary, app):
        lease = pool.acquire()
        lease.connection.tpc_begin(lease.connection.xid(1, app, "b"))
        lease.release()
        self.closed(pool, primary, app, "unfinished")

    def test_one_that_the_caller_closed(self, pool, primary, app):
        lease = pool.acquire()
        lease.connection.close()
        lease.release()
        self.closed(pool, primary, app, "broken")


class TestFailure:
    def test_a_reset_that_fails_costs_the_connection(self, make_pool, primary, app, monkeypatch):
        pool = make_pool(max_size=1, kwargs={"application_name": app})
        lease = pool.acquire()
        lease.connection.execute("LISTEN news")
        monkeypatch.setattr(reset, "RESET", b"SELECT 1/0")
        lease.release()
        assert pool.stats().closed == {"reset_failed": 1}
        assert pool.stats().resets == 0
        assert_adds_up(pool, primary, app)

    def test_a_reset_that_gets_no_answer_costs_the_connection(self, far_pool, proxy, monkeypatch):
        pool = far_pool(max_size=1)
        lease = pool.acquire()
        lease.connection.execute("LISTEN news")
        monkeypatch.setattr(reset, "TIMEOUT", 0.2)
        proxy.stall()
        lease.release()
        assert pool.stats().closed == {"reset_failed": 1}
        proxy.resume()

    def test_a_server_that_died_meanwhile_costs_the_connection(self, make_pool, primary):
        pool = make_pool(max_size=1)
        lease = pool.acquire()
        lease.connection.execute("LISTEN news")
        primary.kill_backend(pid(lease))
        lease.release()
        assert (pool.stats().size, pool.stats().closed) == (0, {"reset_failed": 1})


def test_prepared_statements_survive_a_reset(make_pool):
    pool = make_pool(max_size=1, reset="always", prepare=True, kwargs={"prepare_threshold": 0})
    question = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE %s"
    with pool.acquire() as connection:
        connection.execute("SELECT %s::int + 4711", (1,))
        connection.commit()
    with pool.acquire() as connection:
        assert ask_with(connection, question, ("%4711%",)) == (1,)
        assert connection.execute("SELECT %s::int + 4711", (1,)).fetchone() == (4712,)
        connection.commit()
    assert pool.stats().resets >= 1


def ask_with(connection, question, parameters):
    answer = connection.execute(question, parameters).fetchone()
    connection.rollback()
    return answer


def test_a_reset_goes_back_to_the_start_up_options(make_pool):
    pool = make_pool(max_size=1, kwargs={"options": "-c work_mem=5MB"})
    with pool.acquire() as connection:
        connection.execute("SET work_mem TO '7MB'")
        connection.commit()
    with pool.acquire() as connection:
        assert ask(connection, "SHOW work_mem") == ("5MB",)


def test_the_server_has_nothing_left_of_a_reset_session(make_pool, primary):
    """An advisory lock is free, and a temporary table gone, for others too."""
    pool = make_pool(max_size=1)
    with pool.acquire() as connection:
        connection.execute("SELECT pg_advisory_lock(4712)")
        connection.commit()
    with primary.connect() as other:
        wait_until(lambda: other.execute("SELECT pg_try_advisory_lock(4712)").fetchone() == (True,))


def test_it_is_a_bounded_answer_that_is_waited_for(make_pool):
    pool = make_pool(max_size=1)
    lease = pool.acquire()
    with pytest.raises(psycopg.OperationalError):
        probe.execute(lease.connection, b"SELECT pg_sleep(30)", 0.1)
    lease.release()
    assert pool.stats().closed == {"active": 1}
