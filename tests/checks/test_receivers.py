"""Receivers of connection_created that SET what they look up are told from those that may stay."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from django.conf import settings as site_settings
from django.db.backends.signals import connection_created

from django_poolkit.checks.receivers import sets_per_request
from tests.checks.sites import Site, database

current: ContextVar[str] = ContextVar("current")
local = threading.local()
PATH = "app, public"
SESSION = {"statement_timeout": "5s", "lock_timeout": "1s"}
STATEMENT = "SELECT set_config('app.tenant', %s, false)"
timeout = 5


def tenant_of(connection: Any) -> str:
    return str(connection.alias)


def by_argument(connection: Any, **kwargs: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET search_path TO %s", [current.get()])


def by_f_string(connection: Any, **kwargs: Any) -> None:
    connection.cursor().execute(f"SET app.tenant = '{local.tenant}'")


def by_set_config(connection: Any, **kwargs: Any) -> None:
    connection.cursor().execute(STATEMENT, (tenant_of(connection),))


def by_format(connection: Any, **kwargs: Any) -> None:
    sql = "SET search_path = {}".format(current.get())  # noqa: UP032
    connection.cursor().execute(sql)


def by_percent(connection: Any, **kwargs: Any) -> None:
    name = getattr(local, "tenant", "public")
    connection.cursor().execute("SET search_path = %s" % name)  # noqa: UP031


def by_sum(connection: Any, **kwargs: Any) -> None:
    connection.cursor().execute("SET ROLE " + local.role, None)


def by_lock(connection: Any, **kwargs: Any) -> None:
    connection.cursor().execute("SELECT pg_advisory_lock(%s)", params=[hash(current)])


class Tenants:
    schema = "app"

    def now(self) -> str:
        return current.get()

    def method(self, connection: Any, **kwargs: Any) -> None:
        connection.cursor().execute(f"SET search_path = {self.now()}")

    def __call__(self, connection: Any, **kwargs: Any) -> None:
        connection.cursor().execute(f"SET search_path = {current.get()}")

    def constant(self, connection: Any, **kwargs: Any) -> None:
        connection.cursor().execute(f"SET search_path = {self.schema}")


def a_constant(connection: Any, **kwargs: Any) -> None:
    connection.cursor().execute("SET lock_timeout = '5s'")


def a_settings_value(connection: Any, **kwargs: Any) -> None:
    connection.cursor().execute("SET search_path = %s", [site_settings.SECRET_KEY])


def a_module_constant(connection: Any, **kwargs: Any) -> None:
    connection.cursor().execute(f"SET search_path = {PATH}; SET lock_timeout = {timeout}")


def of_the_environment(connection: Any, **kwargs: Any) -> None:
    path = os.environ.get("SCHEMA", "public")
    connection.cursor().execute(f"SET search_path = {path}, {os.getenv('OTHER')}")


def of_a_loop(connection: Any, **kwargs: Any) -> None:
    for name, value in SESSION.items():
        connection.cursor().execute(f"SET {name} = '{value}'")


def of_the_database(connection: Any, **kwargs: Any) -> None:
    connection.cursor().execute(f"SET app.alias = '{connection.settings_dict['NAME']}'")


def of_a_default(connection: Any, seconds: int = 5, **kwargs: Any) -> None:
    connection.cursor().execute(f"SET statement_timeout = '{seconds!s}s'")


def local_to_the_transaction(connection: Any, **kwargs: Any) -> None:
    connection.cursor().execute("SET LOCAL app.tenant = %s", [current.get()])
    connection.cursor().execute("SELECT set_config('app.tenant', %s, true)", [current.get()])


def reads_only(connection: Any, **kwargs: Any) -> None:
    connection.cursor().execute("SELECT * FROM tenant WHERE name = %s", [current.get()])
    connection.cursor().execute(current.get())


def executes_nothing(connection: Any, **kwargs: Any) -> None:
    current.set(connection.alias)


def made(seconds: int) -> Callable[..., None]:
    def receiver(connection: Any, **kwargs: Any) -> None:
        connection.cursor().execute(f"SET statement_timeout = '{seconds}s'")

    return receiver


PER_REQUEST = [
    by_argument, by_f_string, by_set_config, by_format, by_percent, by_sum, by_lock,
    Tenants().method,
]  # fmt: skip
MAY_STAY: list[Any] = [
    a_constant, a_settings_value, a_module_constant, of_the_environment, of_a_loop,
    of_the_database, of_a_default, local_to_the_transaction, reads_only, executes_nothing,
    made(3), Tenants().constant, print, lambda **kwargs: None,
]  # fmt: skip


@pytest.mark.parametrize("function", PER_REQUEST, ids=lambda f: f.__name__)
def test_what_is_looked_up_for_a_request_is_seen(function: Any) -> None:
    assert sets_per_request(function)


@pytest.mark.parametrize("function", MAY_STAY, ids=lambda f: f.__name__)
def test_what_is_the_same_for_all_may_stay(function: Any) -> None:
    assert not sets_per_request(function)


@pytest.fixture
def connect() -> Iterator[Callable[[Any], None]]:
    """Return a function that has one receive the signal, until the test's end."""
    connected: list[Any] = []

    def connect(receiver: Any) -> None:
        connection_created.connect(receiver)
        connected.append(receiver)

    yield connect
    for receiver in connected:
        connection_created.disconnect(receiver)


@pytest.mark.core  # how a signal keeps its receivers is Django's own
def test_receivers_are_named(site: Site, connect: Callable[[Any], None]) -> None:
    assert "poolkit.W024" not in site.ids()
    tenants = Tenants()
    for receiver in (by_argument, a_constant, tenants, tenants.method,
                     functools.partial(of_a_default, seconds=3)):  # fmt: skip
        connect(receiver)
    found = [message.msg for message in site.look(deploy=False) if message.id == "poolkit.W024"]
    assert [text.partition(",")[0] for text in found] == [
        f"{__name__}.by_argument", f"{__name__}.Tenants.__call__", f"{__name__}.Tenants.method",
    ]  # fmt: skip


def test_those_of_django_are_left_alone(
    site: Site, connect: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(by_argument)
    assert "poolkit.W024" in site.ids()
    monkeypatch.setattr(by_argument, "__module__", "django.contrib.tenants")
    assert "poolkit.W024" not in site.ids()


def test_without_a_pool_they_may_do_as_they_like(
    site: Site, connect: Callable[[Any], None]
) -> None:
    connect(by_argument)
    stock = {"ENGINE": "django.db.backends.postgresql", "NAME": "shop"}
    for entry in (stock, database(False)):
        assert "poolkit.W024" not in site.ids(databases={"default": entry})
