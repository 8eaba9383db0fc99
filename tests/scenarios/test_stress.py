"""A crowd on a small pool, with everything going wrong that can: nothing is lost or bleeds."""

from __future__ import annotations

import gc
import itertools
import random
import threading
from contextlib import suppress
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from django_poolkit.pools.errors import PoolError, PoolPaused, PoolTimeout
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing.waiting import wait_until
from tests.scenarios.crowd import Crowd, Killer, in_a_fork, jain
from tests.scenarios.sessions import RESIDUES, UNTOUCHED, facts

SIZE = 8
STEADY = 48
UNRULY = 16
FAIR = 0.99
LONG = 30.0

pytestmark = [
    # Leases are lost on purpose.
    pytest.mark.filterwarnings("ignore:.*a lease was dropped:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*ServerCursor.*was deleted:ResourceWarning"),
]


class Broken(Exception):
    """A caller's own error."""


def backend_lost(error: BaseException) -> bool:
    """Tell the loss of a backend from an error of the pool, which well-behaved callers get none."""
    return isinstance(error, psycopg.OperationalError) and not isinstance(error, PoolError)


def unruly_error(error: BaseException) -> bool:
    return backend_lost(error) or isinstance(error, (PoolTimeout, PoolPaused, Broken))


class Book:
    """Who wrote what: what was committed has to be there, what was rolled back must not."""

    def __init__(self) -> None:
        self.numbers = itertools.count()
        self.kept: set[int] = set()
        self.unknown: set[int] = set()
        """Written by those who lost the server in the middle."""

    def check(self, rows: set[int]) -> None:
        assert self.kept <= rows, f"lost: {sorted(self.kept - rows)[:9]}"
        surplus = rows - self.kept - self.unknown
        assert not surplus, f"came from nowhere: {sorted(surplus)[:9]}"


def assert_untouched(raw: Any) -> None:
    """Nothing of those who had this connection before may be seen."""
    assert raw.pgconn.transaction_status == TransactionStatus.IDLE
    try:
        seen = facts(raw)
    except AssertionError:
        # Killed since it was acquired: that is no bleeding.
        raise psycopg.OperationalError("the backend is gone") from None
    assert seen == UNTOUCHED


