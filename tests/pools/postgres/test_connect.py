"""Physical connects: what a session begins with, what goes wrong, and what is said of it."""

from __future__ import annotations

import math
import re
import socket
import time
import warnings

import psycopg
import pytest

from django_poolkit.pools.errors import PoolConfigError, PoolWarning
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.postgres.connect import SessionDefaults, sqlstate, summarise
from django_poolkit.pools.postgres.errors import PoolTimeout
from django_poolkit.testing import Cluster
from django_poolkit.testing.faults import silent_server
from django_poolkit.testing.waiting import wait_until
from tests.pools.postgres.pooler import Pooler
from tests.pools.support import assert_adds_up, fill

ZONE = {"TimeZone": "Asia/Tokyo"}
ALL = ZONE | {"role": "pg_read_all_data", "statement_timeout": "30s"}
ORIGINS = {
    "TimeZone": "TIME_ZONE",
    "role": "OPTIONS['assume_role']",
    "statement_timeout": "OPTIONS['pool']['statement_timeout']",
}


def shown(connection):
    names = ("TimeZone", "role", "statement_timeout")
    answer = [connection.execute(f"SHOW {name}").fetchone()[0] for name in names]
    connection.rollback()
    return answer


@pytest.mark.core
class TestStartUpOptions:
    def test_they_are_in_force_and_survive_a_reset(self, make_pool):
        pool = make_pool(max_size=1, reset="always", defaults=SessionDefaults(ALL, ORIGINS))
        for _ in range(3):
            with pool.acquire() as connection:
                assert shown(connection) == ["Asia/Tokyo", "pg_read_all_data", "30s"]
                connection.execute("SET TIME ZONE 'UTC'; SET statement_timeout = 0; SET ROLE NONE")
                connection.commit()
        assert pool.stats().resets == 3
        assert pool.stats().connects == 1

    def test_a_time_zone_costs_no_question(self, far_pool, proxy):
        plain = far_pool(max_size=1)
        fill(plain, 1)
        before = proxy.round_trips
        pool = far_pool(max_size=1, defaults=SessionDefaults(ZONE))
        fill(pool, 1)
        assert proxy.round_trips - before == before

    @pytest.mark.parametrize("value", ["a b", "a\\b", "it's", 'say "x"', " a  b "])
    def test_any_value_arrives(self, make_pool, value):
        pool = make_pool(max_size=1, defaults=SessionDefaults({"app.note": value}))
        with pool.acquire() as connection:
            assert connection.execute("SHOW app.note").fetchone() == (value,)

    @pytest.mark.parametrize("by", ["parameter", "string"])
    def test_the_users_own_stand_beside_them(self, make_pool, params, by):
        own = "-c work_mem=7MB"
        pool = (
            make_pool(max_size=1, kwargs={"options": own}, defaults=SessionDefaults(ZONE))
            if by == "parameter"
            else ConnectionPool(
                psycopg.conninfo.make_conninfo(**params, options=own),
                max_size=1,
                defaults=SessionDefaults(ZONE),
            )
        )
        with pool, pool.acquire() as connection:
            assert connection.execute("SHOW work_mem").fetchone() == ("7MB",)
            assert connection.execute("SHOW TimeZone").fetchone() == ("Asia/Tokyo",)

    def test_a_guard_of_the_server_is_one_of_them(self, make_pool):
        pool = make_pool(max_size=1, statement_timeout="1234ms", reset="always")
        for _ in range(2):
            with pool.acquire() as connection:
                assert connection.execute("SHOW statement_timeout").fetchone() == ("1234ms",)

    def test_a_guard_guards(self, make_pool):
        pool = make_pool(max_size=1, statement_timeout="50ms")
        with pool.acquire() as connection, pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(10)")

    def test_a_guard_of_libpq_is_a_parameter_of_the_connect(self, make_pool):
        pool = make_pool(max_size=1, keepalives_idle=77, tcp_user_timeout=5000)
        with pool.acquire() as connection:
            parameters = connection.info.get_parameters()
            assert parameters["keepalives_idle"] == "77"
            assert parameters["tcp_user_timeout"] == "5000"


