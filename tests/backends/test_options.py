"""Django's own OPTIONS go on working, and what cannot be honoured is refused with its path."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connections
from django.db import connection as default_connection
from django.db.backends.signals import connection_created
from django.test import override_settings
from psycopg import Connection, IsolationLevel
from psycopg.pq import Conninfo

from django_poolkit import PoolTimeout, registry
from django_poolkit.apps import PoolkitConfig
from django_poolkit.conf.databases import pool_config, verify_database, verify_databases
from django_poolkit.pools.config import PoolConfig
from django_poolkit.pools.postgres import ConnectionPool

# Typed by django-stubs as any backend's.
connection: Any = default_connection

pytestmark = [pytest.mark.core, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def wrapper() -> Iterator[Callable[..., Any]]:
    """Return a function that makes wrappers of the test database with other settings."""
    made = []

    def make(alias: str = "default", *, pool: Any = True, **changes: Any) -> Any:
        settings = deepcopy(connection.settings_dict)
        options = changes.pop("OPTIONS", {})
        settings.update(changes)
        settings["OPTIONS"] = {"pool": pool, **options}
        copy: Any = type(connections["default"])(settings, alias)
        made.append(copy)
        return copy

    yield make
    for copy in made:
        copy.close()
        copy.close_pool()


def ask(wrapper: Any, sql: str) -> Any:
    with wrapper.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]


def test_pool_true_absent_and_a_dict_are_pooled_and_false_is_not(wrapper: Any) -> None:
    assert wrapper(pool=True).pool is not None
    assert wrapper(pool={}).pool is not None
    absent = wrapper()
    del absent.settings_dict["OPTIONS"]["pool"]
    assert absent.pool is not None
    for off in (False, None):
        plain = wrapper(pool=off)
        assert plain.pool is None
        assert ask(plain, "SELECT 1") == 1
        assert type(plain.connection).__name__ == "Connection"


def test_djangos_pool_keys_keep_their_meaning(wrapper: Any) -> None:
    pool = wrapper(pool={"min_size": 1, "max_size": 3, "timeout": 2, "max_lifetime": 60}).pool
    assert (pool.min_size, pool.max_size, pool.timeout, pool.max_lifetime) == (1, 3, 2, 60)
    assert wrapper(pool={"min_size": 2, "max_size": None}).pool.max_size == 2


def test_defaults_are_those_of_the_documentation(wrapper: Any) -> None:
    pool = wrapper("shop").pool
    assert (pool.min_size, pool.max_size, pool.timeout, pool.max_waiting) == (0, 10, 5.0, 0)
    assert pool.config.reset == "request"
    assert pool.name == "shop"


def test_isolation_level_is_in_force_and_survives_tampering(wrapper: Any) -> None:
    serializable = wrapper(OPTIONS={"isolation_level": IsolationLevel.SERIALIZABLE})
    for _ in range(2):
        serializable.set_autocommit(False)
        assert ask(serializable, "SHOW transaction_isolation") == "serializable"
        serializable.rollback()
        serializable.connection.isolation_level = None
        serializable.close()


def test_an_invalid_isolation_level_is_refused(wrapper: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="Invalid transaction isolation level 99"):
        wrapper(OPTIONS={"isolation_level": 99}).ensure_connection()


def test_assume_role_and_time_zone_survive_a_reset(wrapper: Any) -> None:
    role = wrapper(OPTIONS={"assume_role": "pg_read_all_data"}, TIME_ZONE="Africa/Nairobi")
    for _ in range(2):
        assert ask(role, "SELECT current_user") == "pg_read_all_data"
        assert ask(role, "SHOW TimeZone") == "Africa/Nairobi"
        with role.cursor() as cursor:
            cursor.execute("RESET ROLE; SET TIME ZONE 'UTC'")
        role.close()


def test_users_own_start_up_options_are_merged(wrapper: Any) -> None:
    merged = wrapper(OPTIONS={"options": "-c lock_timeout=1234"}, TIME_ZONE="Asia/Tokyo")
    assert ask(merged, "SHOW lock_timeout") == "1234ms"
    assert ask(merged, "SHOW TimeZone") == "Asia/Tokyo"


def test_server_side_guards_are_in_force_after_a_reset(wrapper: Any) -> None:
    guarded = wrapper(pool={"statement_timeout": "2s", "keepalives_idle": 7})
    ask(guarded, "SELECT set_config('statement_timeout', '0', false)")
    guarded.close()
    assert ask(guarded, "SHOW statement_timeout") == "2s"
    assert guarded.connection.info.get_parameters()["keepalives_idle"] == "7"


def test_server_side_binding_and_prepared_statements(wrapper: Any) -> None:
    binding = wrapper(OPTIONS={"server_side_binding": True})
    assert ask(binding, "SELECT 40 + 2") == 42
    prepared = wrapper(pool={"prepare": True})
    ask(prepared, "SELECT 1")
    assert prepared.connection.prepare_threshold == 5
    assert connection.settings_dict["OPTIONS"]["pool"] is not True
    connection.ensure_connection()
    assert connection.connection.prepare_threshold is None


def test_check_and_configure_are_called(wrapper: Any) -> None:
    calls: list[str] = []
    pool = {"check": lambda c: calls.append("check"), "configure": lambda c: calls.append("new")}
    checked = wrapper(pool=pool)
    for _ in range(2):
        checked.ensure_connection()
        checked.close()
    assert calls == ["new", "check", "check"]


def test_what_configure_set_is_in_force_after_a_reset(wrapper: Any) -> None:
    set_role = wrapper(pool={"configure": lambda c: c.execute("SET ROLE pg_read_all_data")})
    for _ in range(3):
        assert ask(set_role, "SELECT current_user") == "pg_read_all_data"
        set_role.close()
    assert set_role.pool.stats().connects == 1
    assert set_role.pool.stats().resets >= 2


def test_a_pool_that_was_closed_by_hand_is_replaced(wrapper: Any) -> None:
    one = wrapper()
    one.ensure_connection()
    old = one.pool
    one.close()
    old.close()
    assert ask(one, "SELECT 1") == 1
    assert one.pool is not old


def test_a_password_function_works_without_a_pool_and_for_dbshell(wrapper: Any) -> None:
    secret = str(connection.settings_dict["PASSWORD"])
    plain = wrapper(pool=False, PASSWORD=lambda: secret)
    assert ask(plain, "SELECT 1") == 1
    pooled = wrapper(PASSWORD=lambda: secret)
    with pooled._nodb_cursor() as cursor:
        cursor.execute("SELECT 1")
    _, environment = pooled.client.settings_to_cmd_args_env(pooled.settings_dict, [])
    assert environment["PGPASSWORD"] == secret
    given = wrapper(PASSWORD="no.path-of.anything")
    _, environment = given.client.settings_to_cmd_args_env(given.settings_dict, [])
    assert environment["PGPASSWORD"] == "no.path-of.anything"


def test_start_up_options_of_the_environment_are_kept(
    wrapper: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c search_path=app")
    one = wrapper(TIME_ZONE="Asia/Tokyo")
    assert ask(one, "SHOW search_path") == "app"
    assert ask(one, "SHOW TimeZone") == "Asia/Tokyo"


def test_start_up_options_of_a_service_are_kept(
    wrapper: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "services"
    file.write_text("[shop]\noptions=-c search_path=app\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    one = wrapper(OPTIONS={"service": "shop"}, TIME_ZONE="Asia/Tokyo")
    for _ in range(2):
        assert ask(one, "SHOW search_path") == "app"
        assert ask(one, "SHOW TimeZone") == "Asia/Tokyo"
        one.close()


def test_a_malformed_connection_string_is_not_quoted() -> None:
    pool = ConnectionPool("postgresql://postgres:hun:ter2@[::1/postgres", timeout=0.3)
    with pytest.raises(PoolTimeout, match="cannot be parsed") as caught:
        pool.acquire()
    assert "hun" not in str(caught.value)
    pool.close()


def test_a_password_may_be_a_function_called_for_each_new_connection(wrapper: Any) -> None:
    calls = []
    password = connection.settings_dict["PASSWORD"]

    def rotating() -> str:
        calls.append(1)
        return str(password)

    rotated = wrapper(PASSWORD=rotating)
    for _ in range(2):
        ask(rotated, "SELECT 1")
        rotated.close()
    assert len(calls) == 1
    rotated.pool.recycle()
    ask(rotated, "SELECT 1")
    assert len(calls) == 2


def the_password() -> str:
    """Know the password, for those who find this by its path."""
    return str(connection.settings_dict["PASSWORD"])


def test_credentials_may_be_named_by_their_path(wrapper: Any) -> None:
    named = {"credentials": f"{__name__}.the_password", "credentials_ttl": 60}
    one, two = wrapper("one", pool=named, PASSWORD=""), wrapper("two", pool=named, PASSWORD="")
    assert ask(one, "SELECT 1") == 1
    assert one.pool is two.pool, "equal paths are equal settings"
    with one._nodb_cursor() as cursor:
        cursor.execute("SELECT 1")
    _, environment = one.client.settings_to_cmd_args_env(one.settings_dict, [])
    assert environment["PGPASSWORD"] == the_password()
    assert the_password() not in f"{one.pool!r} {one.pool.config!r} {registry.pools!r}"


def test_credentials_may_tell_the_user(wrapper: Any) -> None:
    user = connection.settings_dict["USER"]

    def supply(place: Any) -> dict[str, str]:
        assert place["user"] == "nobody"
        assert place["host"] == connection.settings_dict["HOST"]
        return {"user": user, "password": the_password()}

    one = wrapper(pool={"credentials": supply}, USER="nobody", PASSWORD="")
    assert ask(one, "SELECT session_user") == user
    arguments, environment = one.client.settings_to_cmd_args_env(one.settings_dict, [])
    assert user in arguments
    assert environment["PGPASSWORD"] == the_password()


def test_two_functions_are_two_pools_and_one_is_one(wrapper: Any) -> None:
    def password() -> str:
        return the_password()

    one, two = wrapper("one", PASSWORD=password), wrapper("two", PASSWORD=password)
    assert one.pool is two.pool
    assert wrapper("three", PASSWORD=lambda: the_password()).pool is not one.pool


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            {"PASSWORD": "s3cret", "OPTIONS": {"pool": {"credentials": "a.b"}}},
            r"\['OPTIONS'\]\['pool'\]\['credentials'\] supplies the password.*\['PASSWORD'\] is",
        ),
        (
            {"PASSWORD": the_password, "OPTIONS": {"pool": {"credentials": "a.b"}}},
            r"supplies the password, and DATABASES\['default'\]\['PASSWORD'\] is another",
        ),
        ({"PASSWORD": lambda a, b: ""}, r"DATABASES\['default'\]\['PASSWORD'\] must be a function"),
        ({"OPTIONS": {"pool": {"credentials": "s3cret"}}}, r"\['credentials'\] must be a function"),
        ({"OPTIONS": {"pool": {"credentials_ttl": -1}}}, r"\['credentials_ttl'\] must be seconds"),
    ],
)
def test_credentials_that_contradict_themselves_are_refused(entry: Any, said: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=said) as caught:
        pool_config("default", entry)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "DATABASES['one']['PASSWORD'] returned NoneType, not a password as a str"),
        (LookupError("s3cret"), "LookupError raised in password, test_options.py:"),
    ],
)
def test_a_password_function_that_gives_none_is_named(wrapper: Any, answer: Any, said: str) -> None:
    def password() -> Any:
        if answer is not None:
            raise answer
        return answer

    one = wrapper("one", pool={"timeout": 0.5}, PASSWORD=password)
    with pytest.raises(OperationalError) as caught:
        one.ensure_connection()
    assert said in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert one.pool.stats().used == 0


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_receiver_that_raises_leaves_nothing_leased(wrapper: Any, mode: str) -> None:
    failing = [True]

    def receiver(**kwargs: Any) -> None:
        if failing:
            raise LookupError("the receiver")

    one = wrapper(pool={"mode": mode, "max_size": 1, "timeout": 0.5})
    connection_created.connect(receiver)
    try:
        for _ in range(3):
            with pytest.raises(LookupError, match="the receiver"):
                ask(one, "SELECT 1")
            one.close()
            assert one.pool.stats().used == 0
        failing.clear()
        assert ask(one, "SELECT 1") == 1
    finally:
        connection_created.disconnect(receiver)


def test_a_pool_may_be_named(wrapper: Any) -> None:
    assert wrapper("one", pool={"name": "orders"}).pool.name == "orders"
    assert wrapper("two", pool={"name": "orders", "max_size": 3}).pool.name == "orders~2"


def test_two_aliases_of_one_content_share_a_pool_and_other_content_does_not(wrapper: Any) -> None:
    one, two = wrapper("one"), wrapper("two")
    assert one.pool is two.pool
    assert one.pool.stats().aliases == ("one", "two")
    other = wrapper("one", TIME_ZONE="Asia/Tokyo")
    assert other.pool is not one.pool
    assert other.pool.name == "one~2"


@override_settings(USE_TZ=True)
def test_an_overridden_time_zone_gets_a_pool_of_its_own(wrapper: Any) -> None:
    before = wrapper()
    assert ask(before, "SHOW TimeZone") == "UTC"
    with override_settings(USE_TZ=False, TIME_ZONE="Asia/Tokyo"):
        after = wrapper()
        assert ask(after, "SHOW TimeZone") == "Asia/Tokyo"
        assert after.pool is not before.pool


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        ({"max_sise": 3}, r"\['pool'\]\['max_sise'\].*Did you mean 'max_size'"),
        ({"max_size": "3"}, r"\['pool'\]\['max_size'\].*whole number.*type str"),
        ({"min_size": 5, "max_size": 3}, r"\['max_size'\] \(3\) is below \['min_size'\] \(5\)"),
        ({"timeout": -1}, r"\['timeout'\] must be seconds, 0 or more; got -1"),
        ({"timeout": True}, r"\['timeout'\].*type bool"),
        ({"reset": "sometimes"}, r"\['reset'\] must be 'dirty' or 'request' or 'always'"),
        ({"mode": "statement"}, r"\['mode'\] must be"),
        ({"statement_timeout": 30}, r"\['statement_timeout'\].*unit, as '30s'"),
        ({"kwargs": {"password": "s3cret"}}, r"\['kwargs'\] is not yours to set"),
        (["max_size"], r"must be True, False or a dict of options; got a list"),
    ],
)
def test_a_bad_option_is_refused_with_its_path(pool: Any, said: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=said) as caught:
        pool_config("default", {"OPTIONS": {"pool": pool}})
    assert "DATABASES['default']" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("key", ["max_size", "mode", "preset", "statement_timeout"])
def test_an_option_beside_the_pool_is_told_its_place(key: str) -> None:
    for pool in ({}, {"pool": True}, {"pool": {"max_size": 3}}):
        with pytest.raises(ImproperlyConfigured) as caught:
            pool_config("default", {"OPTIONS": {**pool, key: "s3cret"}})
        assert f"write it as DATABASES['default']['OPTIONS']['pool'][{key!r}]" in str(caught.value)
        assert "s3cret" not in str(caught.value)
    assert pool_config("default", {"OPTIONS": {"pool": False, key: 1}}) is None


def test_what_libpq_takes_as_well_may_stand_beside_the_pool() -> None:
    options = {"connect_timeout": 3, "keepalives_idle": 30, "sslmode": "require"}
    assert pool_config("default", {"OPTIONS": options}) == PoolConfig()


ENGINE = "django_poolkit.backends.postgresql"


@pytest.mark.parametrize(
    ("key", "meant"), [("sslmod", "sslmode"), ("aplication_name", "application_name"), ("x", None)]
)
def test_an_option_that_nobody_takes_is_refused_at_the_start(key: str, meant: str | None) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        verify_database("other", {"ENGINE": ENGINE, "OPTIONS": {key: "s3cret"}})
    said = str(caught.value)
    assert said.startswith(f"DATABASES['other']['OPTIONS'][{key!r}]: neither Django nor libpq")
    assert said.endswith(f"Did you mean {meant!r}?" if meant else "such an option.")
    assert "s3cret" not in said
    verify_database("other", {"ENGINE": ENGINE, "OPTIONS": {"pool": False, key: 1}})
    # An engine of one's own may take it.
    verify_database("other", {"ENGINE": "shop.backend", "OPTIONS": {key: 1}})


def test_what_django_psycopg_and_libpq_take_is_let_pass() -> None:
    taken = {each.keyword.decode(): "1" for each in Conninfo.get_defaults()}
    psycopgs = set(signature(Connection.connect).parameters) - {"conninfo", "kwargs"}
    djangos = {"assume_role": "app", "isolation_level": IsolationLevel.SERIALIZABLE}
    options = {**taken, **dict.fromkeys(psycopgs), **djangos, "server_side_binding": True}
    verify_database("other", {"ENGINE": ENGINE, "OPTIONS": options})


def test_persistent_connections_are_refused_with_a_pool(wrapper: Any) -> None:
    for age in (None, 60):
        with pytest.raises(ImproperlyConfigured, match="Pooling doesn't support persistent"):
            wrapper(CONN_MAX_AGE=age).ensure_connection()
        wrapper(pool=False, CONN_MAX_AGE=age).ensure_connection()


@contextmanager
def settings_of(databases: dict[str, Any]) -> Iterator[None]:
    """Override DATABASES, which Django warns of: here nothing connects."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with override_settings(DATABASES=databases):
            yield


