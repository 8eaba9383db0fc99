"""What a server counts of its own connections."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import Any

import psycopg
import pytest

from django_poolkit.pools.postgres import activity, probe
from django_poolkit.pools.postgres.activity import Activity, Sessions
from django_poolkit.testing import Node
from django_poolkit.testing.faults import TCPProxy, silent_server
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import Call, unique

SECRET = "pl%ante@d"


@pytest.fixture
def ordinary(primary: Node, params: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Connect parameters of a role that may see nothing of others."""
    primary.execute("CREATE ROLE ordinary LOGIN PASSWORD 'ordinary'")
    yield {**params, "user": "ordinary", "password": "ordinary"}
    primary.execute("DROP ROLE ordinary")


def named(found: Activity, name: str) -> Sessions:
    [sessions] = [one for one in found.sessions if one.application_name == name]
    return sessions


def test_sessions_are_counted_by_their_name(params: dict[str, Any]) -> None:
    name, other = unique(), unique()
    with (
        psycopg.connect(**params, application_name=name, autocommit=True),
        psycopg.connect(**params, application_name=name) as second,
        psycopg.connect(**params, application_name=other, autocommit=True),
    ):
        second.execute("SELECT 1")
        found = activity.ask(params)
        assert named(found, name).connections == 2
        assert named(found, name).idle_in_transaction == 1
        assert 0 < named(found, name).longest < 10
        assert named(found, other).connections == 1
        assert named(found, other).idle_in_transaction == 0
        assert named(found, other).longest == 0


def test_one_that_failed_in_its_transaction_is_idle_in_it(params: dict[str, Any]) -> None:
    name = unique()
    with psycopg.connect(**params, application_name=name) as connection:
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 1/0")
        assert named(activity.ask(params), name).idle_in_transaction == 1


def test_who_asks_is_not_counted(params: dict[str, Any]) -> None:
    assert not [s for s in activity.ask(params).sessions if s.application_name == activity.NAME]


def test_an_ordinary_role_counts_the_same_and_knows_of_no_state(
    params: dict[str, Any], ordinary: dict[str, Any]
) -> None:
    name = unique()
    with psycopg.connect(**params, application_name=name, autocommit=True):
        mine, theirs = activity.ask(params), activity.ask(ordinary)
        assert named(theirs, name).connections == named(mine, name).connections == 1
        assert named(theirs, name).idle_in_transaction is None
        assert sum(s.connections for s in theirs.sessions) == sum(
            s.connections for s in mine.sessions
        )


def test_a_parallel_worker_is_no_connection(primary: Node, params: dict[str, Any]) -> None:
    name = unique()
    workers = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'parallel worker'"
    with psycopg.connect(**params, application_name=name, autocommit=True) as connection:
        connection.execute("SET debug_parallel_query = on")  # a worker for whatever can have one
        call = Call(connection.execute, "SELECT pg_sleep(60)")
        wait_until(lambda: primary.execute(workers), message="no worker")
        try:
            assert named(activity.ask(params), name).connections == 1
        finally:
            connection.cancel()
        with pytest.raises(psycopg.errors.QueryCanceled):
            call.result()


def test_it_knows_what_may_be_had(primary: Node, params: dict[str, Any]) -> None:
    found = activity.ask(params)
    [[most, reserved, of_superusers]] = primary.execute(
        "SELECT current_setting('max_connections')::int, current_setting('reserved_connections')"
        "::int, current_setting('superuser_reserved_connections')::int"
    )
    assert of_superusers > 0
    assert (found.max_connections, found.reserved) == (most, reserved + of_superusers)


def test_one_server_is_known_by_two_addresses(primary: Node, params: dict[str, Any]) -> None:
    by_socket = {**params, "host": str(primary.socket_directory), "dbname": "postgres"}
    assert activity.ask(params).server == activity.ask(by_socket).server


def test_a_password_may_be_a_function(params: dict[str, Any]) -> None:
    password = params["password"]
    assert activity.ask({**params, "password": lambda: password}).max_connections

    def broken() -> str:
        raise LookupError("no vault")

    told = r"^LookupError raised in broken, test_activity\.py:\d+$"
    with pytest.raises(ConnectionError, match=told):
        activity.ask({**params, "password": broken})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"password": SECRET}, r"^OperationalError \[28P01\]: FATAL:  password authentication"),
        ({"password": lambda: SECRET}, r"^OperationalError \[28P01\]"),
        ({"password": SECRET, "port": 1}, r"^OperationalError \[08001\]: Connection refused"),
        ({"password": SECRET, "dbname": SECRET}, r"^OperationalError \[28P01\]"),
        ({"password": SECRET, "host": f"no-{SECRET}.invalid"}, r"^OperationalError \[08001\]"),
    ],
)
def test_an_error_names_no_secret_and_no_address(
    params: dict[str, Any], change: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConnectionError, match=text) as error:
        activity.ask({**params, **change})
    assert error.value.__cause__ is None
    for secret in (SECRET, "%40", params["host"], str(params["port"])):
        assert secret not in str(error.value)


def test_a_server_that_says_nothing_is_given_up(params: dict[str, Any]) -> None:
    started = monotonic()
    with silent_server() as silent, pytest.raises(ConnectionError, match="timeout"):
        activity.ask({**params, "host": silent.host, "port": silent.port, "connect_timeout": 60})
    assert monotonic() - started < 5.0


def test_a_network_that_goes_silent_after_the_connect_is_given_up(
    params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = probe.execute
    with TCPProxy(params["host"], params["port"]) as proxy:

        def execute(connection: Any, statements: bytes, timeout: float) -> Any:
            proxy.stall()
            assert timeout <= 5.0
            return real(connection, statements, 0.2)

        monkeypatch.setattr(probe, "execute", execute)
        with pytest.raises(ConnectionError):
            activity.ask({**params, "host": proxy.host, "port": proxy.port})
