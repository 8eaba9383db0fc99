"""What no text shows is found at release, named, and cleared away."""

from __future__ import annotations

import copy
import gc
import logging
import pickle
import threading
import warnings

import psycopg
import pytest

from django_poolkit.pools import errors
from django_poolkit.pools.postgres import reset, verify
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import Call, unique

# What a function does, and how it is named.
HIDDEN = {
    "a setting": ("PERFORM set_config('work_mem', '7MB', false)", "setting work_mem"),
    "SET": ("SET lock_timeout TO '7s'", "setting lock_timeout"),
    "a setting made up": (
        "PERFORM set_config('app.tenant', 'secret', false)",
        "setting app.tenant",
    ),
    "SET of one made up": ("SET shop.tenant TO 'secret'", "setting shop.tenant"),
    "an advisory lock": ("PERFORM pg_advisory_lock(-7)", "advisory lock -7"),
    "a large one": ("PERFORM pg_advisory_lock(1::bigint << 40)", "advisory lock 1099511627776"),
    "one of two keys": ("PERFORM pg_advisory_lock(-1, 7)", "advisory lock (-1, 7)"),
    "a shared one": ("PERFORM pg_advisory_lock_shared(8)", "advisory lock 8"),
    "a table": ("CREATE TEMP TABLE mine (a int)", "temporary table mine"),
    "a view": ("CREATE TEMP VIEW mine AS SELECT 1", "temporary view mine"),
    "a sequence": ("CREATE TEMP SEQUENCE mine", "temporary sequence mine"),
    "a type": ("CREATE TYPE pg_temp.mine AS (a int)", "temporary type mine"),
    "a domain": ("CREATE DOMAIN pg_temp.mine AS int", "temporary type mine"),
    "a function": (
        "CREATE FUNCTION pg_temp.mine() RETURNS int LANGUAGE sql RETURN 1",
        "temporary function mine",
    ),
    "LISTEN": ("LISTEN news", "LISTEN news"),
    "a cursor": (
        "EXECUTE 'DECLARE mine CURSOR WITH HOLD FOR SELECT 1'",
        "cursor WITH HOLD mine",
    ),
    "PREPARE": ("EXECUTE 'PREPARE mine AS SELECT 1'", "prepared statement mine"),
    "a role": ("SET ROLE other_boss", "setting role"),
}


@pytest.fixture
def hide(primary):
    """Return a function that hides a statement in a function of the database."""
    made: list[str] = []

    def make(statement: str) -> str:
        name = f"hidden_{len(made)}"
        primary.execute(
            f"CREATE OR REPLACE FUNCTION {name}() RETURNS int LANGUAGE plpgsql AS "
            f"$$ BEGIN {statement}; RETURN 1; END $$"
        )
        made.append(name)
        return name

    yield make
    for name in made:
        primary.execute(f"DROP FUNCTION {name}")


@pytest.fixture
def trusting(make_pool):
    """Return a function that makes pools of one connection, to which functions are harmless."""

    def make(*functions: str, **options):
        return make_pool(max_size=1, verify_state=True, harmless_functions=functions, **options)

    return make


@pytest.fixture
def role(primary):
    """A second superuser: the server reports a role only where it loses its privileges."""
    primary.execute("CREATE ROLE other_boss SUPERUSER")
    yield
    primary.execute("DROP ROLE other_boss")


def use(pool, *statements):
    """Run statements under one lease, and give it back."""
    lease = pool.acquire()
    for statement in statements:
        lease.connection.execute(statement)
    lease.connection.commit()
    lease.release()


def assert_nothing_is_lost(pool):
    """See that the one slot serves, on a connection that lives."""
    use(pool, "SELECT 1")
    stats = pool.stats()
    assert (stats.used, stats.idle, stats.size) == (0, 1, 1)


def state_of(pool):
    """Return what the server says of the one connection."""
    with pool.acquire() as connection:
        return verify.look(connection)


