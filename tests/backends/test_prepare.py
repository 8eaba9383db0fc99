"""`prepare` behind Django: bound on the server, in both modes, through rollbacks and migrations."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, OperationalError, connections, transaction
from django.db import connection as default_connection
from psycopg import ClientCursor

from django_poolkit import registry
from django_poolkit.conf.databases import pool_config
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.postgres.errors import StalePlan
from django_poolkit.testing.waiting import wait_until
from tests.app.models import Item

pytestmark = pytest.mark.django_db(transaction=True)
# Typed by django-stubs as any backend's.
connection: Any = default_connection

# Another process: alters the table as often as it is told to, a line for each.
MIGRATION = """
import sys, psycopg
with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    for number, line in enumerate(sys.stdin):
        kind = "text" if number % 2 == 0 else "varchar(100)"
        connection.execute(f"ALTER TABLE app_item ALTER name TYPE {kind}")
        print(kind, flush=True)
"""


class Rollback(Exception):
    """Ends a block without an error of the database."""


@pytest.fixture(params=["session", "transaction"])
def pooled(request: pytest.FixtureRequest) -> Iterator[Callable[..., ConnectionPool]]:
    """Return a function that makes the pool of the default alias one that prepares."""
    alias = connections.settings["default"]
    before = dict(alias)

    def change(options: dict[str, Any] | None = None, **pool: Any) -> ConnectionPool:
        connections.close_all()
        registry.pools.close_all()
        chosen = {"mode": request.param, "prepare": True, "max_size": 4, "timeout": 10.0, **pool}
        alias["OPTIONS"] = {"pool": chosen, "prepare_threshold": 1, **(options or {})}
        made: ConnectionPool = connection.pool
        return made

    yield change
    connection.close()
    alias.clear()
    alias.update(before)
    registry.pools.close_all()


def prepared() -> list[str]:
    """Return the names of what is prepared on the connection of this thread."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM pg_prepared_statements ORDER BY 1")
        return [name for (name,) in cursor.fetchall()]


def read(times: int = 3) -> list[str]:
    for _ in range(times):
        names = sorted(Item.objects.filter(pk__gt=0).values_list("name", flat=True))
    return names


def test_it_binds_on_the_server_and_prepares(pooled: Any) -> None:
    pool = pooled()
    Item.objects.create(name="one")
    assert read() == ["one"]
    assert connection.settings_dict["OPTIONS"]["server_side_binding"] is True
    assert prepared() != []
    with connection.cursor() as cursor:
        assert not isinstance(cursor.cursor, ClientCursor)
        assert "CursorMixin" in str(type(cursor.cursor).__mro__)
    connection.close()
    assert pool.stats().connects == 1
    assert sum(pool.stats().pins.values()) == 0


def test_named_cursors_work_as_ever(pooled: Any) -> None:
    pool = pooled()
    Item.objects.bulk_create(Item(name=str(number)) for number in range(20))
    for _ in range(3):
        found = [item.name for item in Item.objects.order_by("pk").iterator(chunk_size=5)]
        assert found == [str(number) for number in range(20)]
        with transaction.atomic():
            assert len(list(Item.objects.iterator(chunk_size=5))) == 20
    connection.close()
    assert (pool.stats().used, pool.stats().resets) == (0, 0)


def test_a_block_that_is_rolled_back_drops_nothing(pooled: Any) -> None:
    pooled(max_size=1)
    Item.objects.create(name="one")
    read()
    before = prepared()
    before = prepared()  # which has prepared itself by now
    for _ in range(3):
        with pytest.raises(Rollback), transaction.atomic():
            read()
            with pytest.raises(Rollback), transaction.atomic():
                read()
                raise Rollback
            raise Rollback
    assert set(before) <= set(prepared())


