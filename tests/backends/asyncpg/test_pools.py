"""`asyncpg_pools`: by the same entry of `DATABASES`, and seen and steered like the others."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIHandler
from django.db import connection, connections
from django.test import override_settings

from django_poolkit import PoolClosed, asyncpg_pools, lifespan, registry
from django_poolkit.asgi import Poolkit
from django_poolkit.backends.asyncpg.parameters import connect_parameters, session_settings
from django_poolkit.conf.asyncpg import verify_asyncpg
from django_poolkit.conf.health import health_config
from django_poolkit.control import answers
from django_poolkit.health import groups, process
from django_poolkit.lifespan import course
from django_poolkit.metrics.readings import readings
from django_poolkit.testing import Node
from tests.lifespan.support import Wire, looped
from tests.pools.asyncpg.support import until

pytestmark = pytest.mark.django_db(transaction=True)


@contextmanager
def asyncpg_set(**aliases: dict[str, Any]) -> Iterator[None]:
    """Have `POOLKIT["ASYNCPG"]` say so, and begin and end without a pool."""
    with override_settings(POOLKIT={**settings.POOLKIT, "ASYNCPG": aliases}):
        yield
    registry.asyncpg.close_all()


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """Leave no pool behind."""
    yield
    registry.asyncpg.close_all()


async def _value(statement: str) -> Any:
    async with asyncpg_pools["default"].lease() as leased:
        return await leased.fetchval(statement)


def test_a_pool_leads_where_djangos_connections_lead() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_database(), current_user, current_setting('TimeZone')")
        expected = cursor.fetchone()

    async def main() -> tuple[Any, ...]:
        async with asyncpg_pools["default"].lease() as leased:
            row = await leased.fetchrow(
                "SELECT current_database()::text, current_user::text, current_setting('TimeZone'),"
                " current_setting('application_name')"
            )
            return tuple(row)

    *same, name = asyncio.run(main())
    assert tuple(same) == expected
    assert name.startswith("pk:")
    pool = asyncpg_pools["default"]
    assert pool is asyncpg_pools["default"]
    assert (pool.name, pool.aliases) == ("asyncpg:default", ("default",))


def test_other_settings_make_another_pool_and_what_is_closed_is_made_anew() -> None:
    first = asyncpg_pools["default"]
    with asyncpg_set(default={"max_size": 3}):
        second = asyncpg_pools["default"]
        assert (first.max_size, second.max_size) == (10, 3)
        assert list(asyncpg_pools) == ["default"]
    assert second.ended
    third = asyncpg_pools["default"]
    assert third not in (first, second)
    wrapper: Any = connection
    wrapper.close_pool()
    assert third.ended
    assert not asyncpg_pools["default"].ended


def test_what_is_no_alias_is_refused() -> None:
    for name in ("nowhere", "default/1"):
        with pytest.raises(KeyError):
            asyncpg_pools[name]


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"nowhere": {}}, r"POOLKIT\['ASYNCPG'\]\['nowhere'\]"),
        ({"default": {"max_sise": 1}}, r"\['ASYNCPG'\]\['default'\]\['max_sise'\].*'max_size'"),
        ({"default": {"TIMEOUT": "5"}}, r"\['default'\]\['TIMEOUT'\] must be seconds"),
        ({"default": {"password": "secret-word"}}, "DATABASES"),
        ({"default": []}, "must be a dict"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused_at_start(section: Any, words: str) -> None:
    with (
        override_settings(POOLKIT={**settings.POOLKIT, "ASYNCPG": section}),
        pytest.raises(ImproperlyConfigured, match=words) as caught,
    ):
        verify_asyncpg()
    assert "secret-word" not in str(caught.value)


def test_an_entry_of_databases_in_asyncpgs_words(tmp_path: Path, monkeypatch: Any) -> None:
    connect, server, sockets = connect_parameters(
        "default",
        {
            "dbname": "shop", "user": "me", "password": "p", "host": "a, b", "port": "5433,5434",
            "sslmode": "verify-full", "sslrootcert": "/a b/ca.pem", "connect_timeout": 7,
            "application_name": "mine", "options": "-c jit=off", "keepalives_idle": 30,
            "target_session_attrs": "read-write", "passfile": "/p", "client_encoding": "UTF8",
            "cursor_factory": object, "prepare_threshold": None, "gssencmode": "disable",
        },
    )  # fmt: skip
    assert connect == {
        "database": "shop", "user": "me", "password": "p", "host": ["a", "b"],
        "port": [5433, 5434], "timeout": 7.0, "passfile": "/p",
        "target_session_attrs": "read-write",
        "dsn": "postgresql://?sslmode=verify-full&sslrootcert=%2Fa+b%2Fca.pem",
    }  # fmt: skip
    assert server == {"application_name": "mine", "options": "-c jit=off"}
    assert sockets == {"keepalives_idle": 30}
    with pytest.raises(ImproperlyConfigured, match=r"\['OPTIONS'\]\['require_auth'\]"):
        connect_parameters("default", {"require_auth": "scram-sha-256"})
    services = tmp_path / "services.conf"
    services.write_text("[shop]\nhost=a\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    assert connect_parameters("default", {"service": "shop"})[0]["service"] == "shop"
    with pytest.raises(ImproperlyConfigured, match="service file"):
        connect_parameters("default", {"service": "other"})


def test_the_role_the_guards_and_the_isolation_of_an_alias_hold_there_too(primary: Node) -> None:
    wrapper = connections.create_connection("default")
    options = {
        "assume_role": "pg_read_all_data", "isolation_level": 3,
        "pool": {"statement_timeout": "7s"},
    }  # fmt: skip
    wrapper.settings_dict = {**wrapper.settings_dict, "OPTIONS": options}
    assert session_settings(wrapper) == {
        "TimeZone": "UTC", "role": "pg_read_all_data", "statement_timeout": "7s",
        "default_transaction_isolation": "repeatable read",
    }  # fmt: skip
    before = connections.settings["default"]["OPTIONS"]
    connections.settings["default"]["OPTIONS"] = options
    try:
        with asyncpg_set(default={}):
            for name, value in session_settings(wrapper).items():
                for _ in range(2):  # and after a reset
                    assert asyncio.run(_twice(name)) == [value, value]
    finally:
        connections.settings["default"]["OPTIONS"] = before


async def _twice(name: str) -> list[Any]:
    found = []
    for _ in range(2):
        async with asyncpg_pools["default"].lease() as leased:
            found.append(await leased.fetchval(f"SHOW {name}"))
            await leased.execute("RESET ROLE; SET statement_timeout = 0")
            await leased.execute("SET TimeZone = 'Asia/Tokyo'")
    return found


def test_a_callable_password_is_called(primary: Node) -> None:
    calls = []

    def password() -> str:
        calls.append(1)
        return str(primary.password or "")

    entry = connections.settings["default"]
    before = entry["PASSWORD"]
    entry["PASSWORD"] = password
    try:
        assert asyncio.run(_value("SELECT 1")) == 1
        assert calls == [1]
    finally:
        entry["PASSWORD"] = before


def test_a_pool_is_seen_and_steered_as_the_others_are() -> None:
    async def main() -> None:
        pool = asyncpg_pools["default"]
        lease = await pool.acquire()
        await lease.connection.fetchval("SELECT 1")
        (found,) = [
            each
            for each in answers.status({"leases": True})["pools"]
            if each["name"] == "asyncpg:default"
        ]
        assert (found["used"], found["kind"], found["aliases"]) == (1, "asyncpg", ("default",))
        held = [
            each
            for each in answers.status({"leases": True, "databases": ["default"]})["leases"]
            if each["pool"] == "asyncpg:default"
        ]
        assert [each["statement"] for each in held] == ["SELECT"]
        answers.pause({"databases": ["default"], "seconds": 30.0})
        assert pool.stats().state == "paused"
        names = [each.name for each in groups.members("ready", health_config()).told]
        assert names
        assert [each.reason for each in process.readiness()][:1] == ["paused"]
        answers.resume({"databases": ["default"]})
        answers.resize({"max_size": 4})
        assert pool.max_size == 4
        answers.recycle({})
        answers.kill_lease({"pool": pool.name, "key": pool.leases()[0].key})
        await lease.release()
        series = {key[0] for key in next(iter(readings.take().values()))}
        assert "asyncpg:default" in series
        await pool.close()

    asyncio.run(main())


def test_a_pool_has_a_check_of_its_own() -> None:
    with asyncpg_set(default={"max_size": 1}):
        config = health_config()
        assert "asyncpg:default" in groups.names(config)
        check = groups.named("asyncpg:default", config)
        assert check.look(1.0).status == "pass"

        async def main() -> list[Any]:
            pool = asyncpg_pools["default"]
            lease = await pool.acquire()
            waiting = asyncio.create_task(pool.acquire())
            await until(lambda: pool.stats().waiters)
            found = [check.look(1.0)]
            pool.pause()
            found.append(check.look(1.0))
            pool.resume()
            await lease.release()
            await (await waiting).release()
            found.append(check.look(1.0))
            await pool.close()
            return found

        verdicts = [(each.status, each.reason) for each in asyncio.run(main())]
        assert verdicts == [("warn", "saturated"), ("fail", "paused"), ("pass", None)]


def test_a_server_opens_its_pools_and_closes_them_for_good(primary: Node) -> None:
    with asyncpg_set(default={"min_size": 2}):

        @looped
        async def main() -> None:
            wire = Wire(
                Poolkit(ASGIHandler()), **{"django_poolkit.lifespan": {"pools": "required"}}
            )
            await wire.ask("startup")
            assert lifespan.status()["asyncpg:default"] == ("ready", "")
            pool = wire.state["asyncpg:default"]
            assert pool is asyncpg_pools["default"]
            lease = await pool.acquire()
            await lease.release()
            await wire.ask("shutdown")
            assert pool.ended
            assert pool.stats().size == 0
            with pytest.raises(PoolClosed, match="shutting down"):
                asyncpg_pools["default"]
            course.forget()
            assert asyncpg_pools["default"] is not pool

        main()


WITHOUT = """
import sys
sys.modules["asyncpg"] = None
import django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["django_poolkit"],
    DATABASES={"default": {"ENGINE": "django_poolkit.backends.postgresql", "NAME": "x"}},
    POOLKIT={"ASYNCPG": {"default": {"max_size": 2}}, "CONTROL": {"ENABLED": False}},
)
django.setup()
from django.core.exceptions import ImproperlyConfigured
from django_poolkit import asyncpg_pools, connection_pools
assert list(asyncpg_pools) == ["default"]
assert connection_pools["default"].stats().size == 0
try:
    asyncpg_pools["default"]
except ImproperlyConfigured as error:
    print(error)
"""


def test_without_asyncpg_nothing_else_breaks_and_the_error_says_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT], capture_output=True, text=True, check=False
    )
    assert done.stdout == (
        "asyncpg_pools needs asyncpg 0.32: pip install django-poolkit[asyncpg]\n"
    ), done.stderr
