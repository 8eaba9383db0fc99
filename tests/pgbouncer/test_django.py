"""Django behind a real PgBouncer by transaction: both modes, and what is on the wire."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import NotSupportedError, connections, transaction
from django.db import connection as default_connection
from django.db.models import Count

from django_poolkit import registry
from django_poolkit.conf.databases import pool_config
from django_poolkit.pools.errors import PoolWarning
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing import Node
from django_poolkit.testing.pgbouncer import PgBouncer
from django_poolkit.testing.waiting import wait_until
from tests.app.models import Item

pytestmark = pytest.mark.django_db(transaction=True)
# Typed by django-stubs as any backend's.
connection: Any = default_connection
Pooled = Callable[..., ConnectionPool]


@pytest.fixture(scope="module")
def through(bouncer: PgBouncer) -> Iterator[PgBouncer]:
    """The PgBouncer of these tests. It must not keep the test database from being dropped."""
    yield bouncer
    bouncer.console("RECONNECT")
    wait_until(lambda: not bouncer.console("SHOW SERVERS"))


@pytest.fixture(params=["session", "transaction"])
def pooled(request: pytest.FixtureRequest, through: PgBouncer) -> Iterator[Pooled]:
    """Return a function that leads the default alias through PgBouncer, and returns its pool."""
    alias = connections.settings["default"]
    before = dict(alias)

    def change(
        options: dict[str, Any] | None = None, entry: dict[str, Any] | None = None, **pool: Any
    ) -> ConnectionPool:
        connections.close_all()
        registry.pools.close_all()
        declared = {"pooler": "pgbouncer-transaction", "mode": request.param, "max_size": 4}
        alias.update(HOST=through.host, PORT=str(through.port), **(entry or {}))
        alias["OPTIONS"] = {"pool": declared | {"timeout": 10.0} | pool, **(options or {})}
        del connections["default"]
        made: ConnectionPool = connections["default"].pool  # type: ignore[attr-defined]
        return made

    yield change
    connections.close_all()
    alias.clear()
    alias.update(before)
    registry.pools.close_all()
    del connections["default"]


def test_a_cursor_of_the_server_is_never_asked_for(pooled: Pooled) -> None:
    pooled()
    Item.objects.bulk_create(Item(name=str(number)) for number in range(300))
    assert connection.settings_dict["DISABLE_SERVER_SIDE_CURSORS"] is True
    names = [item.name for item in Item.objects.order_by("pk").iterator(chunk_size=10)]
    assert names == [str(number) for number in range(300)]
    with (
        pytest.raises(NotSupportedError, match="iterate inside of atomic"),
        connection.chunked_cursor() as cursor,
    ):
        cursor.execute("SELECT 1")


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("SET search_path = public", "SET LOCAL"),
        ("SELECT pg_advisory_lock(1)", "pg_advisory_xact_lock"),
        ("LISTEN news", "no pooler is in between"),
        ("CREATE TEMP TABLE t (n int)", "ON COMMIT DROP"),
    ],
)
def test_session_state_is_an_error_that_says_what_to_do(
    pooled: Pooled, text: str, instead: str
) -> None:
    pool = pooled()
    with connection.cursor() as cursor:
        with pytest.raises(NotSupportedError, match=instead):
            cursor.execute(text)
        cursor.execute("SELECT 1")
    connection.close()
    assert pool.stats().pins == {}
    assert pool.stats().closed == {}


def test_nor_can_one_session_be_held(pooled: Pooled) -> None:
    pooled()
    with (
        pytest.raises(NotSupportedError, match=r"pinned\(\) holds one session.*atomic\(\)"),
        connection.pinned(),
    ):
        pass
    assert Item.objects.count() == 0


def test_a_block_keeps_its_session(pooled: Pooled) -> None:
    """What is set for a transaction is there in all of it, and gone after it."""
    pooled()
    ask = "SELECT current_setting('app.tenant', true)"
    with connection.cursor() as cursor:
        with transaction.atomic():
            cursor.execute("SELECT set_config('app.tenant', '7', true)")
            with transaction.atomic():
                cursor.execute(ask)
                assert cursor.fetchone() == ("7",)
        cursor.execute(ask)
        assert cursor.fetchone()[0] in (None, "")


def test_many_threads_share_two_sessions(pooled: Pooled, bouncer: PgBouncer) -> None:
    pool = pooled(max_size=8)
    Item.objects.create(name="0")

    def work(number: int) -> set[int]:
        met = set()
        try:
            for _ in range(10):
                with transaction.atomic():
                    item = Item.objects.select_for_update().get()
                    item.name = str(int(item.name) + 1)
                    item.save()
                with connections["default"].cursor() as cursor:
                    cursor.execute("SELECT pg_backend_pid(), current_setting('TimeZone')")
                    pid, zone = cursor.fetchone()
                    assert zone == connections["default"].timezone_name
                    met.add(pid)
        finally:
            connections.close_all()
        return met

    with ThreadPoolExecutor(8) as threads:
        met = set().union(*threads.map(work, range(8)))
    assert Item.objects.get().name == "80"
    assert len(met) <= 2
    assert pool.stats().closed == {}
    assert pool.stats().timeouts == 0


def test_what_is_on_the_wire(pooled: Pooled, primary: Node, bouncer: PgBouncer, role: str) -> None:
    """No SET but of what PgBouncer keeps, no statement with a name, no cursor WITH HOLD."""
    # As the server logs it, for who comes in by that role.
    primary.execute(f"ALTER ROLE {role} SET log_statement = 'all'")
    try:
        as_role = {"USER": role, "PASSWORD": role, "NAME": connection.settings_dict["NAME"]}
        pooled(entry=as_role)
        begin, end = f"SELECT 'begin {id(pooled)}'", f"SELECT 'end {id(pooled)}'"
        with connection.cursor() as cursor:
            cursor.execute(begin)
        for number in range(12):
            with transaction.atomic():
                item = Item.objects.create(name=str(number))
                with transaction.atomic():
                    Item.objects.filter(pk=item.pk).update(name="x")
            list(Item.objects.filter(name="x").iterator())
            Item.objects.values("name").annotate(n=Count("pk")).get()
            Item.objects.filter(pk=item.pk).exists()
            connection.close()
        Item.objects.all().delete()
        with connection.cursor() as cursor:
            cursor.execute(end)
        log = primary._postmaster.log.read_text(errors="replace")
    finally:
        primary.execute(f"ALTER ROLE {role} RESET log_statement")
        bouncer.console("RECONNECT")
    sent = log[log.index(begin) : log.index(end)]
    assert sent.count("INSERT INTO") == 12
    kept = r"TimeZone|client_encoding|datestyle|standard_conforming_strings|application_name"
    others = re.findall(rf"\bSET (?!(?:(?:{kept})\b|\"(?:{kept})\"))\w.*", sent, re.IGNORECASE)
    assert [words for words in others if "UPDATE" not in words and '"name" =' not in words] == []
    assert not re.search(r"WITH HOLD|DECLARE|execute _pg3|DEALLOCATE|DISCARD|RESET", sent)


def test_settings_that_contradict_it_are_refused() -> None:
    def refused(words: str, *, entry: dict[str, Any] | None = None, **pool: Any) -> None:
        declared = {"pooler": "pgbouncer-transaction", **pool}
        with pytest.raises(ImproperlyConfigured, match=words):
            pool_config("default", {"OPTIONS": {"pool": declared}, **(entry or {})})

    refused(r"\['pool'\]\['pooler'\] must be 'pgbouncer-transaction' or ", pooler="pgbouncer")
    refused(r"\['reset'\] 'always' is not possible", reset="always")
    refused(r"\['reset'\] 'request' is not possible", reset="request")
    refused(r"\['verify_state'\] asks for the state of one session", verify_state=True)
    refused(r"\['prepare'\] 'pooler' says that each client", prepare="pooler")
    refused(r"\['prepare'\] has \['pooler'\] 'rds-proxy' hold", pooler="rds-proxy", prepare=True)
    refused("remove the former", entry={"DISABLE_SERVER_SIDE_CURSORS": False})
    for pooler in ("pgbouncer-transaction", "rds-proxy"):
        config = pool_config("default", {"OPTIONS": {"pool": {"pooler": pooler}}})
        assert config is not None
        assert config.reset == "dirty"


def test_the_checks_know_what_stands_there(pooled: Pooled) -> None:
    def ids() -> list[str | None]:
        found = checks.run_checks(tags=["database"], databases=["default"])
        connections.close_all()
        return [message.id for message in found if message.id in ("poolkit.W038", "poolkit.W035")]

    pooled()
    assert ids() == []
    pooled(pooler=None)
    with pytest.warns(PoolWarning) as caught:
        assert ids() == ["poolkit.W038"]
    assert any("a pooler stands in between" in str(warning.message) for warning in caught)
