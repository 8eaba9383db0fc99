"""A user's own check: called on each acquire, and no storm when it refuses everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from django_poolkit import PoolTimeout
from django_poolkit.pools.postgres import ConnectionPool, acquire

pytestmark = pytest.mark.core


def test_a_check_that_refuses_everything_backs_off_and_is_named(
    make_pool: Callable[..., ConnectionPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(acquire, "sleep", pauses.append)

    def refuse(connection: Any) -> None:
        raise LookupError("secret reasons")

    pool = make_pool(check=refuse, timeout=0.5, reconnect_cap=1.0)
    with pytest.raises(PoolTimeout) as caught:
        pool.acquire()
    assert pauses[:4] == pytest.approx([0.1, 0.2, 0.4, 0.5], abs=0.3)
    assert all(0.0 <= pause <= 0.5 for pause in pauses)
    assert "check refused a connection: LookupError" in str(caught.value)
    assert "secret" not in str(caught.value)
    stats = pool.stats()
    assert stats.closed["check_failed"] == stats.connects
    assert (stats.used, stats.idle) == (0, 0)


def test_a_check_that_refuses_an_old_connection_costs_no_pause(
    make_pool: Callable[..., ConnectionPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(acquire, "sleep", pauses.append)
    refused: list[Any] = []

    def refuse_the_old(connection: Any) -> None:
        if connection in refused:
            raise LookupError

    pool = make_pool(check=refuse_the_old)
    first = pool.acquire()
    refused.append(first.connection)
    first.release()
    second = pool.acquire()
    assert second.connection not in refused
    assert pauses == []
    assert pool.stats().last_connect_error is None
    second.release()


def test_psycopg_pools_statistics_know_the_size(
    make_pool: Callable[..., ConnectionPool],
) -> None:
    pool = make_pool()
    with pool.connection():
        assert pool.get_stats()["pool_size"] == 1
        assert pool.get_stats()["pool_available"] == 0
    assert pool.pop_stats()["pool_available"] == 1