@pytest.mark.core
class TestPoolers:
    @pytest.fixture(params=[False, True], ids=["drops", "refuses"])
    def pooler(self, request, primary):
        with Pooler(primary.host, primary.port, refuses=request.param) as pooler:
            yield pooler

    @pytest.fixture
    def make(self, make_pool, pooler):
        def make(**options):
            place = {"host": pooler.host, "port": pooler.port}
            return make_pool(kwargs=place, name="orders", **options)

        return make

    def test_what_did_not_arrive_is_set_with_one_warning_each(self, make):
        pool = make(max_size=3, defaults=SessionDefaults(ALL, ORIGINS))
        with pytest.warns(PoolWarning) as caught:
            fill(pool, 3)
        texts = sorted(str(warning.message) for warning in caught)
        assert texts.pop(-1).startswith("pool 'orders': a pooler stands in between, and the option")
        assert len(texts) == 3
        for text, origin in zip(texts, sorted(ORIGINS.values()), strict=True):
            assert text.startswith(f"pool 'orders': {origin} did not reach the server")
        leases = [pool.acquire() for _ in range(3)]
        for lease in leases:
            assert shown(lease.connection) == ["Asia/Tokyo", "pg_read_all_data", "30s"]
            lease.release()

    def test_it_is_set_again_after_each_reset(self, make):
        pool = make(max_size=1, reset="always", defaults=SessionDefaults(ALL, ORIGINS))
        with pytest.warns(PoolWarning):
            fill(pool, 1)
        for _ in range(3):
            with pool.acquire() as connection:
                assert shown(connection) == ["Asia/Tokyo", "pg_read_all_data", "30s"]
                connection.execute("SET TIME ZONE 'UTC'; SET ROLE NONE")
                connection.commit()
        assert pool.stats().connects == 1
        assert pool.stats().closed == {}

    def test_a_time_zone_alone_is_noticed(self, make):
        pool = make(max_size=1, defaults=SessionDefaults(ZONE, ORIGINS))
        with pytest.warns(PoolWarning) as caught:
            lease = pool.acquire()
        of_the_zone, of_the_pooler = sorted(str(warning.message) for warning in caught)
        assert "a pooler stands in between" in of_the_pooler
        assert "TIME_ZONE did not reach the server" in of_the_zone
        assert lease.connection.execute("SHOW TimeZone").fetchone() == ("Asia/Tokyo",)
        lease.release()

    def test_a_refusal_is_met_once(self, make, pooler):
        pool = make(max_size=3, num_workers=1, defaults=SessionDefaults(ALL, ORIGINS))
        with pytest.warns(PoolWarning):
            fill(pool, 3)
        assert pooler.refused in (0, 1)
        assert pool.stats().connect_errors == 0

    def test_a_warning_that_is_an_error_costs_no_connection(self, make):
        pool = make(max_size=1, defaults=SessionDefaults(ZONE, ORIGINS))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            lease = pool.acquire(timeout=5.0)
        assert lease.connection.execute("SHOW TimeZone").fetchone() == ("Asia/Tokyo",)
        lease.release()

    def test_without_defaults_nothing_is_asked_of_it(self, make):
        pool = make(max_size=1)
        fill(pool, 1)