@pytest.mark.usefixtures("role")
@pytest.mark.parametrize("what", HIDDEN)
def test_what_a_function_hides_is_named_and_reaches_nobody(trusting, hide, what):
    statement, name = HIDDEN[what]
    hidden = hide(statement)
    pool = trusting(hidden)
    before = state_of(pool)
    with pytest.raises(errors.SessionStateLeft) as caught:
        use(pool, f"SELECT {hidden}()")
    assert name in caught.value.left
    assert name in str(caught.value)
    assert caught.value.pool == pool.name
    assert "7MB" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert state_of(pool) == before
    stats = pool.stats()
    assert (stats.used, stats.idle, stats.resets, stats.closed) == (0, 1, 1, {})
    use(pool, "SELECT 1")  # and is no more there


def test_no_value_leaves_the_server(make_pool):
    with make_pool(max_size=1).acquire() as connection:
        connection.execute("SET work_mem TO '7777kB'")
        connection.commit()
        state = verify.look(connection)
    assert ("setting", "work_mem") in {(kind, name) for kind, name, _ in state}
    assert "7777" not in str(state)


def test_a_hidden_prepare_goes_although_psycopg_has_prepared_others(trusting, hide):
    hidden = hide("EXECUTE 'PREPARE mine AS SELECT 1'")
    pool = trusting(hidden, prepare=True)
    with pool.acquire() as connection:
        for _ in range(6):
            connection.execute("SELECT 1 AS often")
        connection.commit()
        assert connection._prepared._names
    before = state_of(pool)
    with pytest.raises(errors.SessionStateLeft, match="prepared statement mine"):
        use(pool, f"SELECT {hidden}()")
    assert state_of(pool) == before


@pytest.mark.core
def test_what_is_found_is_all_of_it(trusting, hide):
    hidden = hide("LISTEN b; LISTEN a; PERFORM pg_advisory_lock(1)")
    with pytest.raises(errors.SessionStateLeft) as caught:
        use(trusting(hidden), f"SELECT {hidden}()")
    assert caught.value.left == ("LISTEN a", "LISTEN b", "advisory lock 1")


def test_without_the_option_nobody_asks(make_pool, hide):
    hidden = hide("PERFORM pg_advisory_lock(7)")
    pool = make_pool(max_size=1, harmless_functions=[hidden])
    use(pool, f"SELECT {hidden}()")
    with pool.acquire() as connection:
        locks = connection.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        ).fetchone()
    assert locks == (1,)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1",
        "SELECT set_config('app.tenant', '7', true)",
        "SELECT pg_advisory_xact_lock(7)",
        "CREATE TEMP TABLE mine (a int) ON COMMIT DROP",
    ],
)
def test_what_ends_with_the_transaction_is_not_left(trusting, statement):
    pool = trusting()
    use(pool, statement)
    assert pool.stats().resets == 0


def test_what_was_rolled_back_is_not_left(trusting, hide):
    hidden = hide("SET work_mem TO '7MB'")
    pool = trusting(hidden)
    lease = pool.acquire()
    lease.connection.execute(f"SELECT {hidden}()")
    lease.release()
    assert pool.stats().resets == 0


@pytest.mark.parametrize(
    ("statement", "policy"),
    [
        ("SET work_mem TO '7MB'", "dirty"),  # the text shows it
        ("SELECT hidden_0()", "dirty"),  # nobody knows what it does
        ("SELECT 1", "request"),
        ("SELECT 1", "always"),
    ],
)
def test_what_is_reset_anyhow_is_not_asked_for(make_pool, hide, monkeypatch, statement, policy):
    hide("SET work_mem TO '7MB'")
    pool = make_pool(max_size=1, verify_state=True, reset=policy)
    with pool.acquire() as connection:
        connection.execute(statement)
        connection.commit()
        monkeypatch.setattr(verify, "left", None)
    assert pool.stats().resets == 1


@pytest.mark.usefixtures("role")
@pytest.mark.parametrize(
    "statement", ["SET TIME ZONE 'Asia/Tokyo'", "SET SESSION AUTHORIZATION other_boss"]
)
def test_a_change_that_the_server_reports_is_reset_without_an_error(trusting, hide, statement):
    hidden = hide(statement)
    pool = trusting(hidden)
    use(pool, f"SELECT {hidden}()")
    assert pool.stats().resets == 1


