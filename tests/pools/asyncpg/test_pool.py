"""What a lease of an asyncpg pool gives, in which order, and for how long."""

from __future__ import annotations

import asyncio
import gc
import inspect
import pickle
import threading
import time
from typing import Any

import asyncpg
import pytest

import django_poolkit
from django_poolkit import PoolWarning
from django_poolkit.pools.asyncpg.config import AsyncpgConfig
from django_poolkit.pools.asyncpg.connection import run_noted
from django_poolkit.pools.asyncpg.errors import (
    LeaseReleased,
    PoolClosed,
    PoolPaused,
    PoolTimeout,
    TooManyWaiters,
    WrongLoop,
)
from django_poolkit.pools.asyncpg.pool import AsyncpgPool
from django_poolkit.pools.errors import PoolConfigError
from django_poolkit.testing import Node
from django_poolkit.testing.waiting import wait_until
from tests.pools.asyncpg.support import (
    PATIENCE,
    MakePool,
    Run,
    assert_quiet,
    fill,
    pid,
    queue_up,
    until,
)


def test_a_lease_gives_a_connection_and_takes_it_back(make: MakePool, run_on_each: Run) -> None:
    async def main() -> None:
        pool = make()
        async with pool.lease() as connection:
            assert isinstance(connection, asyncpg.Connection)
            assert await connection.fetchval("SELECT $1::int * 7", 6) == 42
            assert (pool.stats().used, pool.stats().idle) == (1, 0)
            first = connection.get_server_pid()
        assert await pid(pool) == first
        assert_quiet(pool)

    run_on_each(main())


def test_the_connection_used_last_is_used_next(make: MakePool, run: Run) -> None:
    async def main() -> None:
        pool = make()
        *_, last = await fill(pool, 3)
        assert [await pid(pool) for _ in range(3)] == [last] * 3

    run(main())


def test_who_waits_is_served_in_the_order_of_arrival(make: MakePool, run: Run) -> None:
    async def main() -> None:
        pool, served = make(max_size=1), []

        async def one(number: int) -> None:
            async with pool.lease() as connection:
                served.append(number)
                await connection.fetchval("SELECT 1")

        holder = await pool.acquire()
        tasks = []
        for number in range(10):
            tasks.append(asyncio.create_task(one(number)))
            await until(lambda: pool.stats().waiters == len(tasks))
        with pytest.raises(PoolTimeout):  # and nobody gets in between, who would not wait either
            await pool.acquire(timeout=0)
        late = asyncio.create_task(one(10))
        await holder.release()
        with pytest.raises(PoolTimeout):
            await pool.acquire(timeout=0)
        await asyncio.gather(*tasks, late)
        assert served == list(range(11))
        assert_quiet(pool)

    run(main())


def test_a_thousand_tasks_on_ten_connections_are_all_served_in_turn(
    make: MakePool, run_on_each: Run
) -> None:
    async def main() -> None:
        pool, arrived, served = make(max_size=10, TIMEOUT=60.0), [], []

        async def one(number: int) -> None:
            arrived.append(number)
            async with pool.lease() as connection:
                served.append(number)
                assert await connection.fetchval("SELECT $1::int", number) == number

        await asyncio.gather(*(one(number) for number in range(1000)))
        assert served == arrived
        stats = pool.stats()
        assert stats.acquired == 1000
        assert stats.size <= 10
        assert_quiet(pool)

    run_on_each(main())


def test_a_timeout_says_how_the_pool_was(make: MakePool, run: Run) -> None:
    async def main() -> None:
        pool = make(max_size=1)
        async with pool.lease():
            with pytest.raises(PoolTimeout) as caught:
                await pool.acquire(timeout=0.05)
        error = caught.value
        assert "used 1/1, idle 0" in str(error)
        assert isinstance(error, (TimeoutError, asyncpg.InterfaceError))
        assert isinstance(error, django_poolkit.PoolTimeout)
        assert error.stats is not None
        assert (error.pool, error.stats.used) == ("raw", 1)
        assert 0.05 <= error.waited < 5
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.pool, again.waited) == (str(error), "raw", error.waited)
        assert pool.stats().timeouts == 1
        assert_quiet(pool)

    run(main())