@pytest.mark.core
class TestSummaries:
    @pytest.mark.parametrize(
        ("text", "state"),
        [
            ('FATAL:  password authentication failed for user "x"', "28P01"),
            ("fe_sendauth: no password supplied", "28P01"),
            ('FATAL:  role "x" does not exist', "28000"),
            ('FATAL:  no pg_hba.conf entry for host "1.2.3.4", user "x"', "28000"),
            ('FATAL:  database "x" does not exist', "3D000"),
            ("FATAL:  sorry, too many clients already", "53300"),
            ('FATAL:  too many connections for role "x"', "53300"),
            ("FATAL:  remaining connection slots are reserved for roles", "53300"),
            ("FATAL:  the database system is starting up", "57P03"),
            ("connection timeout expired", "08001"),
            ("Connection refused", "08001"),
            ("server closed the connection unexpectedly", "08006"),
            ("something else", None),
        ],
    )
    def test_a_state_is_read_from_the_words(self, text, state):
        assert sqlstate(psycopg.OperationalError(text)) == state

    def test_a_state_that_is_there_is_taken(self):
        assert sqlstate(psycopg.errors.UndefinedTable("x")) == "42P01"

    def test_it_is_one_line_without_address_and_password(self):
        error = psycopg.OperationalError(
            'connection failed: connection to server at "db.internal" (10.1.2.3), port 5433 failed:'
            " FATAL:  something about hunter2\nand more\nof it"
        )
        assert summarise(error, "hunter2", "") == "OperationalError: FATAL:  something about ***"

    def test_it_is_short(self):
        assert len(summarise(psycopg.OperationalError("x" * 10_000))) < 300

    def test_of_what_a_function_of_the_settings_raised_it_tells_class_and_place_alone(self):
        def password():
            raise LookupError("hunter2 is no secret of ours")

        with pytest.raises(LookupError) as caught:
            password()
        told = summarise(caught.value)
        assert re.fullmatch(r"LookupError raised in password, test_connect\.py:\d+", told)
        assert summarise(LookupError("hunter2")) == "LookupError"


def failure(pool, timeout=0.4):
    """Return what an acquire says that cannot succeed, and hold it against what it may say."""
    started = time.monotonic()
    with pytest.raises(PoolTimeout) as caught:
        pool.acquire(timeout=timeout)
    assert time.monotonic() - started < timeout * 3 + 0.5
    error = caught.value
    assert error.stats is not None
    assert error.stats.connect_errors >= 1
    assert (error.stats.used, error.stats.idle) == (0, 0)
    text = str(error)
    assert text.startswith(f"pool '{pool.name}': no connection within {timeout:.2f} s (used 0/")
    assert "last connect error: " in text
    assert error.stats.last_connect_error is not None
    assert error.stats.last_connect_error in text
    assert "\n" not in text
    return text


