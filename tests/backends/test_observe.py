"""Session mode under observation: what is counted, for whom, and that nothing else changes."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from django.db import connection as default_connection
from django.db import connections, transaction
from django.db.backends.signals import connection_created

from django_poolkit import PoolError, PoolWarning, connection_pools, registry
from django_poolkit.backends.origin import call_site
from django_poolkit.pools import observe
from django_poolkit.pools.postgres import ConnectionPool
from tests.app.models import Item
from tests.pools.support import Call

pytestmark = pytest.mark.django_db(transaction=True)
# Typed by django-stubs as any backend's.
connection: Any = default_connection


class Clock:
    """The time, and what a test lets pass."""

    passed = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.passed

    def passes(self, seconds: float) -> None:
        """Let time pass."""
        self.passed += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(observe, "monotonic", clock)
    return clock


@pytest.fixture
def pooled() -> Iterator[Callable[..., ConnectionPool]]:
    """Return a function that sets the pool's options, with `observe`."""
    options = connections.settings["default"]["OPTIONS"]
    before = dict(options)

    def change(**pool: Any) -> ConnectionPool:
        connections.close_all()
        registry.pools.close_all()
        options["pool"] = {"observe": True, "max_size": 2, **pool}
        made: ConnectionPool = connection.pool
        return made

    yield change
    connection.close()
    options.clear()
    options.update(before)
    registry.pools.close_all()


