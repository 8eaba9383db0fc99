"""One connection beside the pool: it is bounded, replaced when it is dead, and leaves nothing."""

from __future__ import annotations

import os
import signal
import time
import weakref

import psycopg
import pytest

from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.postgres import prober as prober_module
from django_poolkit.pools.postgres.connect import Connector
from django_poolkit.pools.postgres.prober import ProbeFailed, Prober, cause_of
from django_poolkit.testing.faults import silent_server
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import Call, unique


@pytest.fixture
def make_prober(params, app):
    """Return a function that makes probers, of which nothing is left after the test."""
    made = []

    def make(conninfo="", **changes):
        given = params | {"application_name": app} | changes
        prober = Prober(lambda: (conninfo, given), name="default")
        made.append(prober)
        return prober

    yield make
    for prober in made:
        prober.close()


@pytest.fixture
def far(make_prober, proxy):
    """A prober behind a network that fails on request."""
    place = {"host": proxy.host, "port": proxy.port}
    return make_prober(**place, sslmode="disable", gssencmode="disable")


def failed(prober, seconds=2.0):
    """Ask in vain; return why, and how long it took."""
    started = time.monotonic()
    with pytest.raises(ProbeFailed) as caught:
        prober.ask(seconds)
    return caught.value, time.monotonic() - started


def pids(primary, app):
    return [session[0] for session in primary.execute(
        "SELECT pid FROM pg_stat_activity WHERE application_name = %s", (app,)
    )]  # fmt: skip


# -- what it says


def test_it_tells_how_a_primary_is(make_prober):
    answer = make_prober().ask(2.0)
    assert (answer.in_recovery, answer.read_only, answer.lag) == (False, False, None)
    assert 0 < answer.seconds < 2.0


def test_it_tells_that_nothing_can_be_written(make_prober):
    prober = make_prober(options="-c default_transaction_read_only=on")
    answer = prober.ask(2.0)
    assert (answer.in_recovery, answer.read_only) == (False, True)


# -- one connection, kept


def test_the_connection_is_kept_for_the_next_question(make_prober, primary, app):
    prober = make_prober()
    assert (prober.connections, pids(primary, app)) == (0, [])
    prober.ask(2.0)
    [first] = pids(primary, app)
    prober.ask(2.0)
    assert (prober.connections, pids(primary, app)) == (1, [first])


def test_what_is_asked_takes_one_round_trip(far, proxy):
    far.ask(2.0)
    before = proxy.round_trips, proxy.connections
    far.ask(2.0)
    assert (proxy.round_trips, proxy.connections) == (before[0] + 1, before[1])


def test_nothing_of_it_stays_in_the_session(make_prober, primary, app):
    prober = make_prober()
    prober.ask(2.0)
    row = prober._connection.execute(
        "SELECT current_setting('statement_timeout'), current_setting('search_path')"
    ).fetchone()
    assert row == ("0", '"$user", public')


def test_what_is_released_is_closed(make_prober, primary, app):
    prober = make_prober()
    prober.ask(2.0)
    prober.release()
    assert prober.connections == 0
    wait_until(lambda: pids(primary, app) == [], message="the connection is left")
    assert prober.ask(2.0).read_only is False


def test_a_closed_one_asks_no_more(make_prober):
    prober = make_prober()
    prober.ask(2.0)
    prober.close()
    assert prober.connections == 0
    error, seconds = failed(prober)
    assert (error.cause, seconds < 0.5) == ("closed", True)


def test_a_connection_grows_old(make_prober, primary, app):
    prober = make_prober()
    prober.ask(2.0)
    [first] = pids(primary, app)
    prober._connection._expire_at = 0.0
    prober.ask(2.0)
    wait_until(lambda: len(pids(primary, app)) == 1, message="the old one is left")
    assert pids(primary, app) != [first]


def test_who_releases_does_not_wait_for_a_probe(far, proxy):
    far.ask(2.0)
    proxy.stall()
    asking = Call(far.ask, 0.7)
    wait_until(far._turn.locked, message="nobody asks")
    started = time.monotonic()
    far.close()
    assert time.monotonic() - started < 0.3
    with pytest.raises(ProbeFailed):
        asking.result()
    assert far.connections == 0


def test_what_is_released_during_a_probe_is_closed_at_its_end(far, proxy, primary, app):
    far.ask(2.0)
    proxy.stall()
    asking = Call(far.ask, 5.0)
    wait_until(far._turn.locked, message="nobody asks")
    far.release()
    assert far.connections == 1
    proxy.resume()
    assert asking.result().in_recovery is False
    wait_until(lambda: far.connections == 0, message="it is kept")
    wait_until(lambda: pids(primary, app) == [], message="the connection is left")


def test_only_one_asks_at_a_time(far, proxy):
    far.ask(2.0)
    proxy.stall()
    first = Call(far.ask, 3.0)
    wait_until(far._turn.locked, message="nobody asks")
    error, seconds = failed(far, 0.2)
    assert (error.cause, seconds < 1.0) == ("timeout", True)
    proxy.resume()
    assert first.result().in_recovery is False


