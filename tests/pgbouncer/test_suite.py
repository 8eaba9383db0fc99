"""Django's own tests are led through PgBouncer where that is asked for."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from django_poolkit.testing import Node
from django_poolkit.testing.pgbouncer import PgBouncer
from django_poolkit.testing.waiting import wait_until
from tests.django_suite.variants import STOCK, Variant, pgbouncer_before


@pytest.mark.usefixtures("lends")
def test_ours_goes_through_it_and_djangos_own_does_not(primary: Node) -> None:
    direct = (primary.host, str(primary.port))

    def place(variant: Variant) -> tuple[str, str]:
        entry = variant.database(primary)
        return entry["HOST"], entry["PORT"]

    with pgbouncer_before(primary):
        entry = Variant("transaction").database(primary)
        assert entry["OPTIONS"]["pool"] == {
            "mode": "transaction", "pooler": "pgbouncer-transaction",
        }  # fmt: skip
        assert place(Variant("session")) != direct
        assert place(STOCK) == direct
    assert place(Variant("session")) == direct


def test_an_idle_session_does_not_hinder_a_drop(
    primary: Node, lends: Callable[..., PgBouncer]
) -> None:
    through = lends(server_lifetime=0, default_pool_size=10)
    primary.create_database("brief")
    with psycopg.connect(**through.conninfo("brief"), autocommit=True) as connection:
        connection.execute("SELECT 1")
        wait_until(lambda: not primary.sessions(dbname="brief"))
    primary.execute("DROP DATABASE brief")
