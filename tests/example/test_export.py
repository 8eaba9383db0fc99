"""The view that streams: fifty thousand rows, in the memory of a few hundred."""

from __future__ import annotations

import asyncio
import tracemalloc
from decimal import Decimal
from typing import Any

import pytest
from django.http import StreamingHttpResponse
from django.test import RequestFactory
from django.utils import timezone

from django_poolkit import asyncpg_pools, registry
from example_project.shop import views
from example_project.shop.models import Customer, Order, OrderLine, Product

pytestmark = pytest.mark.django_db(transaction=True)

MANY = 50_000
# Bytes. The rows together take more than ten times as much, as asyncpg's records alone.
MOST = 1_500_000


@pytest.fixture
def lines() -> Any:
    """Fill the table, by COPY; leave no pool."""
    product = Product.objects.create(sku="p1", name="one", category="c", price=Decimal("1.50"))
    customer = Customer.objects.create(name="c", email="c@example.com")
    orders = Order.objects.bulk_create(
        Order(customer=customer, placed=timezone.now(), total=1) for _ in range(MANY)
    )
    records = [(order.pk, product.pk, 2, Decimal("1.50")) for order in orders]

    async def load() -> None:
        pool, table = asyncpg_pools["default"], OrderLine._meta.db_table
        columns = ["order_id", "product_id", "quantity", "price"]
        assert await pool.copy_in(table, records, columns=columns) == MANY

    asyncio.run(load())
    yield orders
    registry.asyncpg.close_all()


def test_all_rows_are_streamed_in_bounded_memory(lines: list[Order]) -> None:
    async def main() -> tuple[int, int, int]:
        pool = asyncpg_pools["default"]
        async with pool.lease() as connection:  # so that no connect is measured
            await connection.fetchval("SELECT 1")
        response = await views.export(RequestFactory().get("/orders.csv"))
        assert isinstance(response, StreamingHttpResponse)
        count = length = 0
        tracemalloc.start()
        try:
            async for chunk in response:
                count += chunk.count(b"\n")
                length += len(chunk)
            return count, length, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            assert pool.stats().used == 0

    count, length, peak = asyncio.run(main())
    assert count == MANY + 1
    assert length > 500_000
    assert peak < MOST


def test_a_client_that_goes_away_ends_the_query(lines: list[Order]) -> None:
    async def main() -> None:
        pool = asyncpg_pools["default"]
        response: Any = await views.export(RequestFactory().get("/orders.csv"))
        chunks = aiter(response.streaming_content)
        assert await anext(chunks) == b"order,product,quantity,price\n"
        await anext(chunks)
        assert pool.stats().used == 1
        await response._iterator.aclose()
        assert pool.stats().used == 0

    asyncio.run(main())