# -- a dead connection is replaced, a dead server is told of


def test_a_connection_that_was_killed_is_replaced_at_once(make_prober, primary, app):
    prober = make_prober()
    prober.ask(2.0)
    [killed] = pids(primary, app)
    primary.kill_backend(killed)
    assert prober.ask(2.0).in_recovery is False
    assert pids(primary, app) != [killed]
    assert prober.connections == 1


def test_a_connection_that_a_network_has_forgotten_is_replaced(far, proxy):
    far.ask(2.0)
    old = far._connection
    for link in proxy._links:  # those that are open hang, and new ones do not
        proxy._do(_hang(link))
    answer = far.ask(1.0)
    assert far._connection is not old
    assert 0.5 < answer.seconds < 1.0


async def _hang(link):
    link.server.transport.pause_reading()
    link.client.transport.pause_reading()
    # What the proxy reads of the client goes nowhere.
    link.server.write = lambda data: None


def test_a_server_that_does_not_answer_is_given_up_in_time(far, proxy):
    far.ask(2.0)
    proxy.stall()
    error, seconds = failed(far, 0.5)
    assert error.cause == "timeout"
    assert 0.4 < seconds < 0.75
    assert far.connections == 0


def test_a_connect_without_an_answer_is_given_up_below_the_two_seconds_of_libpq(make_prober):
    with silent_server() as silent:
        prober = make_prober(host=silent.host, port=silent.port)
        error, seconds = failed(prober, 0.3)
    assert error.cause == "timeout"
    assert 0.25 < seconds < 0.6


@pytest.mark.parametrize(
    ("seconds", "own", "patience"), [(0.5, {}, 2), (9.5, {}, 10), (9.5, {"connect_timeout": 4}, 4)]
)
def test_who_has_more_than_the_two_seconds_of_libpq_may_use_them(
    seconds, own, patience, make_prober, monkeypatch
):
    seen = []
    connect = Connector.connect

    def spy(connector, conninfo, kwargs, **more):
        seen.append(kwargs["connect_timeout"])
        return connect(connector, conninfo, kwargs, **more)

    monkeypatch.setattr(Connector, "connect", spy)
    make_prober(**own).ask(seconds)
    assert seen == [patience]


def test_all_addresses_share_one_deadline(make_prober):
    with silent_server() as silent:
        prober = make_prober(host=f"{silent.host},{silent.host}", port=silent.port)
        error, seconds = failed(prober, 0.4)
    assert error.cause == "timeout"
    assert seconds < 0.75


def test_a_server_process_that_is_frozen_is_left_for_another(make_prober, primary, app):
    prober = make_prober()
    prober.ask(2.0)
    [frozen] = pids(primary, app)
    os.kill(frozen, signal.SIGSTOP)
    try:
        assert prober.ask(1.0).in_recovery is False
        assert prober._connection.info.backend_pid != frozen
    finally:
        os.kill(frozen, signal.SIGCONT)


@pytest.mark.parametrize("asked_before", [False, True])
def test_a_statement_that_is_given_up_ends_on_the_server(
    asked_before, make_prober, primary, app, monkeypatch
):
    prober = make_prober()
    if asked_before:
        prober.ask(2.0)
    # A session that sleeps does not notice by itself that nobody waits for it.
    slow = prober_module._QUESTION.replace(b"SELECT pg_is", b"SELECT pg_sleep(60), pg_is", 1)
    monkeypatch.setattr(prober_module, "_QUESTION", slow)
    error, seconds = failed(prober, 0.5)
    assert (error.cause, seconds < 0.75, prober.connections) == ("timeout", True, 0)
    wait_until(lambda: pids(primary, app) == [], message="something is left on the server")


# -- why it failed


def test_a_stopped_server_is_unreachable(make_prober, primary):
    prober = make_prober()
    prober.ask(2.0)
    primary.stop()
    try:
        error, seconds = failed(prober)
    finally:
        primary.start()
    assert (error.cause, seconds < 0.5) == ("unreachable", True)
    assert prober.ask(2.0).in_recovery is False


def test_a_wrong_password_is_told_and_not_shown(make_prober):
    error, _ = failed(make_prober(password="wr0ng-and-s3cret"))
    assert error.cause == "auth_failed"
    assert "s3cret" not in str(error)


def test_a_database_that_is_not_there_is_a_mistake_in_the_settings(make_prober):
    assert failed(make_prober(dbname="nowhere"))[0].cause == "config_error"


def test_a_connection_string_that_cannot_be_read_is_one_too_and_is_not_shown(make_prober):
    error, _ = failed(make_prober("postgres://u:p%zz-s3cret@h/db"))
    assert error.cause == "config_error"
    assert "s3cret" not in str(error)
    assert error.__cause__ is None
    assert error.__suppress_context__


