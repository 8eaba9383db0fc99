"""A primary that comes back as a standby while its address still leads to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import psycopg
import pytest
from django.db import InternalError, connection, connections, transaction

from django_poolkit import registry
from django_poolkit.pools.postgres import ConnectionPool, steering
from django_poolkit.testing import Cluster
from django_poolkit.testing.faults import TCPProxy
from tests.pools.support import fill

REFUSED = psycopg.errors.ReadOnlySqlTransaction


class Address(TCPProxy):
    """A virtual address: it leads to one server, until it is moved to another."""

    def move(self, port: int) -> None:
        """Lead new connections there; old ones go on where they are."""
        self._target = (self._target[0], port)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A standby, which was the primary a moment ago, and who is the primary now."""
    with Cluster(replicas=1) as cluster:
        cluster.primary.execute("CREATE TABLE orders (number int)")
        cluster.primary.wait_caught_up(cluster.replicas[0])
        yield cluster


@pytest.fixture
def address(cluster: Cluster) -> Iterator[Address]:
    """The address of both, which leads to the standby."""
    old = cluster.replicas[0]
    with Address(old.host, old.port) as address:
        yield address


@pytest.fixture
def pool(cluster: Cluster, address: Address) -> Iterator[ConnectionPool]:
    place = {"host": address.host, "port": address.port, "sslmode": "disable"}
    kwargs = cluster.primary.conninfo() | place
    with ConnectionPool(kwargs=kwargs, max_size=4, timeout=10.0) as pool:
        yield pool


def insert(pool: ConnectionPool) -> None:
    with pool.lease() as connection:
        connection.execute("INSERT INTO orders VALUES (1)")


def test_the_first_write_after_the_address_has_moved_reaches_the_new_primary(
    pool: ConnectionPool, address: Address, cluster: Cluster
) -> None:
    [(before,)] = cluster.primary.execute("SELECT count(*) FROM orders")
    fill(pool, 4)
    with pytest.raises(REFUSED):
        insert(pool)
    # One that failed and three that were idle. A probe would have been content with all of them.
    assert pool.stats().closed == {"read_only": 4}
    address.move(cluster.primary.port)
    insert(pool)
    assert cluster.primary.execute("SELECT count(*) FROM orders") == [(before + 1,)]


def test_leased_ones_go_as_they_come_home(pool: ConnectionPool) -> None:
    reader = pool.acquire()
    with pytest.raises(REFUSED):
        insert(pool)
    assert reader.connection.execute("SELECT 1").fetchone() == (1,)
    reader.release()
    assert pool.stats().closed == {"read_only": 1, "recycled": 1}
    assert pool.stats().size == 0


@pytest.mark.parametrize("way", ["copy", "server", "many", "pipeline"])
def test_whatever_way_the_write_takes(pool: ConnectionPool, way: str) -> None:
    def write(raw: psycopg.Connection[tuple[int]]) -> None:
        match way:
            case "copy":
                with raw.cursor() as cursor, cursor.copy("COPY orders FROM STDIN") as copy:
                    copy.write_row((1,))
            case "server":
                with raw.cursor("named") as cursor:
                    cursor.execute("SELECT number FROM orders FOR UPDATE")
            case "many":
                raw.cursor().executemany("INSERT INTO orders VALUES (%s)", [(1,), (2,)])
            case "pipeline":
                with raw.pipeline():
                    raw.execute("INSERT INTO orders VALUES (1)")

    with pytest.raises(REFUSED), pool.lease() as raw:
        write(raw)
    assert pool.stats().closed == {"read_only": 1}


def test_who_writes_to_a_replica_by_mistake_does_not_make_it_connect_all_the_time(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(steering, "monotonic", lambda: clock[0])
    recycled = []
    for second in range(200):
        clock[0] = float(second)
        generation = pool._generation
        with suppress(REFUSED):
            insert(pool)
        if pool._generation != generation:
            recycled.append(second)
    # After 1 s, 2 s, 4 s, 8 s, and from there on each 10 s.
    assert recycled == [0, 1, 3, 7, *range(15, 200, 10)]
    # And when that is long ago, at once.
    clock[0] = 1000.0
    generation = pool._generation
    for _ in range(2):
        with pytest.raises(REFUSED):
            insert(pool)
    assert pool._generation == generation + 1
    assert pool._spared == 1.0


def test_a_read_only_transaction_of_ones_own_changes_nothing(
    pool: ConnectionPool, address: Address, cluster: Cluster
) -> None:
    address.move(cluster.primary.port)
    fill(pool, 2)
    lease = pool.acquire()
    lease.connection.read_only = True
    with pytest.raises(REFUSED):
        lease.connection.execute("INSERT INTO orders VALUES (1)")
    lease.release()
    pool.acquire().release()
    assert pool.stats().closed == {}


@pytest.mark.usefixtures("transactional_db")
@pytest.mark.parametrize("mode", ["session", "transaction"])
@pytest.mark.parametrize("block", [False, True], ids=["autocommit", "atomic"])
def test_a_request_that_fails_takes_the_old_server_along(
    cluster: Cluster, address: Address, mode: str, block: bool
) -> None:
    def request() -> None:
        wrapper = connections["default"]
        try:
            with wrapper.cursor() as cursor:
                if not block:
                    cursor.execute("INSERT INTO orders VALUES (2)")
                    return
            with transaction.atomic(), wrapper.cursor() as cursor:
                cursor.execute("INSERT INTO orders VALUES (2)")
        finally:
            wrapper.close()

    place = {"HOST": address.host, "PORT": str(address.port)}
    entry = connections.settings["default"]
    before = dict(entry)
    connections.close_all()
    entry.update(cluster.primary.django_settings(), **place)
    entry["OPTIONS"] = {"pool": {"mode": mode, "timeout": 10.0}, "sslmode": "disable"}
    try:
        with pytest.raises(InternalError, match="read-only"):
            request()
        address.move(cluster.primary.port)
        request()
        pool = connection.pool  # type: ignore[attr-defined]
        assert pool.stats().closed == {"read_only": 1}
        assert pool.stats().used == 0
    finally:
        connection.close()
        entry.clear()
        entry.update(before)
        registry.pools.close_all()
