"""COPY, cursors and LISTEN: in bounded memory, cancelled cleanly, and with no silent gap."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from django_poolkit import PoolClosed
from django_poolkit.pools.asyncpg.listen import Gap, Notification
from django_poolkit.testing import Node
from django_poolkit.testing.faults import TCPProxy
from tests.pools.asyncpg.support import (
    PATIENCE,
    MakePool,
    Run,
    assert_quiet,
    gather,
    running,
    until,
)

MANY = 20_000


def test_rows_come_one_by_one_and_whoever_leaves_gives_back(
    make: MakePool, run: Run, primary: Node, service: str
) -> None:
    async def main() -> None:
        pool = make(max_size=1)
        total = 0
        async for row in pool.rows("SELECT g FROM generate_series(1, $1) g", MANY, prefetch=100):
            total += row["g"]
        assert total == MANY * (MANY + 1) // 2
        assert_quiet(pool)
        async with contextlib.aclosing(pool.rows("SELECT generate_series(1, 100000)")) as some:
            async for _ in some:
                break
        assert_quiet(pool)
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            async for _ in pool.rows(["CREATE TABLE t AS SELECT 1", "URNING 1"][0]):
                pass
        with pytest.raises(ValueError, match="prefetch"):
            await anext(pool.rows("SELECT 1", prefetch=0))
        assert_quiet(pool)
        assert running(primary, service) == []

    run(main())


def test_a_copy_out_is_what_the_server_writes(make: MakePool, run_on_each: Run) -> None:
    async def main() -> None:
        pool = make(max_size=1)
        query = "SELECT g, 'row ' || g FROM generate_series(1, $1::int) g"
        chunks = [chunk async for chunk in pool.copy_out(query, MANY, format="csv", header=True)]
        lines = b"".join(chunks).decode().splitlines()
        assert (lines[0], lines[1], lines[-1]) == ("g,?column?", "1,row 1", f"{MANY},row {MANY}")
        assert len(lines) == MANY + 1
        assert len(chunks) > 1
        with pytest.raises(asyncpg.UndefinedTableError):
            async for _ in pool.copy_out("SELECT * FROM nowhere"):
                pass
        assert_quiet(pool)

    run_on_each(main())


def test_who_is_cancelled_as_he_leaves_a_copy_hears_of_it(
    make: MakePool, run_on_each: Run, primary: Node, service: str
) -> None:
    async def main() -> None:
        pool = make(max_size=1)
        endless = "SELECT repeat('x', 1000), generate_series(1, 100000000)"

        async def leave(leaving: asyncio.Event) -> None:
            async with contextlib.aclosing(pool.copy_out(endless)) as chunks:
                async for _ in chunks:
                    break
                leaving.set()
            await asyncio.Event().wait()

        for _ in range(5):
            leaving = asyncio.Event()
            task = asyncio.create_task(leave(leaving))
            await leaving.wait()
            task.cancel()
            assert (await asyncio.wait({task}, timeout=PATIENCE))[0], "it goes on"
            assert task.cancelled()
        await until(lambda: not pool.stats().used)
        await until(lambda: not running(primary, service))
        assert_quiet(pool)

    run_on_each(main())


def test_who_leaves_a_copy_early_has_the_server_stop(
    make: MakePool, run_on_each: Run, primary: Node, service: str
) -> None:
    async def main() -> None:
        pool = make(max_size=1)
        endless = "SELECT repeat('x', 1000) FROM generate_series(1, 100000000)"
        async with contextlib.aclosing(pool.copy_out(endless)) as chunks:
            async for _ in chunks:
                break
        await until(lambda: not pool.stats().used)
        await until(lambda: not running(primary, service))

        async def read() -> None:
            async for _ in pool.copy_out(endless):
                pass

        task = asyncio.create_task(read())
        await until(lambda: running(primary, service))
        task.cancel()
        await gather(task)
        await until(lambda: not pool.stats().used)
        await until(lambda: not running(primary, service))
        assert_quiet(pool)

    run_on_each(main())


def test_a_copy_in_writes_all_or_nothing(make: MakePool, run: Run) -> None:
    async def records(broken_at: int = 0) -> AsyncIterator[tuple[int, str]]:
        for number in range(MANY):
            if broken_at and number == broken_at:
                raise RuntimeError("no more of it")
            yield number, f"row {number}"

    async def main() -> None:
        pool = make(max_size=1)
        async with pool.lease() as connection:
            await connection.execute(
                "DROP TABLE IF EXISTS copied; CREATE TABLE copied (a int, b text)"
            )
        try:
            assert await pool.copy_in("copied", [(1, "one")], columns=["a", "b"]) == 1
            assert await pool.copy_in("copied", records(), schema="public") == MANY
            with pytest.raises(RuntimeError, match="no more of it"):
                await pool.copy_in("copied", records(broken_at=1000))
            async with pool.lease() as connection:
                assert await connection.fetchval("SELECT count(*) FROM copied") == MANY + 1
        finally:
            async with pool.lease() as connection:
                await connection.execute("DROP TABLE copied")
        assert_quiet(pool)

    run(main())


def test_what_is_notified_is_heard_in_order(make: MakePool, run_on_each: Run) -> None:
    async def main() -> None:
        pool = make(max_size=1)
        async with pool.listener("orders", "Other Channel") as listener:
            assert listener.connected
            async with pool.lease() as connection:
                pid = connection.get_server_pid()
                for number in range(3):
                    await connection.execute(f"NOTIFY orders, '{number}'")
                await connection.execute("SELECT pg_notify('Other Channel', 'x')")
            found = [await listener.get() for _ in range(4)]
            assert found == [
                *(Notification("orders", str(number), pid) for number in range(3)),
                Notification("Other Channel", "x", pid),
            ]
            assert pool.stats().size == 1  # its own is beside the pool
        with pytest.raises(PoolClosed):
            await listener.get()
        with pytest.raises(ValueError, match="channel"):
            pool.listener()
        assert_quiet(pool)

    run_on_each(main())


async def _tell(pool: Any, text: str) -> None:
    async with pool.lease() as connection:
        await connection.execute("SELECT pg_notify('orders', $1)", text)


def test_a_lost_connection_is_made_anew_and_the_gap_is_told(
    make: MakePool, run_on_each: Run, primary: Node
) -> None:
    async def main() -> None:
        pool = make(max_size=1)
        async with pool.listener("orders") as listener:
            await _tell(pool, "before")
            assert await listener.get() == Notification("orders", "before", _pid(await _last(pool)))
            primary.kill_backend(listener._connection.get_server_pid())
            gap = await listener.get()
            assert isinstance(gap, Gap)
            assert gap.reason == "connection_lost"
            assert 0 <= gap.seconds < 30
            await _tell(pool, "after")
            heard = await listener.get()
            assert isinstance(heard, Notification)
            assert heard.payload == "after"

    run_on_each(main())


async def _last(pool: Any) -> Any:
    async with pool.lease() as connection:
        return connection.get_server_pid()


def _pid(number: Any) -> int:
    return int(number)


def test_a_silent_network_is_noticed_by_the_heartbeat(
    make: MakePool, run: Run, primary: Node
) -> None:
    async def main() -> None:
        with TCPProxy(primary.host, primary.port) as proxy:
            pool = make({"host": "127.0.0.1", "port": proxy.port}, RECONNECT_CAP=0.2, timeout=1.0)
            direct = make()
            async with pool.listener("orders", heartbeat=0.2) as listener:
                proxy.stall()
                await until(lambda: not listener.connected)
                await _tell(direct, "missed")
                proxy.resume()
                gap = await listener.get()
                while isinstance(gap, Notification):  # it had been sent, and was held up
                    gap = await listener.get()
                assert gap.reason == "connection_lost"
                await _tell(direct, "heard")
                assert await listener.get() == Notification("orders", "heard", await _last(direct))

    run(main())


def test_more_than_is_kept_is_told_as_a_gap(make: MakePool, run: Run) -> None:
    async def main() -> None:
        pool = make(max_size=1)
        async with pool.listener("orders", keep=2) as listener:
            for number in range(5):
                await _tell(pool, str(number))
            await until(lambda: listener._overflow and listener._found[-1].payload == "4")  # type: ignore[union-attr]
            found = [await listener.get() for _ in range(3)]
            assert found[0] == Gap(0.0, "overflow")
            assert [each.payload for each in found[1:] if isinstance(each, Notification)] == [
                "3",
                "4",
            ]

    run(main())
