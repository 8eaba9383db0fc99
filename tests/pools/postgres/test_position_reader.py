"""How far a server has come, as many threads want to know it at once."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.postgres.positions import PositionReader
from django_poolkit.testing import Node
from django_poolkit.testing.waiting import wait_until


@pytest.fixture
def reader(make_pool: Callable[..., ConnectionPool]) -> PositionReader:
    """One of a pool's own."""
    return make_pool().positions


def test_what_was_read_holds_for_as_long_as_its_connection(reader, primary: Node):
    reading = reader.read(5.0)
    assert reader.still(reading)
    for session in primary.sessions():
        primary.kill_backend(session.pid)
    wait_until(lambda: not reader.still(reading), 10.0, "its connection has ended, and it holds")
    newer = reader.read(5.0)
    assert reader.still(newer)
    assert not reader.still(reading)
    assert newer.position.reached_by(reader.read(5.0).position)


def test_it_holds_while_an_answer_is_on_its_way(reader):
    reading = reader.read(5.0)
    pgconn = reader._connection.pgconn
    pgconn.send_query(b"SELECT 1")
    pgconn.flush()
    assert select.select([pgconn.socket], [], [], 10.0)[0]
    assert reader.still(reading)


def test_threads_may_look_at_the_same_time(reader):
    reading = reader.read(5.0)
    together = threading.Barrier(8)

    def look() -> bool:
        together.wait(10.0)
        return all(reader.still(reading) for _ in range(2_000))

    with ThreadPoolExecutor(8) as pool:
        assert all(each.result() for each in [pool.submit(look) for _ in range(8)])