def test_what_configure_sets_is_there_from_the_begin(trusting, hide):
    def configure(connection):
        connection.execute("SET work_mem TO '7MB'")
        connection.commit()

    other = hide("SET work_mem TO '9MB'")
    undone = hide("RESET work_mem")
    pool = trusting(other, undone, configure=configure)
    use(pool, "SELECT 1")
    for hidden in (other, undone):
        with pytest.raises(errors.SessionStateLeft, match="setting work_mem"):
            use(pool, f"SELECT {hidden}()")
        use(pool, "SELECT 1")


def test_what_a_reset_leaves_is_there_from_then_on(trusting):
    counts = iter(range(8, 20))

    def configure(connection):  # which does not bring back the same
        connection.execute(f"SET work_mem TO '{next(counts)}MB'")
        connection.commit()

    pool = trusting(configure=configure)
    use(pool, "SET lock_timeout TO '7s'")
    use(pool, "SELECT 1")
    assert pool.stats().resets == 1


def test_a_reset_callable_may_clear_away_first(trusting, hide):
    hidden = hide("SET work_mem TO '7MB'")

    def clear(connection):
        connection.execute("RESET ALL")
        connection.commit()

    pool = trusting(hidden, reset=clear)
    pool.statements.foreign = lambda: False
    use(pool, f"SELECT {hidden}()")
    assert pool.stats().resets == 0


def test_it_is_one_round_trip(far_pool, proxy):
    trips = []
    for options in ({}, {"verify_state": True}):
        pool = far_pool(max_size=1, **options)
        with pool.acquire() as connection:
            connection.execute("SELECT 1")
            connection.commit()
            before = proxy.round_trips
        trips.append(proxy.round_trips - before)
    assert trips == [0, 1]


def test_the_search_path_of_the_session_does_not_matter(trusting, hide):
    hidden = hide("PERFORM set_config('app.tenant', '7', false)")
    pool = trusting(hidden, kwargs={"options": "-c search_path=nowhere"})
    with pytest.raises(errors.SessionStateLeft) as caught:
        use(pool, f"SELECT public.{hidden}()")
    assert caught.value.left == ("setting app.tenant",)


class TestTrouble:
    def test_a_dead_connection_is_closed_without_a_second_error(self, trusting, primary, app):
        pool = trusting(kwargs={"application_name": app})
        lease = pool.acquire()
        lease.connection.execute("SELECT 1")
        lease.connection.commit()
        primary.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE application_name = '{app}'"
        )
        lease.release()
        assert pool.stats().closed == {"broken": 1}
        assert_nothing_is_lost(pool)

    def test_a_check_that_the_server_refuses_ends_in_a_reset(
        self, trusting, hide, monkeypatch, caplog
    ):
        hidden = hide("SET work_mem TO '7MB'")
        pool = trusting(hidden)
        before = state_of(pool)
        lease = pool.acquire()
        lease.connection.execute(f"SELECT {hidden}()")
        lease.connection.commit()
        with monkeypatch.context() as patch:
            patch.setattr(verify, "left", refuse)
            with caplog.at_level(logging.WARNING, "django_poolkit.pool"):
                lease.release()
        assert "event=verify_failed error=UndefinedTable" in caplog.text
        assert state_of(pool) == before
        assert (pool.stats().resets, pool.stats().closed) == (1, {})

    def test_a_check_without_an_answer_costs_the_connection(self, far_pool, proxy, monkeypatch):
        pool = far_pool(max_size=1, verify_state=True)
        lease = pool.acquire()
        lease.connection.execute("SELECT 1")
        lease.connection.commit()
        with monkeypatch.context() as patch:
            patch.setattr(verify, "_TIMEOUT", 0.1)
            proxy.stall()
            lease.release()
            proxy.resume()
        assert pool.stats().closed == {"active": 1}
        assert_nothing_is_lost(pool)

    def test_a_reset_that_fails_costs_the_connection_and_is_still_told(
        self, trusting, hide, monkeypatch
    ):
        hidden = hide("SET work_mem TO '7MB'")
        pool = trusting(hidden)
        lease = pool.acquire()
        lease.connection.execute(f"SELECT {hidden}()")
        lease.connection.commit()
        monkeypatch.setattr(reset, "clean", lambda *args, **options: False)
        with pytest.raises(errors.SessionStateLeft):
            lease.release()
        assert pool.stats().closed == {"reset_failed": 1}
        assert pool.stats().used == 0

    def test_an_interrupt_costs_the_connection_and_no_slot(self, trusting, monkeypatch):
        pool = trusting()
        lease = pool.acquire()
        lease.connection.execute("SELECT 1")
        lease.connection.commit()

        def interrupt(connection):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(verify, "left", interrupt)
            lease.release()
        assert pool.stats().closed == {"interrupted": 1}
        assert pool.stats().used == 0
        assert_nothing_is_lost(pool)

    def test_who_waits_gets_the_connection_clean(self, trusting, hide):
        hidden = hide("PERFORM pg_advisory_lock(7)")
        pool = trusting(hidden)
        before = state_of(pool)
        lease = pool.acquire()
        lease.connection.execute(f"SELECT {hidden}()")
        lease.connection.commit()
        waiting = Call(state_of, pool)
        wait_until(lambda: pool.stats().waiters == 1)
        with pytest.raises(errors.SessionStateLeft):
            lease.release()
        assert waiting.result() == before