def test_more_than_the_permitted_waiters_are_refused_at_once(make: MakePool, run: Run) -> None:
    async def main() -> None:
        pool = make(max_size=1, MAX_WAITING=2)
        lease = await pool.acquire()
        waiting = [await queue_up(pool) for _ in range(2)]
        with pytest.raises(TooManyWaiters, match="MAX_WAITING"):
            await pool.acquire()
        assert pool.stats().too_many_waiters == 1
        await lease.release()
        for task in waiting:
            await (await task).release()
        assert_quiet(pool)

    run(main())


def test_each_verb_of_a_released_connection_refuses(make: MakePool, run: Run) -> None:
    async def main() -> None:
        pool = make(max_size=1)
        async with pool.lease() as connection:
            statement = await connection.prepare("SELECT 1")
            transaction = connection.transaction()
        async with pool.lease() as other:
            verbs = [
                name
                for name, method in inspect.getmembers(asyncpg.Connection, inspect.isfunction)
                if not name.startswith("_")
            ]
            assert len(verbs) > 30
            for verb in verbs:
                method = getattr(connection, verb)
                needed = [
                    "SELECT 1"
                    for name, each in inspect.signature(
                        getattr(asyncpg.Connection, verb)
                    ).parameters.items()
                    if each.default is each.empty
                    and name != "self"
                    and each.kind is each.POSITIONAL_OR_KEYWORD
                ]
                with pytest.raises(LeaseReleased, match="given back"):
                    found = method(*needed) if verb != "query_logger" else method(print)
                    await found
            with pytest.raises(asyncpg.InterfaceError):
                await statement.fetch()
            del transaction
            assert await other.fetchval("SELECT 1") == 1
        assert_quiet(pool)

    run(main())


def test_a_lease_is_released_once(make: MakePool, run: Run) -> None:
    async def main() -> None:
        pool = make()
        lease = await pool.acquire()
        await lease.release()
        with pytest.raises(LeaseReleased):
            await lease.release()
        with pytest.raises(LeaseReleased):
            await lease.discard()
        assert_quiet(pool)

    run(main())


def test_a_lease_is_of_its_loop_alone(make: MakePool, run: Run) -> None:
    async def main() -> None:
        pool = make()
        lease = await pool.acquire()
        connection = lease.connection

        async def elsewhere() -> list[type[BaseException]]:
            found = []
            for work in (connection.fetchval("SELECT 1"), lease.release()):
                try:
                    await work
                except BaseException as error:
                    found.append(type(error))
            return found

        assert await asyncio.to_thread(asyncio.run, elsewhere()) == [WrongLoop, WrongLoop]
        assert await connection.fetchval("SELECT 1") == 1
        await lease.release()
        assert_quiet(pool)

    run(main())


def test_a_lease_that_is_dropped_is_taken_back(make: MakePool, run_on_each: Run) -> None:
    async def main() -> None:
        pool = make(max_size=1, STACKS="all")
        lease = await pool.acquire()
        await lease.connection.execute("SET search_path TO nowhere")
        with pytest.warns(PoolWarning, match="dropped"):  # noqa: PT031
            del lease
            gc.collect()
            await until(lambda: pool.stats().leaks == 1)
        async with pool.lease() as connection:
            assert await connection.fetchval("SHOW search_path") != "nowhere"
        assert_quiet(pool)

    run_on_each(main())


def test_who_keeps_the_connection_alone_has_lost_it(make: MakePool, run: Run) -> None:
    async def main() -> None:
        pool = make(max_size=1)
        with pytest.warns(PoolWarning, match="dropped"):  # noqa: PT031
            connection = (await pool.acquire()).connection
            gc.collect()
            await until(lambda: pool.stats().leaks == 1)
        with pytest.raises(LeaseReleased):
            await connection.fetchval("SELECT 1")
        assert_quiet(pool)

    run(main())


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_whatever_is_raised_the_connection_comes_home(
    make: MakePool, run: Run, error: type[BaseException]
) -> None:
    async def main() -> None:
        pool = make()
        try:
            async with pool.lease():
                raise error
        except error:
            pass
        assert pool.stats().idle == 1
        assert_quiet(pool)

    run(main())


