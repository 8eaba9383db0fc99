"""The process's table of pools: content keys, closing, the latch, and the exit of a process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection, connections

from django_poolkit import PoolClosed, connection_pools
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.registry import PoolTable, content_key
from tests.pools.support import Call

pytestmark = pytest.mark.core


@pytest.fixture
def table() -> Iterator[PoolTable]:
    """A table of its own, emptied afterwards."""
    table = PoolTable()
    yield table
    table.close_all()


@pytest.fixture
def make(params: dict[str, Any]) -> Callable[[str], ConnectionPool]:
    """Return a function that makes a pool with a name, as the backend does."""
    return lambda name: ConnectionPool(kwargs=params, name=name)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"a": 1, "b": [1, 2]}, {"b": [1, 2], "a": 1}, True),
        ({"a": {"b": {1, 2}}}, {"a": {"b": {2, 1}}}, True),
        ({"a": 1}, {"a": True}, False),
        ({"a": "1"}, {"a": 1}, False),
        ({"a": [1, 2]}, {"a": [2, 1]}, False),
        ({"a": print}, {"a": print}, True),
        ({"a": print}, {"a": len}, False),
        ({"a": bytearray(b"x")}, {"a": bytearray(b"x")}, False),
    ],
)
def test_equal_content_is_one_key(one: Any, other: Any, same: bool) -> None:
    assert (content_key(one) == content_key(other)) is same


@pytest.mark.parametrize("wanted", ["other", "key"])
def test_a_finalizer_may_ask_for_a_pool_as_one_is_made(
    table: PoolTable, make: Any, wanted: str
) -> None:
    found: list[ConnectionPool] = []

    def interrupted(name: str) -> ConnectionPool:
        found.append(table.get(wanted, make, alias="beside", place="here"))
        return make(name)  # type: ignore[no-any-return]

    pool = Call(table.get, "key", interrupted, alias="default", place="here").result(10.0)
    assert table.get(wanted, make, alias="beside", place="here") is found[0]
    assert table.get("key", make, alias="default", place="here") is pool
    assert len(table) == len({pool, *found}) == (2 if wanted == "other" else 1)


def test_one_key_one_pool_with_every_alias_that_asked(table: PoolTable, make: Any) -> None:
    first = table.get("key", make, alias="default", place="here")
    assert table.get("key", make, alias="default", place="here") is first
    assert table.get("key", make, alias="reports", place="here") is first
    assert first.stats().aliases == ("default", "reports")
    other = table.get("other", make, alias="default", place="here")
    assert (first.name, other.name) == ("default", "default~2")


def test_threads_that_race_for_a_pool_get_the_same(table: PoolTable, make: Any) -> None:
    barrier = threading.Barrier(16)
    got = []

    def ask() -> None:
        barrier.wait()
        got.append(table.get("key", make, alias="default", place="here"))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, got))) == 1
    assert len(table) == 1


def test_closing_a_place_closes_all_pools_to_it_and_no_other(table: PoolTable, make: Any) -> None:
    here = [table.get(n, make, alias="default", place="here") for n in (1, 2)]
    there = table.get(3, make, alias="default", place="there")
    for pool in (*here, there):
        pool.acquire().release()
    table.close_place("here")
    assert [pool.closed for pool in (*here, there)] == [True, True, False]
    again = table.get(1, make, alias="default", place="here")
    assert again not in here
    again.acquire().release()


def test_after_shutdown_no_pool_is_opened_any_more(table: PoolTable, make: Any) -> None:
    pool = table.get("key", make, alias="default", place="here")
    lease = pool.acquire()
    table.shut_down()
    with pytest.raises(PoolClosed, match="shutting down"):
        table.get("key", make, alias="default", place="here")
    with pytest.raises(PoolClosed):
        pool.acquire()
    lease.release()
    assert pool.stats().size == 0
    table.reopen()
    table.get("key", make, alias="default", place="here").acquire().release()


@pytest.mark.django_db(transaction=True)
def test_connection_pools_are_usable_outside_the_orm() -> None:
    with connection_pools["default"].lease() as raw:
        assert raw.execute("SELECT 40 + 2").fetchone() == (42,)
    wrapper: Any = connections["default"]
    assert connection_pools["default"] is wrapper.pool
    assert "default" in list(connection_pools)
    with pytest.raises(KeyError, match="DATABASES has no alias 'nowhere'"):
        connection_pools["nowhere"]


@pytest.mark.django_db(transaction=True)
def test_an_alias_without_a_pool_is_named_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    default: Any = connection
    default.close()
    monkeypatch.setitem(default.settings_dict["OPTIONS"], "pool", False)
    with pytest.raises(KeyError, match="is not pooled by django_poolkit"):
        connection_pools["default"]
    assert len(connection_pools) == 0


def test_a_process_ends_without_a_word_while_its_pools_are_open(params: dict[str, Any]) -> None:
    script = textwrap.dedent(
        """
        import django, os, json
        from django.conf import settings
        params = json.loads(os.environ["PARAMS"])
        settings.configure(INSTALLED_APPS=["django_poolkit"], DATABASES={"default": {
            "ENGINE": "django_poolkit.backends.postgresql", "NAME": params["dbname"],
            "USER": params["user"], "PASSWORD": params["password"], "HOST": params["host"],
            "PORT": params["port"], "OPTIONS": {"pool": {"min_size": 2}}}})
        django.setup()
        from django.db import connection
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        print("pools open:", connection.pool.stats().used)
        """
    )
    import json

    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", script],
        env={**os.environ, "PARAMS": json.dumps(params)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "pools open: 1\n"


def test_a_pool_that_could_not_be_made_again_is_nothing_to_close(
    table: PoolTable, make: Any
) -> None:
    table.get("key", make, alias="default", place="here").close()

    def fails(name: str) -> ConnectionPool:
        raise RuntimeError("as where the settings are wrong by now")

    with pytest.raises(RuntimeError):
        table.get("key", fails, alias="default", place="here")
    table.close_place("here")
    assert table.get("key", make, alias="default", place="here").name == "default"
