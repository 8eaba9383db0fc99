"""The `pgbouncer.ini` and the settings of the page on PgBouncer, tried on a real one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db.utils import ConnectionHandler

from django_poolkit import registry
from django_poolkit.testing import Node
from django_poolkit.testing.pgbouncer import PgBouncer
from tests.docs_support import DOCS, blocks

PAGE = DOCS / "how-to" / "deploy-behind-pgbouncer.md"


def block(language: str, word: str) -> str:
    """Return the first block of the page that begins with a word."""
    found, *_ = (b.text for b in blocks(PAGE) if b.language == language and b.text.startswith(word))
    return found


@pytest.fixture
def shop(primary: Node) -> Iterator[str]:
    """The database of the page."""
    primary.create_database("shop")
    yield "shop"
    primary.execute("DROP DATABASE shop WITH (FORCE)")


@pytest.mark.usefixtures("installed", "transactional_db")
def test_the_page_works_as_it_stands(primary: Node, shop: str) -> None:
    settings: dict[str, Any] = {}
    exec(block("python", "DATABASES"), settings)
    with PgBouncer(primary, text=block("ini", "[databases]")) as bouncer:
        entry = settings["DATABASES"]["default"] | bouncer.django_settings(shop)
        handler = ConnectionHandler({"default": entry})
        connection: Any = handler["default"]
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT current_database(), current_setting('TimeZone')")
                assert cursor.fetchone() == (shop, connection.timezone_name)
                cursor.execute("CREATE TABLE orders (id serial)")
            assert connection.pool.stats().pins == {}
            (row,) = (r for r in bouncer.console("SHOW POOLS") if r["database"] == shop)
            assert row["pool_mode"] == "transaction"
            (config,) = (
                r for r in bouncer.console("SHOW CONFIG") if r["key"] == "query_wait_timeout"
            )
            assert config["value"] == "10"
        finally:
            handler.close_all()
            registry.pools.close_all()