class Load(threading.Thread):
    """Reads all the time, and notes what fails."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.rounds = 0
        self.era = 0
        """How often the table has been altered."""
        self.errors: list[tuple[int, BaseException]] = []
        self.over = False
        self.start()

    def run(self) -> None:
        while not self.over:
            try:
                self._work()
            except Exception as error:
                self.errors.append((self.era, error))
            self.rounds += 1
            connection.close()  # as at the end of a request
        connections.close_all()


def in_autocommit() -> None:
    assert read(1) == ["one"]
    assert Item.objects.get(name="one").name == "one"


def in_a_block() -> None:
    with transaction.atomic():
        assert read(1) == ["one"]


def in_the_middle_of_a_block() -> None:
    with transaction.atomic():
        assert not User.objects.exists()
        assert read(1) == ["one"]


def test_a_migration_by_another_process_under_load(pooled: Any) -> None:
    pool = pooled()
    Item.objects.create(name="one")
    connection.close()
    works = [in_autocommit, in_autocommit, in_a_block, in_the_middle_of_a_block]
    loads = [Load(work) for work in works]
    settings = connection.settings_dict
    conninfo = (
        f"host={settings['HOST']} port={settings['PORT']} user={settings['USER']} "
        f"password={settings['PASSWORD']} dbname={settings['NAME']}"
    )
    migration = subprocess.Popen(
        [sys.executable, "-c", MIGRATION, conninfo],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    )  # fmt: skip
    assert migration.stdin is not None
    assert migration.stdout is not None

    def wait_for_rounds(count: int = 8) -> None:
        seen = [load.rounds for load in loads]
        wait_until(
            lambda: all(one.rounds >= n + count for one, n in zip(loads, seen, strict=True)), 60.0
        )

    try:
        for _ in range(6):
            wait_for_rounds()
            for load in loads:
                load.era += 1
            migration.stdin.write("now\n")
            assert migration.stdout.readline()
        wait_for_rounds()
    finally:
        for load in loads:
            load.over = True
        for load in loads:
            load.join(30.0)
        migration.stdin.close()
        assert migration.wait(30.0) == 0
        migration.stdout.close()
    *calm, middle = loads
    # Who was in autocommit, or had only begun a block, has noticed nothing.
    assert [load.errors for load in calm] == [[], [], []]
    eras = [era for era, _ in middle.errors]
    assert len(eras) == len(set(eras)), f"more than one error a migration: {middle.errors}"
    for _, error in middle.errors:
        assert isinstance(error, OperationalError)
        assert isinstance(error.__cause__, StalePlan)
    assert pool.plans.healed > 0
    assert pool.stats().used == 0


def test_the_error_in_a_block_is_told_once(pooled: Any) -> None:
    pool = pooled()
    Item.objects.create(name="one")
    read()
    connection.close()

    def alter() -> None:
        with pytest.raises(OperationalError, match="run it again"), transaction.atomic():
            assert not User.objects.exists()
            other = threading.Thread(target=widen)
            other.start()
            other.join(30.0)
            read()

    def widen() -> None:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE app_item ALTER name TYPE text")
        connection.close()

    try:
        alter()
        with transaction.atomic():
            assert not User.objects.exists()
            assert read() == ["one"]
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE app_item ALTER name TYPE varchar(100)")
    assert pool.plans.healed == 0


class Theirs(ClientCursor[Any]):
    """A cursor that binds in the client."""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"server_side_binding": False}, r"\['prepare'\] needs \['OPTIONS'\]\['server_side_bind"),
        ({"cursor_factory": Theirs}, r"\['cursor_factory'\] Theirs binds parameters in the client"),
        ({"cursor_factory": "tests.Cursor"}, r"\['cursor_factory'\] must be a class.*got a str"),
        ({"cursor_factory": dict}, r"\['cursor_factory'\] must be a class .* got dict"),
    ],
)
def test_what_cannot_be_prepared_or_leased_is_refused(options: Any, said: str) -> None:
    database = {"OPTIONS": {"pool": {"prepare": True}, **options}}
    with pytest.raises(ImproperlyConfigured, match=r"^DATABASES\['default'\]\['OPTIONS'\]" + ".*"):
        pool_config("default", database)
    with pytest.raises(ImproperlyConfigured, match=said):
        pool_config("default", database)


@pytest.mark.parametrize("value", ["yes", 1, None, "session"])
def test_a_value_that_means_nothing_is_refused(value: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"\['prepare'\] must be True, False or 'pool"):
        pool_config("default", {"OPTIONS": {"pool": {"prepare": value}}})


def test_other_entries_that_share_the_options_are_left_alone(pooled: Any) -> None:
    shared = {"pool": {"prepare": True}}
    make: Any = type(connections["default"])
    one = make({**connection.settings_dict, "OPTIONS": shared}, "one")
    assert one.settings_dict["OPTIONS"]["server_side_binding"] is True
    assert shared == {"pool": {"prepare": True}}
    assert one.features.uses_server_side_binding
    with pytest.raises(DatabaseError, match="syntax error"), one.cursor() as cursor:
        cursor.execute("SHOW %s", ["TimeZone"])  # which psycopg would have bound in the client
    one.close()
    one.close_pool()
