"""The lock of a connection, which threads and calls in the bridge wait for side by side."""

from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from django_poolkit.pools.bridge.driver import await_only, run
from django_poolkit.pools.bridge.lock import HybridLock
from tests.pools.postgres.tasks import LOOPS, assert_quiet, cancelled, run_on, run_on_each, until
from tests.pools.support import PATIENCE, Call

__all__ = ["run_on_each"]


def hold(lock: HybridLock, order: list[Any], name: Any, gate: asyncio.Event) -> None:
    """Hold the lock in the bridge until a gate opens."""
    with lock:
        order.append(name)
        await_only(gate.wait())


def waiting(lock: HybridLock, count: int) -> bool:
    return len(lock._waiters) == count


def test_calls_are_served_in_the_order_in_which_they_came(run_on_each):
    async def main():
        lock, gate = HybridLock(), asyncio.Event()
        order: list[int] = []
        tasks = [asyncio.ensure_future(run(hold, lock, order, n, gate)) for n in range(4)]
        await until(lambda: waiting(lock, 3))
        assert order == [0]
        gate.set()
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2, 3]
        assert not lock.locked()

    run_on_each(main)


def test_a_thread_waits_for_a_call_and_a_call_for_a_thread(run_on_each):
    async def main():
        lock, gate = HybridLock(), asyncio.Event()
        order: list[str] = []
        held, go = threading.Event(), threading.Event()

        def in_a_thread() -> None:
            with lock:
                order.append("thread")
                held.set()
                assert go.wait(PATIENCE)

        first = asyncio.ensure_future(run(hold, lock, order, "call", gate))
        await until(lambda: order == ["call"])
        thread = Call(in_a_thread)
        await until(lambda: waiting(lock, 1))
        gate.set()
        await first
        await asyncio.to_thread(held.wait, PATIENCE)
        last = asyncio.ensure_future(run(hold, lock, order, "last", gate))
        await until(lambda: waiting(lock, 1))
        for _ in range(20):  # the loop goes on
            await asyncio.sleep(0)
        go.set()
        await last
        thread.result()
        assert order == ["call", "thread", "last"]
        assert not lock.locked()

    run_on_each(main)


def test_who_is_cancelled_leaves_and_passes_on_what_it_was_given(run_on_each):
    async def main():
        lock, gate = HybridLock(), asyncio.Event()
        order: list[str] = []
        first = asyncio.ensure_future(run(hold, lock, order, "first", gate))
        second = asyncio.ensure_future(run(hold, lock, order, "second", gate))
        third = asyncio.ensure_future(run(hold, lock, order, "third", gate))
        await until(lambda: waiting(lock, 2))
        await cancelled(second)
        assert waiting(lock, 1)
        fourth = asyncio.ensure_future(run(hold, lock, order, "fourth", gate))
        await until(lambda: waiting(lock, 2))
        # In the tick in which the third is given the lock.
        loop = asyncio.get_running_loop()
        first.add_done_callback(lambda _: third.cancel())
        gate.set()
        loop.call_soon(third.cancel)
        await first
        await asyncio.wait([third, fourth])
        assert third.cancelled()
        assert order == ["first", "fourth"]
        assert not lock.locked()

    run_on_each(main)


def test_a_closed_loop_is_passed_by():
    lock = HybridLock()
    order: list[str] = []
    loop = asyncio.new_event_loop()
    held = [run(hold, lock, order, "never", asyncio.Event())]
    with lock:

        async def begin() -> None:
            task: Any = asyncio.ensure_future(held.pop())
            task._log_destroy_pending = False
            await until(lambda: waiting(lock, 1))

        # In a thread of its own: here it would be in the way of itself.
        Call(loop.run_until_complete, begin()).result()
        loop.close()
    assert not lock.locked()
    with lock:
        assert order == []


def test_plain_code_is_refused_what_would_stop_the_loop_for_ever(run_on_each):
    async def main():
        lock, gate = HybridLock(), asyncio.Event()
        order: list[str] = []
        task = asyncio.ensure_future(run(hold, lock, order, "call", gate))
        await until(lambda: order == ["call"])
        with pytest.raises(RuntimeError, match="would wait for itself"), lock:
            pass
        assert waiting(lock, 0)
        gate.set()
        await task

    run_on_each(main)


def test_code_that_holds_it_already_is_refused(run_on_each):
    def twice(lock: HybridLock) -> None:
        with lock, pytest.raises(RuntimeError, match="would wait for itself"), lock:
            pass
        assert not lock.locked()

    async def main():
        await run(twice, HybridLock())

    twice(HybridLock())
    run_on_each(main)