def run(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def line(function: Callable[..., Any], offset: int = 1) -> str:
    """Return the site of a function's line, counted from its `def`."""
    return f"{function.__module__}:{inspect.getsourcelines(function)[1] + offset}"


def seconds_of(pool: ConnectionPool, reason: str = "idle") -> dict[str, float]:
    """Return the whole seconds by site, where there are any."""
    return {
        row.site: float(round(row.seconds))
        for row in pool.observations()
        if row.reason == reason and round(row.seconds)
    }


def counts_of(pool: ConnectionPool) -> dict[tuple[str, str], int]:
    """Return the counts of what would be pinned."""
    return {
        (row.site, row.reason): row.count for row in pool.observations() if row.reason != "idle"
    }


def query() -> int:
    return Item.objects.count()


def test_a_lease_that_waits_is_counted_for_the_line_before(pooled, clock):
    pool = pooled()
    query()
    clock.passes(10)
    query()
    clock.passes(20)
    connection.close()
    assert seconds_of(pool) == {line(query): 30.0}
    found = pool.observations()
    assert (round(found.held), round(found.idle)) == (30, 30)
    assert 0.9 < found.share <= 1.0
    assert connection_pools["default"].observations() == found


def test_a_lease_that_is_taken_long_before_its_use(pooled, clock):
    pool = pooled()

    def early() -> None:
        connection.ensure_connection()

    early()
    clock.passes(10)
    query()
    connection.close()
    assert seconds_of(pool) == {line(early): 10.0}


@pytest.mark.core
def test_what_passes_inside_a_transaction_is_not_saved(pooled, clock):
    pool = pooled()

    def block() -> None:
        with transaction.atomic():
            clock.passes(10)  # it begins with its first statement
            query()
            clock.passes(20)
        clock.passes(30)

    query()
    block()
    connection.close()
    # In the order of the gaps: before the first statement in the block, and behind the COMMIT.
    assert seconds_of(pool) == {line(query): 40.0}
    assert round(pool.observations().held) == 60


@pytest.mark.core
def test_the_time_of_on_commit_hooks_is_saved(pooled, clock):
    pool = pooled()
    with transaction.atomic():
        query()
        transaction.on_commit(lambda: clock.passes(10))
    connection.close()
    assert seconds_of(pool) == {line(query): 10.0}


def test_what_passes_with_an_open_cursor_is_not_saved(pooled, clock):
    pool = pooled()
    query()
    with connection.cursor() as cursor:
        clock.passes(10)
        cursor.execute("SELECT 1")
        clock.passes(20)
    rows = Item.objects.iterator()
    clock.passes(5)
    list(rows)
    connection.close()
    assert list(seconds_of(pool).values()) == [5.0]
    assert round(pool.observations().held) == 35


def test_what_passes_without_autocommit_is_not_saved(pooled, clock):
    pool = pooled()
    transaction.set_autocommit(False)
    query()
    transaction.commit()
    clock.passes(10)
    transaction.set_autocommit(True)
    clock.passes(20)
    connection.close()
    assert seconds_of(pool) == {line(query): 20.0}


def test_what_passes_in_a_pinned_block_is_not_saved(pooled, clock):
    pool = pooled()
    with connection.pinned():
        query()
        clock.passes(10)
    connection.close()
    assert seconds_of(pool) == {}
    assert round(pool.observations().held) == 10


def test_what_transaction_mode_would_hold_is_not_idle(pooled, monkeypatch):
    pooled()
    query()
    watch, lease, raw = connection._watch, connection._lease, connection._raw
    assert watch._idle(lease)
    cursor = connection.cursor()
    assert not watch._idle(lease)
    cursor.execute("BEGIN")
    cursor.close()
    assert not watch._idle(lease)
    run("COMMIT")
    assert watch._idle(lease)
    with raw.pipeline():
        assert not watch._idle(lease)
    with monkeypatch.context() as patch:
        patch.setitem(connection.settings_dict, "AUTOCOMMIT", False)
        assert not watch._idle(lease)
    transaction.set_autocommit(False)
    assert not watch._idle(lease)
    transaction.set_autocommit(True)
    assert watch._idle(lease)


def test_a_lease_that_has_ended_is_not_pinned(pooled):
    pool = pooled()
    query()
    connection._lease.release()
    assert connection.connection is not None
    assert counts_of(pool) == {}


STATEMENTS = {
    "set": "SET work_mem TO '7MB'",
    "listen": "LISTEN news",
    "temp_table": "CREATE TEMP TABLE mine (a int)",
    "advisory_lock": "SELECT pg_advisory_lock(7)",
    "prepare": "PREPARE mine AS SELECT 1",
    "do": "DO $$ BEGIN END $$",
    "function": "SELECT public.mine()",
}


@pytest.mark.parametrize("reason", STATEMENTS)
def test_what_would_be_pinned_is_counted_by_line(pooled, clock, primary, reason):
    pool = pooled()
    run("CREATE OR REPLACE FUNCTION public.mine() RETURNS int LANGUAGE sql RETURN 1")

    def pin() -> None:
        run(STATEMENTS[reason])

    for _ in range(2):
        pin()
        clock.passes(10)
        query()
        connection.close()
    # `run` is the first of this project's lines above the cursor.
    assert counts_of(pool) == {(line(run, 2), reason): 2}
    assert seconds_of(pool, reason) == {line(run, 2): 20.0}
    assert pool.stats().pins == {reason: 2}


def test_what_reads_the_sessions_own_is_counted(pooled):
    pool = pooled()
    run("CREATE SEQUENCE IF NOT EXISTS observed")
    run("SELECT nextval('observed')")
    run("SELECT currval('observed')")
    run("SELECT lastval()")
    assert counts_of(pool) == {(line(run, 2), "sequence"): 2}
    assert pool.stats().pins == {"sequence": 1}
    run("DROP SEQUENCE observed")


def test_each_line_of_a_lease_is_counted_and_the_lease_once(pooled):
    pool = pooled()

    def first() -> None:
        connection.cursor().execute("SET work_mem TO '7MB'")

    def second() -> None:
        connection.cursor().execute("LISTEN news")

    first()
    second()
    connection.close()
    assert counts_of(pool) == {(line(first), "set"): 1, (line(second), "listen"): 1}
    assert pool.stats().pins == {"set": 1}


def test_a_change_that_the_server_reports_is_counted(pooled):
    pool = pooled(harmless_functions=["hidden"])
    run(
        "CREATE OR REPLACE FUNCTION hidden() RETURNS text LANGUAGE sql "
        "RETURN set_config('TimeZone', 'Asia/Tokyo', false)"
    )
    connection.close()

    def hide() -> None:
        run("SELECT hidden()")

    hide()
    connection.close()
    run("DROP FUNCTION hidden")
    assert counts_of(pool) == {(line(run, 2), "parameter"): 1}


def test_what_receivers_of_a_new_connection_set_would_not_be_pinned(pooled):
    def prepare(connection: Any, **kwargs: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET TIME ZONE 'Asia/Tokyo'")

    connection_created.connect(prepare)
    try:
        pool = pooled()
        query()
        connection.close()
    finally:
        connection_created.disconnect(prepare)
    assert counts_of(pool) == {}
    assert pool.stats().pins == {}


@pytest.mark.core
def test_foreign_access_to_the_connection_is_counted(pooled, clock):
    pool = pooled()
    query()

    def touch() -> Any:
        return connection.connection

    def through_a_cursor() -> Any:
        with connection.cursor() as cursor:
            return cursor.connection

    assert touch().info.transaction_status == 0
    connection.close()
    connection.ensure_connection()
    assert through_a_cursor().closed is False
    connection.close()
    assert counts_of(pool) == {(line(touch), "raw"): 1, (line(through_a_cursor, 2), "raw"): 1}
    assert pool.stats().pins == {"raw": 2}
    assert touch() is None
    assert pool.stats().pins == {"raw": 2}


def test_django_and_trusted_modules_may_look_at_the_connection(pooled):
    pool = pooled(trusted_modules=["tests"])
    with transaction.atomic():
        query()
    assert connection.connection is not None
    assert connection.is_usable()
    connection.close()
    assert counts_of(pool) == {}


@pytest.mark.parametrize("policy", ["dirty", "request", "always"])
def test_the_lease_ends_and_is_reset_as_without(pooled, policy):
    found = []
    for observed in (False, True):
        pool = pooled(observe=observed, reset=policy)
        for act in (
            query,
            lambda: connection.connection,
            lambda: run("SELECT 1"),
            lambda: run("SET work_mem TO '7MB'"),
            lambda: Item.objects.create(name="x"),
        ):
            query()
            lease = connection._lease
            act()
            query()
            assert connection._lease is lease
            assert pool.stats().used == 1
            connection.close()
        stats = pool.stats()
        found.append((stats.resets, stats.acquired, stats.closed, stats.used, stats.idle))
    assert found[0] == found[1]


def test_leases_of_other_threads_are_counted(pooled, clock):
    pool = pooled()

    def request() -> None:
        query()
        clock.passes(10)
        connection.close()

    request()
    Call(request).result()
    assert seconds_of(pool) == {line(query): 20.0}
    assert pool.observations()[0].count == 2


def test_a_thread_that_ends_with_its_lease_is_counted(pooled, clock):
    pool = pooled()

    def leave() -> None:
        query()
        clock.passes(10)

    Call(leave).result()
    with pytest.warns(PoolWarning, match="dropped"), pool.lease():  # who passes takes it back
        pass
    assert seconds_of(pool) == {line(query): 10.0}
    assert round(pool.observations().held) == 10


@pytest.mark.core
def test_a_dropped_cursor_ends_its_use(pooled, clock):
    pool = pooled()

    def drop() -> None:
        connection.cursor().execute("SELECT 1")

    drop()
    clock.passes(10)
    connection.close()
    assert seconds_of(pool) == {line(drop): 10.0}


@pytest.mark.parametrize("options", [{}, {"mode": "transaction"}])
def test_without_the_option_there_is_nothing_to_read(pooled, options):
    pool = pooled(observe=False, **options)
    query()
    with pytest.raises(PoolError, match="observe"):
        pool.observations()


def test_a_pool_that_does_not_observe_any_more(pooled):
    pooled()
    query()
    pool = pooled(mode="transaction", observe=False)
    query()
    assert connection._watch is None or pool.stats().pins == {}
    assert pool.stats().used == 0


# -- whose line it is


@pytest.mark.core
@pytest.mark.parametrize(
    ("modules", "trusted", "named"),
    [
        (["shop.views", "django.db.models.query"], (), "shop.views"),
        (["shop.urls", "shop.views", "django.db.models.query"], (), "shop.views"),
        (["shop.views", "sentry_sdk.tracing", "psycopg.cursor"], (), "shop.views"),
        (["shop.views", "functools", "contextlib", "asgiref.sync"], (), "shop.views"),
        (["djangoshop.views", "django.db.models"], (), "djangoshop.views"),
        # A middleware of the project is not to blame for a view of Django's.
        (
            ["shop.middleware", "django.core.handlers.base", "django.contrib.admin.options",
             "django.db.models.query"], (), "django.contrib.admin.options",
        ),
        (
            ["gunicorn.workers.sync", "django.core.handlers.wsgi", "django.db.models.query"],
            (), "django.core.handlers.wsgi",
        ),
        (["shop.views", "filters.sets", "django.db.models"], ("filters",), "shop.views"),
        (["django.core.handlers.base", "filters", "django.db.models"], ("filters",), "filters"),
    ],
)  # fmt: skip
def test_the_line_is_the_projects_own(modules, trusted, named):
    site = call_site(trusted)
    globals_of_ours = {"__name__": "django_poolkit.stand_in", "inspect": inspect, "site": site}
    exec("def ask(): return site(inspect.currentframe())", globals_of_ours)
    function: Callable[[], str] = globals_of_ours["ask"]  # type: ignore[assignment]
    for name in reversed(modules):
        module = ModuleType(name)
        module.__dict__["inner"] = function
        exec("def call():\n    return inner()", module.__dict__)
        function = module.__dict__["call"]
    assert function() == f"{named}:2"