class TestBadInput:
    """One clear error, in bounded time, without an address or a password; nothing leaks."""

    @pytest.fixture
    def fails(self, make_pool, params, primary, app):
        def fails(timeout=0.4, **place):
            pool = make_pool(max_size=2, kwargs={"application_name": app, **place})
            text = failure(pool, timeout)
            assert str(place.get("port", params["port"])) not in text
            assert place.get("host", params["host"]) not in text
            assert place.get("password", params["password"]) not in text
            wait_until(lambda: pool.stats().size == 0)
            pool.close()
            assert primary.sessions(app) == []
            return text

        return fails

    def test_a_wrong_password(self, fails):
        text = fails(password="hunter2-is-not-it")
        assert "OperationalError [28P01]" in text
        assert "password authentication failed" in text

    def test_an_unknown_database(self, fails):
        assert '[3D000]: FATAL:  database "nowhere" does not exist' in fails(dbname="nowhere")

    def test_an_unknown_role(self, fails):
        text = fails(user="nobody_at_all")
        assert "[28" in text
        assert "nobody_at_all" in text

    def test_a_port_where_nobody_listens(self, fails):
        with socket.socket() as place:  # bound, and so nobody else's, but not listening
            place.bind(("127.0.0.1", 0))
            text = fails(port=place.getsockname()[1])
        assert "[08001]: Connection refused" in text.replace("connection", "Connection")

    def test_a_host_that_does_not_exist(self, fails):
        assert "[08001]" in fails(host="nowhere.invalid", timeout=3.0)

    def test_a_socket_that_does_not_exist(self, fails):
        assert "[08001]" in fails(host="/nowhere/at/all")

    def test_a_server_that_never_answers(self, make_pool):
        with silent_server() as place:
            where = {"host": place.host, "port": place.port, "connect_timeout": 3}
            pool = make_pool(max_size=2, num_workers=1, kwargs=where)
            started = time.monotonic()
            with pytest.raises(PoolTimeout, match=r"a connect has had no answer for \d\.\d s"):
                pool.acquire(timeout=1.4)
            assert time.monotonic() - started < 4.2
            assert pool.stats().connecting == 1
            # The connect itself is bounded too, and the next who waits is told the reason.
            wait_until(lambda: pool.stats().last_connect_error, 15.0)
            with pytest.raises(PoolTimeout, match=r"ConnectionTimeout \[08001\]") as caught:
                pool.acquire(timeout=0.1)
            assert str(place.port) not in str(caught.value)
            pool.close(timeout=0)

    def test_a_silent_server_does_not_stop_what_lives(self, far_pool, proxy):
        """Other clients still get what comes home while a connect hangs."""
        pool = far_pool(max_size=2)
        held = pool.acquire()
        with silent_server() as place:
            pool.kwargs = {**pool.kwargs, "host": place.host, "port": place.port}
            lease_pid = held.connection.info.backend_pid
            held.release()
            lease = pool.acquire()
            with pytest.raises(PoolTimeout):
                pool.acquire(timeout=0.2)
            assert lease.connection.info.backend_pid == lease_pid
            lease.release()
            pool.acquire(timeout=0).release()
            pool.close(timeout=0)

    def test_a_role_at_its_limit(self, make_pool, primary, params, app):
        role = app.replace("-", "_")
        primary.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'p' CONNECTION LIMIT 2")
        pool = make_pool(
            max_size=5, kwargs={"user": role, "password": "p", "application_name": app}
        )
        leases = [pool.acquire(), pool.acquire()]
        with pytest.raises(PoolTimeout, match=r"\[53300\]: FATAL:  too many connections for role"):
            pool.acquire(timeout=0.5)
        # What there is serves on, and the server is not stormed.
        assert pool.stats().connect_errors <= 8
        leases.pop().release()
        pool.acquire(timeout=0.5).release()
        leases.pop().release()
        assert_adds_up(pool, primary, app)
        pool.close()
        primary.execute(f"DROP ROLE {role}")

    def test_a_configure_that_fails(self, make_pool, primary, app):
        def configure(connection):
            raise ValueError("not like this")

        pool = make_pool(max_size=2, configure=configure, kwargs={"application_name": app})
        assert "ValueError raised in configure, test_connect.py:" in failure(pool)
        wait_until(lambda: primary.sessions(app) == [])

    def test_a_configure_that_leaves_a_transaction_open(self, make_pool, primary, app):
        pool = make_pool(
            max_size=2,
            configure=lambda connection: connection.execute("SELECT 1"),
            kwargs={"application_name": app},
        )
        assert "configure left the connection in status INTRANS" in failure(pool)
        wait_until(lambda: primary.sessions(app) == [])

    @pytest.mark.parametrize(
        ("factory", "options", "text"),
        [
            ("psycopg.Cursor", {}, "must be a class derived from psycopg.Cursor, "),
            (psycopg.AsyncCursor, {}, "without a name; got AsyncCursor"),
            (psycopg.ServerCursor, {}, "without a name; got ServerCursor"),
            (lambda *args: None, {}, "without a name; got a function"),
            (psycopg.ClientCursor, {"prepare": True}, "ClientCursor binds parameters in the cli"),
        ],
    )
    def test_a_cursor_factory_of_the_wrong_kind(
        self, make_pool, primary, app, factory, options, text
    ):
        kwargs = {"cursor_factory": factory, "application_name": app}
        pool = make_pool(max_size=2, kwargs=kwargs, **options)
        said = failure(pool)
        assert "PoolConfigError: ['cursor_factory'] " in said
        assert text in said
        assert primary.sessions(app) == []

    def test_a_default_that_the_server_refuses(self, make_pool):
        pool = make_pool(max_size=1, defaults=SessionDefaults({"TimeZone": "Nowhere/Land"}))
        assert "Nowhere/Land" in failure(pool)

    def test_a_password_that_is_called_for_and_fails(self, make_pool, params):
        def kwargs():
            raise LookupError("the vault is sealed")

        with ConnectionPool(kwargs=kwargs, max_size=1) as pool:
            assert "LookupError" in failure(pool)

    def test_a_password_that_is_called_for_rotates(self, params, primary, app):
        passwords = iter(["old", params["password"]])

        def kwargs():
            return params | {"password": next(passwords), "application_name": app}

        with ConnectionPool(kwargs=kwargs, max_size=1) as pool:
            pool.acquire(timeout=5.0).release()
            assert pool.stats().connect_errors == 1
            assert pool.stats().last_connect_error is None
            assert_adds_up(pool, primary, app)

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"maxsize": 3}, r"ConnectionPool\['maxsize'\]: .* Did you mean 'max_size'\?"),
            ({"min_size": 5, "max_size": 3}, r"\['max_size'\] \(3\) is below \['min_size'\] \(5\)"),
            ({"timeout": -1}, r"\['timeout'\] must be seconds, 0 or more; got -1 of type int"),
            ({"timeout": math.nan}, r"\['timeout'\] must be seconds"),
            ({"max_size": True}, r"\['max_size'\] must be a whole number"),
            ({"statement_timeout": 30}, r"\['statement_timeout'\] must be written with its unit"),
            ({"timeout": "hunter2"}, r"got a value of type str"),
        ],
    )  # fmt: skip
    def test_an_option_that_cannot_be_honoured(self, params, options, text):
        with pytest.raises(PoolConfigError, match=text) as caught:
            ConnectionPool(kwargs=params, **options)
        assert params["password"] not in str(caught.value)
        assert "hunter2" not in str(caught.value)

    def test_a_config_and_options(self, params):
        from django_poolkit.pools.config import PoolConfig

        with pytest.raises(PoolConfigError, match="either config= or single options"):
            ConnectionPool(kwargs=params, config=PoolConfig(), max_size=3)

    @pytest.mark.parametrize("timeout", [math.inf, 1e9, 0.001])
    def test_any_timeout_can_connect(self, make_pool, timeout):
        pool = make_pool(max_size=1, timeout=timeout)
        pool.acquire(timeout=10.0).release()


