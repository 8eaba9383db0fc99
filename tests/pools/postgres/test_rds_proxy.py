"""RDS Proxy, of which there is none here: what is sent to it, what is not, and what is counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from django_poolkit.pools import rds_proxy
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.postgres.connect import SessionDefaults
from django_poolkit.pools.postgres.errors import PoolTimeout
from django_poolkit.pools.session_state import residue
from tests.pools.postgres.pooler import Pooler

Make = Callable[..., ConnectionPool]

CONDITIONS = {
    "SET work_mem = '5MB'": "SET, RESET, set_config",
    "RESET work_mem": "SET, RESET, set_config",
    "SELECT set_config('app.tenant', '7', false)": "SET, RESET, set_config",
    "SET LOCAL work_mem = '5MB'": None,
    "LISTEN news": "LISTEN",
    "PREPARE p AS SELECT 1": "PREPARE, EXECUTE, DEALLOCATE, DISCARD",
    "DEALLOCATE p": "PREPARE, EXECUTE, DEALLOCATE, DISCARD",
    "DISCARD ALL": "PREPARE, EXECUTE, DEALLOCATE, DISCARD",
    "DECLARE c CURSOR FOR SELECT 1": "cursor",
    "DECLARE c CURSOR WITH HOLD FOR SELECT 1": "cursor",
    "CREATE TEMP TABLE t (n int)": "temporary object",
    "CREATE TEMPORARY TABLE t (n int) ON COMMIT DROP": "temporary object",
    "CREATE OR REPLACE TEMP VIEW v AS SELECT 1": "temporary object",
    "LOAD 'auto_explain'": "LOAD",
    "SELECT nextval('orders_id_seq')": "sequence",
    "SELECT setval('orders_id_seq', 7)": "sequence",
    "SELECT lastval()": "sequence",
    "SELECT pg_advisory_lock(1)": "advisory lock",
    "SELECT pg_try_advisory_lock(1)": "advisory lock",
    "SELECT pg_advisory_xact_lock(1)": None,
    "SELECT 1": None,
    "INSERT INTO orders VALUES (1)": None,
    "SELECT '" + "x" * 16 * 1024 + "'": "over 16 KB",
    "SELECT '" + "ä" * 8 * 1024 + "'": "over 16 KB",
    "SELECT '" + "x" * 16_000 + "'": None,
}


@pytest.mark.parametrize("text", CONDITIONS, ids=lambda text: text[:40])
def test_what_pins(text: str) -> None:
    assert rds_proxy.condition(text, residue(text)) == CONDITIONS[text]


def test_each_condition_is_tried() -> None:
    assert {*CONDITIONS.values()} - {None} == {*rds_proxy.CONDITIONS}


def test_lines_are_counted_also_where_their_text_comes_again(make_pool: Make) -> None:
    pool = make_pool(pooler="rds-proxy", max_size=1)
    with pool.lease() as connection:
        connection.execute("CREATE TEMP SEQUENCE numbers")
        for _ in range(3):
            connection.execute("SELECT nextval('numbers')")
            connection.execute("SELECT 1")
        with connection.transaction(), connection.cursor("named") as cursor:
            cursor.execute("SELECT 1")
    assert pool.statements.proxied is not None
    found = pool.statements.proxied.rows()
    assert [(condition, count) for _, condition, count in found] == [
        ("sequence", 3), ("cursor", 1), ("temporary object", 1),
    ]  # fmt: skip
    pool.statements.forget()
    assert pool.statements.proxied.rows() == []


def test_nobody_else_counts(make_pool: Make) -> None:
    assert make_pool().statements.proxied is None


@pytest.fixture
def far(primary: Any, make_pool: Make) -> Any:
    """A pool behind a pooler that takes no start-up options, as that proxy."""
    with Pooler(primary.host, primary.port, refuses=True) as pooler:
        place = {"host": pooler.host, "port": pooler.port, "autocommit": True}

        def make(**options: Any) -> ConnectionPool:
            return make_pool(kwargs=place, pooler="rds-proxy", max_size=1, **options)

        yield make, pooler


def test_nothing_is_set_on_connect(far: Any, primary: Any) -> None:
    make, pooler = far
    (zone,) = primary.execute("SHOW TimeZone")[0]
    with make(defaults=SessionDefaults({"TimeZone": zone})).lease() as connection:
        row = connection.execute(
            "SELECT source FROM pg_settings WHERE name = 'TimeZone'"
        ).fetchone()
        assert row != ("session",)
    assert pooler.refused == 0
    other = SessionDefaults({"TimeZone": "Asia/Tokyo"}, {"TimeZone": "TIME_ZONE"})
    with pytest.raises(PoolTimeout, match=r"TIME_ZONE: the server has another.*ALTER ROLE … SET T"):
        make(defaults=other).acquire(timeout=0.5)


def test_what_set_something_is_closed_and_frees_its_session(far: Any) -> None:
    make, _ = far
    pool = make()
    with pool.lease() as connection:
        connection.execute("SET work_mem = '5MB'")
    assert pool.stats().closed == {"pooler": 1}
    assert pool.stats().resets == 0
