"""A listener over networks and servers that fail: what it tells, and what it leaves behind."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import asyncpg
import pytest

from django_poolkit.pools.asyncpg.errors import PoolClosed
from django_poolkit.pools.asyncpg.listen import Gap, Listener, Notification
from django_poolkit.testing import Node
from django_poolkit.testing.faults import TCPProxy
from tests.pools.asyncpg.support import PATIENCE, MakePool, Run, in_thread, until


def _sessions(node: Node, name: str) -> int:
    query = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}'"
    return int(node.execute(query)[0][0])


async def _tell(pool: Any, channel: str, text: str) -> None:
    async with pool.lease() as connection:
        await connection.execute("SELECT pg_notify($1, $2)", channel, text)


def test_a_listen_that_is_never_answered_is_given_up(
    make: MakePool, run: Run, primary: Node, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with TCPProxy(primary.host, primary.port) as proxy:
            stalls = False

            async def init(connection: Any) -> None:  # the last before LISTEN
                if stalls:
                    await in_thread(proxy.stall)

            where = {"host": "127.0.0.1", "port": proxy.port}
            pool = make(where, init=init, RECONNECT_CAP=0.2, timeout=1.0)
            async with pool.listener("orders", heartbeat=0.2) as listener:
                stalls = True
                await in_thread(proxy.drop)
                await until(lambda: "TimeoutError: the server has not answered" in caplog.text)
                stalls = False
                await in_thread(proxy.resume)
                assert isinstance(await listener.get(), Gap)
            stalls = True
            with pytest.raises(TimeoutError, match="has not answered LISTEN"):
                async with pool.listener("orders", heartbeat=0.2):
                    raise AssertionError("not to be entered")
            await in_thread(proxy.resume)

    run(main())


def test_a_server_that_ends_each_connection_at_once_is_not_besieged(
    make: MakePool, run: Run, primary: Node, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with TCPProxy(primary.host, primary.port) as proxy:
            pool = make({"host": "127.0.0.1", "port": proxy.port}, RECONNECT_CAP=0.2)
            async with pool.listener("orders") as listener:
                started = time.monotonic()
                while caplog.text.count("event=listener_lost") < 5:
                    if listener.connected:
                        await in_thread(proxy.drop)
                    await asyncio.sleep(0)
                await until(lambda: listener.connected)
                # At once, and after that by pauses of 0.1 and 0.2 s, less a quarter by chance.
                assert time.monotonic() - started >= 0.75 * (0.1 + 3 * 0.2)
                gaps = [await listener.get() for _ in range(5)]
                assert {type(gap) for gap in gaps} == {Gap}

    run(main())


def test_a_gap_is_told_before_what_the_new_connection_hears(
    make: MakePool, run_on_each: Run, primary: Node
) -> None:
    async def main() -> None:
        direct = make()

        class Slow(asyncpg.Connection):  # type: ignore[misc]
            async def add_listener(self, channel: str, callback: Any) -> None:
                if channel == "second":
                    await _tell(direct, "first", "while it connects")
                await super().add_listener(channel, callback)

        pool = make(connection_class=Slow)
        async with pool.listener("first", "second") as listener:
            found = await listener.get()
            assert isinstance(found, Notification)
            primary.kill_backend(listener._connection.get_server_pid())
            assert isinstance(await listener.get(), Gap)
            found = await listener.get()
            assert isinstance(found, Notification)
            assert (found.channel, found.payload) == ("first", "while it connects")

    run_on_each(main())


@pytest.mark.parametrize("by", ["task", "thread"])
def test_a_listener_ends_with_its_pool(
    make: MakePool, run_on_each: Run, primary: Node, service: str, by: str
) -> None:
    async def main() -> None:
        pool = make()
        async with pool.listener("orders") as listener:
            waiting = asyncio.create_task(listener.get())
            await asyncio.sleep(0)
            if by == "task":
                await pool.close()
            else:
                await in_thread(lambda: pool.close_from_thread(5.0))
            with pytest.raises(PoolClosed, match="the pool of this listener"):
                await asyncio.wait_for(waiting, PATIENCE)
            assert not listener.connected
            await until(lambda: _sessions(primary, service) == 0)

    run_on_each(main())


def test_a_pool_that_closes_as_one_begins_to_listen_ends_that(
    make: MakePool, run: Run, primary: Node, service: str
) -> None:
    async def main() -> None:
        async def init(connection: Any) -> None:
            await pool.close()

        pool = make(init=init)
        with pytest.raises(PoolClosed):
            async with pool.listener("orders"):
                raise AssertionError("not to be entered")
        await until(lambda: _sessions(primary, service) == 0)

    run(main())


def test_who_is_cancelled_as_he_leaves_keeps_no_connection(
    make: MakePool, run_on_each: Run, primary: Node, service: str
) -> None:
    async def main() -> None:
        pool = make()
        listening = asyncio.Event()
        listeners: list[Listener] = []

        async def hear() -> None:
            async with pool.listener("orders") as listener:
                listeners.append(listener)
                listening.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(hear())
        await listening.wait()
        beside = asyncio.create_task(listeners[0].get())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(PoolClosed, match="this listener has been closed"):
            await asyncio.wait_for(beside, PATIENCE)
        await until(lambda: _sessions(primary, service) == 0)

    run_on_each(main())


def test_a_name_that_the_server_would_cut_is_refused(make: MakePool, run: Run) -> None:
    async def main() -> None:
        pool = make()
        longest = "ä" * 31 + "x"
        async with pool.listener(longest) as listener:
            await _tell(pool, longest, "heard")
            found = await listener.get()
            assert isinstance(found, Notification)
            assert (found.channel, found.payload) == (longest, "heard")
        with pytest.raises(ValueError, match="63 bytes"):
            pool.listener("orders", longest + "x")

    run(main())


def test_a_listener_serves_one_block(make: MakePool, run: Run) -> None:
    async def main() -> None:
        pool = make()
        async with pool.listener("orders") as listener:
            with pytest.raises(RuntimeError, match="make another"):
                await listener.__aenter__()
            await _tell(pool, "orders", "x")
            assert isinstance(await listener.get(), Notification)
        with pytest.raises(RuntimeError, match="make another"):
            await listener.__aenter__()

    run(main())