def test_a_server_at_max_connections():
    settings = {
        "max_connections": "6", "superuser_reserved_connections": "0", "max_wal_senders": "0",
    }  # fmt: skip
    with Cluster(settings=settings) as cluster:
        node = cluster.primary
        others = [node.connect() for _ in range(4)]
        with ConnectionPool(kwargs=node.conninfo(), max_size=5) as pool:
            leases = [pool.acquire(timeout=5.0), pool.acquire(timeout=5.0)]
            with pytest.raises(PoolTimeout, match=r"\[53300\]: FATAL:  sorry, too many clients"):
                pool.acquire(timeout=0.7)
            # It keeps what it has, and does not storm the server.
            assert pool.stats().used == 2
            assert pool.stats().connect_errors <= 10
            others.pop().close()
            pool.acquire(timeout=5.0).release()
            for lease in leases:
                lease.release()
            assert pool.stats().idle == 3
        for other in others:
            other.close()


def test_a_password_is_shown_nowhere(make_pool, params, caplog):
    caplog.set_level("DEBUG")
    pool = make_pool(max_size=1)
    with pool.acquire() as connection:
        shown = [repr(pool), repr(connection), pool.name, str(pool.stats()), str(pool.leases())]
    bad = make_pool(max_size=1, kwargs={"password": params["password"] + "x"})
    shown += [failure(bad, 0.3), repr(bad), caplog.text]
    for text in shown:
        assert params["password"] not in text
