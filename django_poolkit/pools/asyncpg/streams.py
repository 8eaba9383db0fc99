"""Rows as a stream, out of the server and into it, in the memory of a few of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from django_poolkit.pools.asyncpg.pool import AsyncpgPool

Rows = Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]]
# Chunks of a COPY that the server may be ahead of its reader.
_AHEAD: Final = 4


async def rows(
    pool: AsyncpgPool,
    query: str,
    *args: Any,
    prefetch: int = 500,
    timeout: float | None = None,
) -> AsyncGenerator[Any]:
    """Give the rows of a query one by one, `prefetch` of them in memory.

    Holds a lease, in a read-only transaction, until the last row or the end of the iteration: who
    leaves early closes the generator, with `contextlib.aclosing()`. `timeout` is the acquire's.
    """
    if prefetch < 1:
        raise ValueError(f"prefetch must be at least 1; got {prefetch!r}")
    async with pool.lease(timeout) as connection, connection.transaction(readonly=True):
        async for row in connection.cursor(query, *args, prefetch=prefetch):
            yield row


async def copy_out(
    pool: AsyncpgPool,
    query: str,
    *args: Any,
    timeout: float | None = None,
    **options: Any,
) -> AsyncGenerator[bytes]:
    """Give what a query returns as COPY writes it, in chunks of bytes.

    Options are asyncpg's of `copy_from_query()`, as `format="csv", header=True`. Who reads slowly
    slows the server down. Holds a lease as `rows()` does; who leaves early has the server stop.
    """
    chunks: asyncio.Queue[bytes | None] = asyncio.Queue(_AHEAD)

    async def copy() -> None:
        try:
            async with pool.lease(timeout) as connection:
                await connection.copy_from_query(query, *args, output=chunks.put, **options)
        finally:
            # Whoever reads looks at the task as well; the mark may find no room.
            with suppress(asyncio.QueueFull):
                chunks.put_nowait(None)

    task = asyncio.create_task(copy())
    try:
        while True:
            getter = asyncio.ensure_future(chunks.get())
            try:
                await asyncio.wait({getter, task}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not getter.done():
                    getter.cancel()
            if not getter.done():
                if task.done():
                    break
                continue
            if (chunk := getter.result()) is None:
                break
            yield chunk
        await task
    finally:
        task.cancel()
        # Not awaited itself: who is cancelled meanwhile is to hear of it. It ends all the same.
        await asyncio.wait({task})


async def copy_in(
    pool: AsyncpgPool,
    table: str,
    records: Rows,
    *,
    columns: Sequence[str] | None = None,
    schema: str | None = None,
    timeout: float | None = None,
) -> int:
    """Write rows into a table by binary COPY, all or nothing; return how many.

    `records` may be an async iterable, and endless: no more than a buffer of them is in memory.
    Raises asyncpg's errors, and what `records` raises; nothing is written then.
    """
    async with pool.lease(timeout) as connection:
        status = await connection.copy_records_to_table(
            table, records=records, columns=columns, schema_name=schema
        )
    return int(status.rpartition(" ")[2])
