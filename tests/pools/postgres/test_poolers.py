"""Prepared statements behind a pooler: only where it keeps them apart, or somebody says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.postgres.errors import PoolTimeout
from django_poolkit.pools.postgres.poolers import REFUSAL
from django_poolkit.testing import Node
from django_poolkit.testing.waiting import wait_until
from tests.pools.postgres.pooler import Pooler
from tests.pools.support import assert_adds_up

ASK = "SELECT %s::int"


@pytest.fixture
def behind(
    make_pool: Callable[..., ConnectionPool], primary: Node, app: str
) -> Iterator[Callable[..., ConnectionPool]]:
    """Return a function that makes a pool behind a pooler."""
    poolers = []

    def make(tracks: bool, **options: Any) -> ConnectionPool:
        pooler = Pooler(primary.host, primary.port, tracks=tracks)
        poolers.append(pooler)
        place = {
            "host": pooler.host, "port": pooler.port, "autocommit": True, "application_name": app,
        }  # fmt: skip
        return make_pool(kwargs=place | options.pop("kwargs", {}), max_size=2, **options)

    yield make
    for pooler in poolers:
        pooler.__exit__()


def names(connection: Any) -> list[str]:
    """Run a statement until it is prepared; return what the server has prepared."""
    for number in range(7):
        connection.execute(ASK, [number])
    found = connection.execute("SELECT name FROM pg_prepared_statements", prepare=False)
    return [name for (name,) in found]


def test_one_that_hands_the_names_through_is_refused(
    behind: Callable[..., ConnectionPool], primary: Node, app: str
) -> None:
    pool = behind(tracks=False, prepare=True)
    with pytest.raises(PoolTimeout) as caught:
        pool.acquire(timeout=0.5)
    assert f"NotSupportedError: {REFUSAL}" in str(caught.value)
    stats = pool.stats()
    assert (stats.used, stats.idle) == (0, 0)
    wait_until(lambda: not primary.sessions(app))


def test_it_may_be_declared(behind: Callable[..., ConnectionPool]) -> None:
    with behind(tracks=False, prepare="pooler").lease() as connection:
        assert names(connection) == ["_pg3_0"]


def test_one_that_gives_them_its_own_names_is_let_pass(
    behind: Callable[..., ConnectionPool], primary: Node, app: str
) -> None:
    pool = behind(tracks=True, prepare=True)
    with pool.lease() as connection:
        assert connection.info.backend_pid == 4_000_000
        assert "POOLER__pg3_0" in names(connection)
        assert connection.info.transaction_status == 0
    assert_adds_up(pool, primary, app)


def test_who_does_not_prepare_is_not_asked(behind: Callable[..., ConnectionPool]) -> None:
    with behind(tracks=False).lease() as connection:
        assert names(connection) == []


def test_who_sets_the_threshold_himself_has_said_so(behind: Callable[..., ConnectionPool]) -> None:
    with behind(tracks=False, kwargs={"prepare_threshold": 2}).lease() as connection:
        assert names(connection) == ["_pg3_0"]


def test_without_a_pooler_it_is_one_question_of_the_first_connection(
    far_pool: Callable[..., ConnectionPool], proxy: Any
) -> None:
    def trips(pool: ConnectionPool) -> tuple[int, int]:
        before = proxy.round_trips
        with pool.lease():
            one = proxy.round_trips
            with pool.lease():
                return one - before, proxy.round_trips - one

    first, second = trips(far_pool(max_size=2))
    assert first == second + 1
    assert trips(far_pool(max_size=2, prepare=True)) == (first, second + 1)


def test_a_pooler_that_knows_no_named_statements_is_refused(
    behind: Callable[..., ConnectionPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(kind: bytes, body: bytes) -> bytes:
        return b"x\0nonsense\0\0\0" if kind == b"P" else body

    monkeypatch.setattr(Pooler, "_renamed", staticmethod(broken))
    with pytest.raises(PoolTimeout, match=r"a pooler in between mixes up"):
        behind(tracks=True, prepare=True).acquire(timeout=0.5)