def databases(engine: str, **entry: Any) -> dict[str, Any]:
    return {"shop": {"ENGINE": engine, "NAME": "x", "OPTIONS": {}, **entry}}


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (
            databases("django_poolkit.backends.postgresql", CONN_MAX_AGE=60),
            r"DATABASES\['shop'\]\['CONN_MAX_AGE'\]",
        ),
        (
            databases("django.db.backends.sqlite3", OPTIONS={"pool": True}),
            r"DATABASES\['shop'\].*ENGINE is 'django.db.backends.sqlite3'",
        ),
        (
            databases("django.db.backends.postgresql", OPTIONS={"pool": {"mode": "session"}}),
            r"options of django_poolkit \(mode\).*Set ENGINE to 'django_poolkit",
        ),
        (
            databases("django.db.backends.postgresql", OPTIONS={"pool": {"preset": "api"}}),
            r"options of django_poolkit \(preset\).*Set ENGINE to 'django_poolkit",
        ),
    ],
)
def test_django_refuses_to_start_on_settings_that_cannot_be_honoured(
    setting: dict[str, Any], said: str
) -> None:
    import django_poolkit

    with settings_of(setting), pytest.raises(ImproperlyConfigured, match=said):
        PoolkitConfig("django_poolkit", django_poolkit).ready()