def test_a_host_without_an_address_is_unreachable_and_not_shown(make_prober):
    error, _ = failed(make_prober(host="s3cret.invalid"))
    assert error.cause == "unreachable"
    assert "s3cret" not in str(error)


def test_a_role_that_may_not_connect_is_told(make_prober, primary):
    primary.execute("CREATE ROLE kept_out LOGIN PASSWORD 'x'")
    primary.create_database("closed_shop")
    primary.execute("REVOKE CONNECT ON DATABASE closed_shop FROM PUBLIC")
    try:
        prober = make_prober(dbname="closed_shop", user="kept_out", password="x")
        assert failed(prober)[0].cause == "auth_failed"
    finally:
        primary.drop_database("closed_shop")
        primary.execute("DROP ROLE kept_out")


def test_a_server_without_a_connection_left_is_saturated(make_prober, primary):
    primary.execute("CREATE ROLE narrow LOGIN PASSWORD 'x' CONNECTION LIMIT 1")
    narrow = {"user": "narrow", "password": "x"}
    try:
        with psycopg.connect(**primary.conninfo() | narrow):
            assert failed(make_prober(**narrow))[0].cause == "saturated"
    finally:
        wait_until(
            lambda: not primary.execute("SELECT 1 FROM pg_stat_activity WHERE usename = 'narrow'"),
            message="it is still connected",
        )
        primary.execute("DROP ROLE narrow")


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        ("57P03", "unreachable"), ("57P01", "unreachable"), ("08006", "unreachable"),
        ("3F000", "config_error"), ("28000", "auth_failed"), ("57014", "timeout"),
        ("53300", "saturated"), ("53200", "unreachable"), ("XX000", "unknown"),
    ],
)  # fmt: skip
def test_what_the_server_says_comes_down_to_a_cause(state, cause):
    assert cause_of(psycopg.errors.lookup(state)("said")) == cause


def test_what_a_users_function_raises_is_unknown_and_not_shown(make_prober):
    def parameters():
        raise RuntimeError("s3cret")

    prober = Prober(parameters, name="default")
    error, _ = failed(prober)
    assert error.cause == "unknown"


# -- a pool's


def test_to_ask_opens_no_pool(make_pool):
    pool = make_pool()
    pool.prober.ask(2.0)
    assert pool.closed
    assert not pool.ended
    stats = pool.stats()
    assert (stats.size, stats.acquired, stats.connects, stats.probing) == (0, 0, 0, 1)


def test_to_ask_takes_nothing_from_a_full_pool(make_pool):
    pool = make_pool(max_size=1)
    with pool.lease():
        assert pool.prober.ask(2.0).in_recovery is False
        stats = pool.stats()
        assert (stats.size, stats.used, stats.waiters, stats.probing) == (1, 1, 0, 1)


def test_it_bears_the_name_of_the_pools_connections(make_pool, primary):
    pool = make_pool()
    pool.service = unique()
    pool.prober.ask(2.0)
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE %s"
    assert primary.execute(query, (f"pk:%:{pool.service}",)) == [(1,)]


@pytest.mark.parametrize("verb", ["close", "recycle", "pause"])
def test_what_ends_the_connections_of_a_pool_ends_this_one(verb, make_pool, primary, app):
    pool = make_pool(kwargs={"application_name": app})
    pool.prober.ask(2.0)
    getattr(pool, verb)()
    assert pool.stats().probing == 0
    wait_until(lambda: pids(primary, app) == [], message="the connection is left")


def test_a_pool_that_is_dropped_is_still_collected_at_once(make_pool, params):
    pool = ConnectionPool(kwargs=params)
    found = weakref.ref(pool)
    del pool
    assert found() is None


def test_a_standstill_is_counted_from_the_last_lease_that_began_or_ended(make_pool):
    pool = make_pool(max_size=2)
    assert pool.stats().standstill == 0.0
    first = pool.acquire()
    wait_until(lambda: pool.stats().standstill > 0.05, message="nothing stands still")
    second = pool.acquire()
    assert pool.stats().standstill < 0.05
    wait_until(lambda: pool.stats().standstill > 0.05, message="nothing stands still")
    second.release()
    assert pool.stats().standstill < 0.05
    first.release()
    assert pool.stats().standstill == 0.0


def test_a_forked_child_makes_its_own(make_pool, primary, app):
    pool = make_pool(kwargs={"application_name": app})
    pool.prober.ask(2.0)
    [parents] = pids(primary, app)
    inherited = pool.prober._connection
    # As a fork while another thread asks: nobody in the child will ever release it.
    pool.prober._turn.acquire()
    kept = pool.forget()
    assert inherited in kept
    assert not inherited.closed
    assert pool.stats().probing == 0
    pool.prober.ask(2.0)
    assert parents in pids(primary, app)
    assert len(pids(primary, app)) == 2
    inherited.close()