def test_who_acquires_leaves_the_question_to_a_worker(trusting, monkeypatch):
    pool = trusting()
    lease = pool.acquire()
    lease.connection.execute("SELECT 1")
    lease.connection.commit()
    asked = []
    ask = verify.left

    def left(connection):
        asked.append(threading.current_thread())
        return ask(connection)

    monkeypatch.setattr(verify, "left", left)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", errors.PoolWarning)
        del lease
        gc.collect()
        Call(pool.acquire).result().release()
        wait_until(lambda: pool.stats().idle == 1)
        pool.adopt_orphans()
    assert asked[0].name.startswith(f"{pool.name}-worker")


@pytest.mark.parametrize("patient", [True, False])
def test_who_takes_back_a_lost_lease_is_not_to_blame(trusting, hide, caplog, patient):
    hidden = hide("SET work_mem TO '7MB'")
    pool = trusting(hidden)
    before = state_of(pool)
    lease = pool.acquire()
    lease.connection.execute(f"SELECT {hidden}()")
    lease.connection.commit()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", errors.PoolWarning)
        with caplog.at_level(logging.WARNING, "django_poolkit.pool"):
            del lease
            gc.collect()
            if patient:
                pool.adopt_orphans()
            assert state_of(pool) == before  # a worker takes it back meanwhile
    assert "event=state_left left=setting work_mem" in caplog.text
    assert pool.stats().leaks == 1


def test_a_block_that_ends_well_raises_what_was_left(trusting, hide):
    hidden = hide("SET work_mem TO '7MB'")
    pool = trusting(hidden)
    with pytest.raises(errors.SessionStateLeft), pool.lease() as connection:
        connection.execute(f"SELECT {hidden}()")
    assert pool.stats().used == 0


def test_a_connection_given_back_as_psycopg_pool_does_is_verified(trusting, hide):
    hidden = hide("SET work_mem TO '7MB'")
    pool = trusting(hidden)
    connection = pool.getconn()
    connection.execute(f"SELECT {hidden}()")
    connection.commit()
    with pytest.raises(errors.SessionStateLeft):
        pool.putconn(connection)
    assert pool.stats().used == 0


def test_an_atomic_body_is_read_as_well(trusting, primary):
    name = unique().replace("-", "_")
    primary.execute(
        f'CREATE FUNCTION "{name}"() RETURNS text LANGUAGE sql '
        "BEGIN ATOMIC SELECT set_config('atomic.tenant', 'x', false); END"
    )
    with pytest.raises(errors.SessionStateLeft, match=r"setting atomic\.tenant"):
        use(trusting(name), f'SELECT "{name}"()')
    primary.execute(f'DROP FUNCTION "{name}"')


@pytest.mark.core
@pytest.mark.parametrize("through", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
def test_the_error_keeps_what_it_carries(through):
    error = through(verify.error("orders", ("setting work_mem",)))
    assert (error.pool, error.left) == ("orders", ("setting work_mem",))
    assert "pinned()" in str(error)


def refuse(connection):
    """Ask a question that the server refuses."""
    raise psycopg.errors.UndefinedTable