def test_plain_code_goes_before_the_calls_of_its_thread(run_on_each):
    """It stands in the way of all that could resume them."""

    async def main():
        lock, gate = HybridLock(), asyncio.Event()
        order: list[str] = []
        gate.set()
        held, go = threading.Event(), threading.Event()

        def in_a_thread() -> None:
            with lock:
                held.set()
                assert go.wait(PATIENCE)

        thread = Call(in_a_thread)
        await asyncio.to_thread(held.wait, PATIENCE)
        call = asyncio.ensure_future(run(hold, lock, order, "call", gate))
        await until(lambda: waiting(lock, 1))
        threading.Timer(0.05, go.set).start()
        with lock:  # blocks the loop's own thread
            order.append("plain")
        await call
        thread.result()
        assert order == ["plain", "call"]

    run_on_each(main)


def test_many_threads_and_many_calls_of_two_loops_exclude_each_other():
    lock, inside, count = HybridLock(), [], [0]

    def enter() -> None:
        with lock:
            inside.append(True)
            assert len(inside) == 1
            count[0] += 1
            inside.pop()

    def enter_slowly() -> None:
        with lock:
            inside.append(True)
            await_only(asyncio.sleep(0))
            assert len(inside) == 1
            count[0] += 1
            inside.pop()

    async def main() -> None:
        for _ in range(20):
            tasks = [asyncio.ensure_future(run(enter_slowly)) for _ in range(10)]
            await asyncio.sleep(0)
            tasks[3].cancel()
            await asyncio.wait(tasks)

    def plainly() -> None:
        for _ in range(300):
            enter()

    calls = [Call(run_on, kind, main) for kind in LOOPS] + [Call(plainly) for _ in range(3)]
    for call in calls:
        call.result(60.0)
    assert not lock.locked()
    assert count[0] >= 900 + 2 * 20 * 9


# -- on connections


def test_two_calls_on_one_connection_take_turns(make_pool, run_on_each):
    pool = make_pool(max_size=1)

    async def main():
        with pool.lease() as connection:
            connection.autocommit = True

            def sleeps(number: int) -> int:
                query = f"SELECT {number} FROM pg_sleep(0.05)"
                return connection.execute(query).fetchone()[0]  # type: ignore[no-any-return]

            async with asyncio.timeout(PATIENCE):
                found = await asyncio.gather(*(run(sleeps, number) for number in range(4)))
        assert found == [0, 1, 2, 3]

    Call(run_on_each, main).result()  # else there is nobody to notice that a thread stands still
    assert_quiet(pool)


def test_the_loop_goes_on_while_a_thread_holds_the_connection(make_pool, run_on_each):
    pool = make_pool(max_size=1)

    async def main() -> int:
        lease = pool.acquire()
        connection = lease.connection
        connection.autocommit = True

        def asks() -> int:
            return connection.execute("SELECT 5").fetchone()[0]  # type: ignore[no-any-return]

        thread = Call(connection.execute, "SELECT pg_sleep(0.5)")
        await until(connection.lock.locked)
        task = asyncio.ensure_future(run(asks))
        ticks = 0
        while not task.done():
            await asyncio.sleep(0.005)
            ticks += 1
        assert await task == 5
        thread.result()
        await asyncio.to_thread(lease.release)
        return ticks

    assert Call(run_on_each, main).result() > 10
    assert_quiet(pool)


def test_psycopg_does_nothing_with_its_lock_but_hold_it_by_with():
    """What the lock of the bridge cannot do, nobody may ask of it."""
    held, others = 0, set()
    for path in Path(psycopg.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        entered = {
            id(item.context_expr)
            for node in ast.walk(tree)
            if isinstance(node, ast.With | ast.AsyncWith)
            for item in node.items
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in {"lock", "_lock"}:
                held += id(node) in entered
                if id(node) not in entered and isinstance(node.ctx, ast.Load):
                    others.add((path.stem, ast.unparse(node)))
    assert held > 20
    # A pipeline keeps it, as its `_lock`.
    assert others <= {("_pipeline", "conn.lock"), ("_pipeline_async", "conn.lock")}


_LATE = """
import sys, threading
from django_poolkit.pools.postgres import ConnectionPool

pool = ConnectionPool(sys.argv[1], min_size=1, max_size=2)
pool.open(wait=True)
lease = pool.acquire()
lease.connection.autocommit = True
other = pool.acquire()
plain = [lease.connection.lock, other.connection.lock]
other.release()

def sleeps():
    return lease.connection.execute("SELECT 1 FROM pg_sleep(0.3)").fetchone()[0]

thread = threading.Thread(target=sleeps)
thread.start()
while not plain[0].locked():
    pass
import asyncio
assert "greenlet" not in sys.modules
from django_poolkit.pools.bridge.driver import run

async def main():
    async with asyncio.timeout(20):
        return await asyncio.gather(run(sleeps), run(sleeps))

assert asyncio.run(main()) == [1, 1]
thread.join()
assert type(lease.connection.lock).__name__ == "HybridLock"
lease.release()
print("whole", {type(each.lock).__name__ for each in pool._pool})
pool.close()
"""


def test_connections_that_were_there_before_the_bridge_are_fitted(params):
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", _LATE, make_conninfo(**params)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.stdout == "whole {'HybridLock'}\n", ended.stderr
