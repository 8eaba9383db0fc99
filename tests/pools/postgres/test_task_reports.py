"""What is said of tasks that hold or wait, and what the pool's options mean to them."""

from __future__ import annotations

import asyncio
import os

import pytest

from django_poolkit.pools.deadline import deadline
from django_poolkit.pools.errors import SessionStateLeft
from django_poolkit.pools.postgres.errors import PoolTimeout
from django_poolkit.pools.share import share
from tests.pools.postgres.tasks import assert_quiet, queued, run_on_each, until, until_runs

__all__ = ["run_on_each"]


async def dawdle(pool, go):
    async with pool.alease():
        await go.wait()


def test_an_overdue_lease_is_reported_with_its_task(make_pool, run_on_each, caplog):
    pool = make_pool(max_size=1, leak_after=0.01)

    async def main():
        go = asyncio.Event()
        task = asyncio.create_task(dawdle(pool, go), name="slow one")
        await until(lambda: pool.stats().oldest_lease > 0.02)
        await asyncio.to_thread(pool.keep_house)
        go.set()
        await task

    run_on_each(main)
    [said] = [each.getMessage() for each in caplog.records if "event=overdue " in each.getMessage()]
    assert "(slow one)" in said
    assert "Its task is now at:" in said
    assert "dawdle" in said.partition("Its task is now at:")[2]


def test_a_deadline_bounds_the_wait(make_pool, run_on_each):
    pool = make_pool(max_size=1)

    async def main():
        lease = await pool.aacquire()  # by hand: in a block, it would be told of a deadlock
        with deadline(0.05), pytest.raises(PoolTimeout, match=r"deadline of 0\.05 s"):
            await pool.aacquire()
        await lease.release()

    run_on_each(main)
    assert_quiet(pool)


def test_a_share_that_is_used_up_is_waited_for_and_passed_by(make_pool, run_on_each):
    pool = make_pool(max_size=2, shares={"reports": 0.5})

    async def main():
        with share("reports"):
            lease = await pool.aacquire()
            waiter = await queued(pool, pool.aacquire())
        async with pool.alease(timeout=5.0):
            assert not waiter.done()
        await lease.release()
        await (await waiter).release()

    run_on_each(main)
    assert_quiet(pool)


def test_what_a_lease_left_unseen_is_told(make_pool, run_on_each, primary):
    primary.execute(
        "CREATE FUNCTION hides() RETURNS void LANGUAGE sql AS "
        "$$ SELECT set_config('work_mem', '77MB', false) $$"
    )
    pool = make_pool(max_size=1, verify_state=True, harmless_functions=["hides"])

    async def main():
        with pytest.raises(SessionStateLeft):
            async with pool.alease() as connection:
                await connection.execute("SELECT hides()")
        async with pool.alease() as connection:
            row = await (await connection.execute("SHOW work_mem")).fetchone()
            return row[0]

    try:
        assert run_on_each(main) != "77MB"
    finally:
        primary.execute("DROP FUNCTION hides()")
    assert_quiet(pool)


def test_what_the_server_reports_is_reset(make_pool, run_on_each, primary):
    primary.execute(
        "CREATE FUNCTION moves() RETURNS void LANGUAGE sql AS "
        "$$ SELECT set_config('TimeZone', 'Asia/Tokyo', false) $$"
    )
    pool = make_pool(max_size=1, harmless_functions=["moves"])

    async def main():
        async with pool.alease() as connection:
            await connection.execute("SELECT moves()")
        async with pool.alease() as connection:
            row = await (await connection.execute("SHOW TimeZone")).fetchone()
            return row[0]

    try:
        assert run_on_each(main) != "Asia/Tokyo"
    finally:
        primary.execute("DROP FUNCTION moves()")
    assert pool.stats().resets == 1


def test_a_forked_child_forgets_what_tasks_had(make_pool, run_on_each):
    pool = make_pool(max_size=1)

    async def main():
        async with pool.alease() as connection:
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    with pytest.raises(Exception, match="given back"):
                        connection.cursor()
                    with pool.lease() as own:
                        assert own.info.backend_pid != connection.info.backend_pid
                    code = 0
                finally:
                    os._exit(code)
            assert (await asyncio.to_thread(os.waitpid, pid, 0))[1] == 0
            await connection.execute("SELECT 1")

    run_on_each(main)
    assert_quiet(pool)


def test_a_killed_lease_is_told_to_its_task(make_pool, run_on_each, primary, app):
    pool = make_pool(max_size=1, kwargs={"application_name": app})

    async def main():
        async with pool.alease() as connection:
            work = asyncio.ensure_future(connection.execute("SELECT pg_sleep(60)"))
            await until_runs(primary, app)
            assert pool.kill(pool.leases()[0].key)
            with pytest.raises(Exception, match=r"cancel|closed|terminat"):
                await work

    run_on_each(main)
    assert sum(pool.stats().closed.values()) == 1
    assert_quiet(pool)