def test_djangos_own_pool_options_on_djangos_engine_are_left_alone() -> None:
    setting = databases("django.db.backends.postgresql", OPTIONS={"pool": {"max_size": 4}})
    with settings_of(setting):
        verify_databases()


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"PASSWORD": "wr0ng-secret"}, "28P01"),
        ({"NAME": "no_such_database"}, "3D000"),
        ({"PORT": "1"}, "08001"),
        ({"OPTIONS": {"assume_role": "no_such_role"}}, "no_such_role"),
    ],
)
def test_a_failed_connect_says_why_and_gives_nothing_away(
    wrapper: Any, changes: dict[str, Any], state: str
) -> None:
    broken = wrapper(pool={"timeout": 0.5}, **changes)
    with pytest.raises(OperationalError) as caught:
        broken.ensure_connection()
    text = f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"
    assert state in text
    assert "wr0ng-secret" not in text
    assert connection.settings_dict["PASSWORD"] not in text
    assert connection.settings_dict["HOST"] not in text
    assert broken.pool.stats().size <= 1


def test_no_secret_in_a_repr(wrapper: Any) -> None:
    secret = connection.settings_dict["PASSWORD"]
    one = wrapper()
    one.ensure_connection()
    shown = f"{one!r} {one.pool!r} {one._lease!r} {registry.pools!r} {one.pool.stats()!r}"
    assert secret not in shown
    assert connection.settings_dict["PORT"] not in repr(registry.pools)