def test_a_closed_pool_refuses_and_who_waits_is_told(make: MakePool, run: Run, primary: Node,
                                                    service: str) -> None:  # fmt: skip
    async def main() -> None:
        pool = make(max_size=1)
        lease = await pool.acquire()
        waiting = await queue_up(pool)
        await pool.close()
        await pool.close()
        with pytest.raises(PoolClosed):
            await waiting
        with pytest.raises(PoolClosed):
            await pool.acquire()
        assert await lease.connection.fetchval("SELECT 1") == 1
        await lease.release()
        await until(lambda: not primary.sessions(service))
        assert pool.stats().state == "closed"

    run(main())


def test_code_without_a_loop_closes_what_is_open_on_each(
    make: MakePool, run: Run, primary: Node, service: str
) -> None:
    """On the loop that runs in its thread with the next turns; on others, before it goes on."""
    pool, other = make(), asyncio.new_event_loop()
    thread = threading.Thread(target=other.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(fill(pool, 2), other).result(PATIENCE)

    async def main() -> None:
        lease = await pool.acquire()
        pool.close_from_thread(PATIENCE)
        assert [line.loop for line in pool.lines.values()] == [lease.line.loop]
        await lease.release()
        await until(lambda: not pool.lines)

    try:
        run(main())
        wait_until(lambda: not primary.sessions(service))
    finally:
        other.call_soon_threadsafe(other.stop)
        thread.join()
        other.close()


def test_setup_runs_on_each_acquire_and_discards_by_raising(make: MakePool, run: Run) -> None:
    calls: list[str] = []

    async def init(connection: Any) -> None:
        calls.append("init")

    async def setup(connection: Any) -> None:
        calls.append("setup")
        await connection.execute("SET application_name TO 'set up'")
        if len(calls) > 4:
            raise RuntimeError("of setup")

    async def reset(connection: Any) -> None:
        calls.append("reset")

    async def main() -> None:
        pool = make(max_size=1, init=init, setup=setup, reset=reset)
        for _ in range(2):
            async with pool.lease() as connection:
                assert await connection.fetchval("SHOW application_name") == "set up"
        assert calls == ["init", "setup", "reset", "setup", "reset"]
        with pytest.raises(RuntimeError, match="of setup"):
            await pool.acquire()
        assert pool.stats().closed == {"discarded": 1}
        assert_quiet(pool)

    run(main())


def test_what_setup_leaves_is_the_pools_and_not_reset(make: MakePool, run: Run) -> None:
    async def setup(connection: Any) -> None:
        await connection.execute("SET search_path TO nowhere")

    async def main() -> None:
        pool = make(max_size=1, setup=setup)
        async with pool.lease() as connection:
            assert await connection.fetchval("SHOW search_path") == "nowhere"
            [lease] = pool.leases()
            assert (lease.statement or "").startswith("SHOW")
        assert pool.stats().resets == 0
        async with pool.lease():
            [lease] = pool.leases()
            assert lease.statement is None
        assert_quiet(pool)

    run(main())


def test_a_failed_connect_is_told_to_who_waits_and_no_secret_is(make: MakePool, run: Run) -> None:
    async def main() -> None:
        pool = make({"user": "nobody_of_that_name", "password": "wrong-secret"})
        with pytest.raises(PoolTimeout) as caught:
            await pool.acquire(timeout=0.5)
        text = str(caught.value)
        assert "last connect error: Invalid" in text
        assert "nobody_of_that_name" not in text
        assert "wrong-secret" not in text + repr(pool) + repr(pool.config) + repr(pool.target)
        assert pool.stats().connect_errors >= 1
        assert_quiet(pool)

    run(main())


def test_a_server_that_is_down_is_told_without_its_address(make: MakePool, run: Run) -> None:
    async def main() -> None:
        pool = make({"host": "127.0.0.1", "port": 1})
        with pytest.raises(PoolTimeout) as caught:
            await pool.acquire(timeout=0.5)
        assert "refused" in str(caught.value)
        assert "127.0.0.1" not in str(caught.value)

    run(main())


def test_a_password_may_be_a_function_of_either_kind(
    make: MakePool, run: Run, where: dict[str, Any]
) -> None:
    calls: list[str] = []

    def blocking() -> str:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()  # a loop would stand still meanwhile
        calls.append("blocking")
        return str(where["password"])

    async def awaited() -> str:
        calls.append("awaited")
        return str(where["password"])

    async def main() -> None:
        for password in (blocking, awaited):
            async with make({"password": password}).lease() as connection:
                assert await connection.fetchval("SELECT 1") == 1
        assert calls == ["blocking", "awaited"]

    run(main())


def test_a_password_that_hangs_gives_its_place_to_another_connect(
    make: MakePool, run: Run, where: dict[str, Any]
) -> None:
    hanging = True

    async def password() -> str:
        if hanging:
            await asyncio.Event().wait()
        return str(where["password"])

    async def main() -> None:
        nonlocal hanging
        pool = make({"password": password}, max_size=1, timeout=0.1)
        waiting = await queue_up(pool)
        await until(lambda: pool.stats().connect_errors)
        error = "CredentialsError: PASSWORD has given nothing for 0.1 s"
        assert pool.stats().last_connect_error == error
        hanging = False
        await (await waiting).release()
        assert_quiet(pool)

    run(main())


@pytest.mark.parametrize("kind", [TimeoutError, ValueError])
def test_what_a_password_raises_is_not_told(
    make: MakePool, run: Run, caplog: Any, kind: type[Exception]
) -> None:
    def blocking() -> str:
        raise kind("https://vault/?token=hush")

    async def awaited() -> str:
        return blocking()

    async def main() -> None:
        for password in (blocking, awaited):
            pool = make({"password": password})
            with pytest.raises(PoolTimeout) as caught:
                await pool.acquire(timeout=0.5)
            error = f"CredentialsError: PASSWORD has raised {kind.__name__}"
            assert error in str(caught.value)
            assert error == pool.stats().last_connect_error
        assert "hush" not in caplog.text
        assert_quiet(pool)

    run(main())


def test_who_holds_for_too_long_is_named(make: MakePool, run: Run, caplog: Any) -> None:
    async def main() -> None:
        pool = make(LEAK_AFTER=0.05)
        told: list[dict[str, Any]] = []
        pool.events.subscribe(lambda event, facts: told.append({"event": event, **facts}))
        async with pool.lease() as connection:
            await connection.fetchval("SELECT 1")
            await until(lambda: pool.stats().overdue == 1)
            (found,) = pool.leases()
            assert (found.statement, found.status) == ("SELECT", "idle")
            assert found.backend_pid == connection.get_server_pid()
            assert any("test_pool.py" in line for line in found.stack)
        leaked = [each for each in told if each["event"] == "lease_leaked"]
        assert [each["kind"] for each in leaked] == ["overdue"]
        assert_quiet(pool)

    run(main())


def test_events_are_told(make: MakePool, run: Run) -> None:
    async def main() -> None:
        pool, told = make(max_size=1), []
        pool.events.subscribe(lambda event, facts: told.append(event), leases=True)
        lease = await pool.acquire()
        waiting = await queue_up(pool)
        await lease.release()
        await (await waiting).discard()
        with pytest.raises(PoolTimeout):
            async with pool.lease():
                await pool.acquire(timeout=0)
        for event in (
            "connection_opened", "connection_closed", "lease_acquired", "lease_released",
            "pool_saturated", "pool_timeout", "lease_waited",
        ):  # fmt: skip
            assert event in told

    run(main())


def test_orders_are_obeyed_from_another_thread(make: MakePool, run: Run) -> None:
    async def main() -> None:
        pool = make(max_size=2)
        before = await fill(pool, 2)
        held = await pool.acquire()
        await asyncio.to_thread(pool.pause, 30.0)
        await until(lambda: pool.stats().idle == 0)
        assert (pool.stats().state, pool.stats().used) == ("paused", 1)
        with pytest.raises(PoolPaused):
            await pool.acquire(timeout=0.05)
        waiting = await queue_up(pool)
        await held.release()
        assert pool.stats().size == 0
        await asyncio.to_thread(pool.resume)
        lease = await waiting
        assert lease.connection.get_server_pid() not in before
        await lease.release()
        await asyncio.to_thread(pool.recycle)
        await until(lambda: pool.stats().idle == 0)
        pids = await fill(pool, 2)
        await asyncio.to_thread(pool.resize, 0, 1)
        await until(lambda: pool.stats().size == 1)
        assert await pid(pool) in pids
        await asyncio.to_thread(pool.resize, 0, 40)
        await fill(pool, 30)
        assert_quiet(pool)

    run(main())


def test_what_connects_as_the_pool_shrinks_is_not_lent_above_its_size(
    make: MakePool, run: Run
) -> None:
    async def main() -> None:
        going, go = asyncio.Event(), asyncio.Event()

        async def init(connection: Any) -> None:
            if pool.stats().used == 2:
                going.set()
                await go.wait()

        pool = make(max_size=3, init=init)
        leases = [await pool.acquire() for _ in range(2)]
        waiting = await queue_up(pool)
        await going.wait()
        pool.resize(0, 2)
        go.set()
        await until(lambda: not pool.stats().connecting)
        assert (pool.stats().used, pool.stats().waiters) == (2, 1)
        assert pool.stats().closed == {"resized": 1}
        for lease in leases:
            await lease.release()
        await (await waiting).release()
        assert_quiet(pool)

    run(main())


def test_a_pause_ends_by_itself(make: MakePool, run: Run) -> None:
    async def main() -> None:
        pool = make()
        pool.pause(0.1)
        lease = await pool.acquire()
        assert pool.stats().state == "open"
        await lease.release()
        with pytest.raises(ValueError):
            pool.pause(float("inf"))

    run(main())


def test_a_pause_ends_by_itself_also_where_timers_come_too_early(
    make: MakePool, run_on_each: Run
) -> None:
    # uvloop counts in milliseconds: of timers for fractions of one, some come before their time.
    async def main() -> None:
        pool = make(min_size=0)
        for number in range(20):
            pool.pause(0.0051 + number * 0.00027)
            async with asyncio.timeout(PATIENCE):
                await (await pool.acquire(timeout=PATIENCE * 3)).release()

    run_on_each(main())


@pytest.mark.parametrize("when", ["before", "during", "elsewhere"])
def test_where_a_pool_is_first_used_after_a_pause_the_short_way_is_free(
    make: MakePool, run: Run, when: str
) -> None:
    async def use() -> None:
        await pid(pool)

    async def main() -> None:
        if when == "during":
            await pool.open()
        await until(lambda: pool.stats().state == "open")
        assert await pid(pool)
        await until(lambda: pool.paused_until == 0.0)
        line = await pool.line()
        lease = line.at_once()
        assert lease is not None
        await lease.release()

    pool = make()
    if when == "elsewhere":  # on a loop that is closed before it is over
        run(use())
        pool.pause(0.2)
    else:
        pool.open_paused(0.2)
    run(main())


def test_a_lease_is_killed_with_what_it_runs(make: MakePool, run: Run, primary: Node,
                                             service: str) -> None:  # fmt: skip
    async def main() -> None:
        pool = make(max_size=1)
        lease = await pool.acquire()
        work = asyncio.create_task(lease.connection.execute("SELECT pg_sleep(60)"))
        await until(lambda: pool.leases()[0].status == "active")
        assert await asyncio.to_thread(pool.kill, pool.leases()[0].key)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            await work
        await until(lambda: not primary.sessions(service))
        await lease.release()
        assert not pool.kill(lease.key)
        assert await pid(pool)
        assert_quiet(pool)

    run(main())


def test_a_kill_does_not_reach_who_has_the_connection_next(make: MakePool, run: Run) -> None:
    async def main() -> None:
        pool = make(max_size=1)
        lease = await pool.acquire()
        answered = asyncio.Event()

        async def own() -> int:
            await run_noted(lease, False, answered.wait)
            await lease.release()
            async with pool.lease() as connection:
                return int(await connection.fetchval("SELECT 2 FROM pg_sleep(0.1)"))

        owner = asyncio.create_task(own())
        await asyncio.sleep(0)
        assert pool.kill(lease.key)
        await asyncio.sleep(0)  # the next turn begins with the kill, and goes on with the answer
        answered.set()
        assert await owner == 2
        assert pool.stats().closed == {"active": 1}
        assert_quiet(pool)

    run(main())


def test_min_size_is_kept_and_what_rests_above_it_goes(make: MakePool, run: Run) -> None:
    async def main() -> None:
        pool = make(min_size=2, max_size=4, max_inactive_connection_lifetime=0.2)
        await pool.open()
        await until(lambda: pool.stats().idle == 2)
        await fill(pool, 4)
        await until(lambda: pool.stats().size == 2)
        assert pool.stats().closed == {"max_idle": 2}

    run(main())


def test_a_connection_past_its_lifetime_goes_when_another_is_there(
    make: MakePool, run: Run
) -> None:
    async def main() -> None:
        pool = make(min_size=1, MAX_LIFETIME=0.4)
        await pool.open()
        await until(lambda: pool.stats().idle == 1)
        sizes = []
        deadline = time.monotonic() + 10
        while pool.stats().closed.get("max_lifetime", 0) < 2 and time.monotonic() < deadline:
            sizes.append(pool.stats().idle)
            await asyncio.sleep(0.005)
        assert min(sizes) == 1
        lease = await pool.acquire()
        physical = lease.physical
        assert physical is not None
        await until(lambda: time.monotonic() > physical.expires_at)
        assert await lease.connection.fetchval("SELECT 1") == 1  # what is used is not cut
        await lease.release()
        assert pool.stats().closed["max_lifetime"] >= 3

    run(main())


def test_lifetimes_are_spread(make: MakePool, run: Run) -> None:
    async def main() -> None:
        pool = make()
        line = await pool.line()
        ages = [line.lifetime() for _ in range(500)]
        assert 2700 <= min(ages) < 2800
        assert 3500 < max(ages) <= 3600

    run(main())


def test_keepalives_keep_a_server_from_ending_idle_sessions(make: MakePool, run: Run) -> None:
    async def main() -> None:
        settings = {"idle_session_timeout": "400ms"}
        pool = make(KEEPALIVE=0.1, server_settings=settings)
        (first,) = await fill(pool, 1)
        line = await pool.line()
        (physical,) = line.idle
        started = physical.used_at
        await until(lambda: physical.probed_at - started > 1.2)
        await until(lambda: pool.stats().idle == 1)
        assert await pid(pool) == first

    run(main())


def test_sessions_that_the_server_ended_are_no_callers_trouble(make: MakePool, run: Run) -> None:
    async def main() -> None:
        pool = make(server_settings={"idle_session_timeout": "50ms"})
        (first,) = await fill(pool, 1)
        line = await pool.line()
        (physical,) = line.idle
        await until(lambda: not physical.quiet)
        assert await pid(pool) != first
        assert_quiet(pool)

    run(main())


def test_within_the_bypass_nothing_is_sent_and_after_it_one_round_trip(
    make: MakePool, run: Run
) -> None:
    async def main() -> None:
        pool = make()
        await fill(pool, 1)
        (physical,) = (await pool.line()).idle
        protocol: Any = physical.connection._protocol
        before = protocol.queries_count
        await (await pool.acquire()).release()
        assert protocol.queries_count == before
        physical.used_at -= 1.0
        await (await pool.acquire()).release()
        assert protocol.queries_count == before + 1

    run(main())


def test_options_that_cannot_be_honoured_are_refused() -> None:
    for options, words in (
        ({"timout": 1}, "did you mean 'timeout'|there is no such option"),
        ({"TIMEOUT": -1}, r"\['TIMEOUT'\] must be seconds"),
        ({"MAX_LIFETIME": 0}, r"\['MAX_LIFETIME'\] must be seconds, above 0"),
        ({"min_size": 5, "max_size": 2}, "below"),
        ({"max_size": True}, "whole number"),
        ({"RESET": "never"}, "'dirty' or 'always'"),
        ({"host": "elsewhere"}, "DATABASES"),
        ({"setup": 1}, "coroutine function"),
        ({"server_settings": {"jit": 1}}, "nothing but strings"),
        ({"server_settings": "jit=off"}, "a dict of names and texts"),
        ({"HARMLESS_FUNCTIONS": "f"}, "list of names"),
        ({"HARMLESS_FUNCTIONS": ["f", 5]}, "strings only"),
        ({"LEAK_AFTER": "x"}, "LEAK_AFTER"),
    ):
        with pytest.raises(PoolConfigError, match=f"(?i){words}"):
            AsyncpgConfig.from_options(options)
    with pytest.raises(PoolConfigError, match="not both"):
        AsyncpgPool(config=AsyncpgConfig(), TIMEOUT=1.0)