class PoolCrowd:
    """The steps of those who use the pool itself."""

    def __init__(self, pool: ConnectionPool, crowd: Crowd) -> None:
        self.pool, self.crowd = pool, crowd
        self.book = Book()

    def steady(self, dice: random.Random) -> None:
        """The same work for each: look, leave a mark, write, and give back."""
        lease = self.pool.acquire(LONG)
        raw = lease.connection
        number = next(self.book.numbers)
        try:
            assert_untouched(raw)
            self.book.unknown.add(number)
            raw.execute("SELECT set_config('app.owner', %s, false)", (str(number),))
            raw.execute("INSERT INTO stress VALUES (%s)", (number,))
            row = raw.execute("SELECT current_setting('app.owner')").fetchone()
            assert row == (str(number),)
            if number % 4 == 0:
                raw.execute("CREATE TEMP TABLE residue (x int)")
            if number % 3:
                raw.commit()
                self.book.kept.add(number)
                self.book.unknown.discard(number)
            # Else the transaction is left open: it is the pool that rolls it back.
        finally:
            lease.release()
        if number % 3 == 0:
            self.book.unknown.discard(number)

    def unruly(self, dice: random.Random) -> None:
        step = dice.choice(
            [
                self.drop,
                self.drop_connection,
                self.die,
                self.fail,
                self.hurry,
                self.spoil,
                self.discard,
                self.abandon_cursor,
                self.kill_oneself,
                self.dawdle,
            ]
        )
        step(dice)

    def drop(self, dice: random.Random) -> None:
        lease = self.pool.acquire()
        assert_untouched(lease.connection)
        RESIDUES[dice.choice(sorted(RESIDUES))](lease.connection)

    def drop_connection(self, dice: random.Random) -> None:
        assert_untouched(self.pool.getconn())

    def die(self, dice: random.Random) -> None:
        def short_life() -> None:
            with suppress(psycopg.OperationalError):
                lease = self.pool.acquire()
                RESIDUES["advisory_lock"](lease.connection)

        thread = threading.Thread(target=short_life)
        thread.start()
        thread.join()

    def fail(self, dice: random.Random) -> None:
        with self.pool.lease() as raw:
            raw.execute("LISTEN residue")
            raise Broken

    def hurry(self, dice: random.Random) -> None:
        lease = self.pool.acquire(dice.choice([0.0, 0.0005, 0.002, 0.01]))
        try:
            assert_untouched(lease.connection)
        finally:
            lease.release()

    def spoil(self, dice: random.Random) -> None:
        lease = self.pool.acquire()
        try:
            for residue in dice.sample(sorted(RESIDUES), 3):
                RESIDUES[residue](lease.connection)
            if dice.random() < 0.5:
                lease.connection.commit()
        finally:
            lease.release()

    def discard(self, dice: random.Random) -> None:
        lease = self.pool.acquire()
        try:
            assert_untouched(lease.connection)
        finally:
            lease.discard()

    def abandon_cursor(self, dice: random.Random) -> None:
        with self.pool.acquire() as raw:
            cursor = raw.cursor("residue", withhold=dice.random() < 0.5)
            cursor.execute("SELECT generate_series(1, 1000)")
            cursor.fetchone()

    def kill_oneself(self, dice: random.Random) -> None:
        with self.pool.acquire() as raw:
            raw.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    def dawdle(self, dice: random.Random) -> None:
        with self.pool.acquire():
            self.crowd.pause(0.02)

    def steer(self, dice: random.Random) -> None:
        """What an operator, and the housekeeper, may do at any moment."""
        self.crowd.pause(dice.uniform(0.05, 0.2))
        match dice.randrange(6):
            case 0:
                self.pool.recycle()
            case 1:
                low = dice.randint(0, 3)
                self.pool.resize(low, dice.randint(SIZE // 2, SIZE))
            case 2:
                self.pool.pause()
                self.crowd.pause(0.02)
                self.pool.resume()
            case 3:
                self.pool.pause(0.05)
            case 4:
                self.pool.check()
            case 5:
                self.pool.keep_house()

    def fork(self, dice: random.Random) -> None:
        self.crowd.pause(dice.uniform(0.5, 1.0))
        assert in_a_fork(self.child)() == 0

    def child(self) -> None:
        """A fork at any moment: the child's pool works, and shares nothing."""
        while True:
            lease = self.pool.acquire(LONG)
            try:
                assert_untouched(lease.connection)
                lease.connection.execute("SET app.owner = 'child'")
                break
            except psycopg.OperationalError:  # the killer knows no mercy
                continue
            finally:
                lease.release()
        self.pool.close()


def assert_whole(pool: ConnectionPool, killer: Killer) -> None:
    """After all that: no slot is lost, the server agrees, and all of the pool can be had."""
    gc.collect()
    pool.resume()
    pool.resize(0, SIZE)
    pool.keep_house()
    wait_until(lambda: pool.stats().used == 0, LONG, lambda: repr(pool.leases()))
    leases = [pool.acquire(LONG) for _ in range(SIZE)]
    for lease in leases:
        assert_untouched(lease.connection)
    pids = {lease.connection.info.backend_pid for lease in leases}
    assert len(pids) == SIZE
    with pytest.raises(PoolTimeout):
        pool.acquire(0.01)
    wait_until(lambda: not pool.stats().connecting, LONG)
    stats = pool.stats()
    assert (stats.size, stats.used, stats.idle, stats.waiters) == (SIZE, SIZE, 0, 0)
    wait_until(lambda: set(killer.pids()) == pids, LONG)
    for lease in leases:
        lease.release()
    assert pool.stats().idle == pool.stats().size == SIZE


def storm(params: dict[str, Any], primary: Any, seconds: float) -> None:
    name = "stress"
    with primary.connect() as admin:
        admin.execute("CREATE TABLE stress (number int)")
    pool = ConnectionPool(
        kwargs={**params, "application_name": name}, max_size=SIZE, timeout=LONG, reset="dirty"
    )
    killer = Killer(primary, name)
    crowd = Crowd(seconds)
    steps = PoolCrowd(pool, crowd)
    try:
        for index in range(STEADY):
            crowd.add(f"steady-{index}", steps.steady, backend_lost)
        for index in range(UNRULY):
            crowd.add(f"unruly-{index}", steps.unruly, unruly_error)
        crowd.add("killer", partial(killer.strike, crowd))
        crowd.add("steer", steps.steer)
        crowd.add("fork", steps.fork)
        crowd.run()
        assert killer.kills > seconds
        assert_whole(pool, killer)
        counts = [crowd.steps[f"steady-{index}"] for index in range(STEADY)]
        print(sum(counts), jain(counts), crowd.errors, pool.stats())
        assert min(counts) > seconds  # all of them got somewhere
        assert jain(counts) >= FAIR, counts
        steps.book.check({number for (number,) in primary.execute("SELECT number FROM stress")})
    finally:
        pool.close()
        killer.close()
        primary.execute("DROP TABLE stress")


@pytest.mark.core
def test_a_crowd_on_a_small_pool_loses_nothing_and_leaves_nothing(params, primary):
    storm(params, primary, seconds=12.0)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_crowd_on_a_small_pool_loses_nothing_in_a_minute(params, primary):
    storm(params, primary, seconds=60.0)
