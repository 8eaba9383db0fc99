"""Everything at once, at random, and cancelled at random: nothing is lost, and nothing is left."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import pytest
from django.db import transaction

from django_poolkit.aio import aatomic, apinned, bridged
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing.waiting import wait_until
from tests.aio.support import Pooled, Run, apid
from tests.app.models import Item
from tests.backends.transaction_mode.support import (
    PATIENCE,
    Broken,
    Server,
    connection,
    create,
    scalar,
)
from tests.pools.postgres.tasks import assert_quiet

pytestmark = pytest.mark.core


SIZE = 4


class Storm:
    """Visitors of one loop. Each thing that one does is drawn, and so is what becomes of it."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.committed: set[str] = set()
        """The rows of which a callback has said that they are committed."""
        self.returned: set[str] = set()
        """Those that were written outside of a transaction, by calls that have returned."""
        self.doubtful: set[str] = set()
        """Those of such calls that were cancelled."""
        self._number = 0

    def _name(self) -> str:
        self._number += 1
        return f"{self._number:06}"

    def _write(self) -> None:
        """Write a row in a transaction, which says so when it is committed."""
        name = self._name()
        create(name)
        transaction.on_commit(lambda: self.committed.add(name))
        if self.chance.random() < 0.1:
            scalar("SELECT pg_sleep(0.005)")

    def _block(self) -> None:
        with transaction.atomic():
            self._write()
            if self.chance.random() < 0.2:
                raise Broken
            self._write()

    async def _alone(self) -> None:
        name = self._name()
        try:
            await bridged(create)(name)
        except BaseException:
            self.doubtful.add(name)
            raise
        self.returned.add(name)

    async def _open(self, depth: int) -> None:
        async with aatomic():
            await bridged(self._write)()
            for _ in range(self.chance.randrange(3)):
                await self.act(depth - 1, within=True)
            if self.chance.random() < 0.2:
                raise Broken

    async def _pinned(self, depth: int, *, within: bool) -> None:
        async with apinned():
            first = await apid()
            await self.act(depth - 1, within=within)
            assert await apid() == first

    async def _together(self, depth: int, *, within: bool) -> None:
        ends = await asyncio.gather(
            *(self.act(depth - 1, within=within) for _ in range(self.chance.randint(2, 4))),
            return_exceptions=True,
        )
        for end in ends:
            if isinstance(end, BaseException):
                raise end

    async def _in_time(self, depth: int) -> None:
        # Around a block of its own, so that whoever is around that goes on.
        try:
            async with asyncio.timeout(self.chance.random() * 0.02), aatomic():
                await bridged(self._write)()
                await self.act(depth - 1, within=True)
        except TimeoutError:
            pass

    async def _carelessly(self) -> None:
        # With no block of its own: that around has lost a statement, and may not commit.
        with suppress(TimeoutError):
            async with asyncio.timeout(self.chance.random() * 0.01):
                await bridged(self._write)()
                await bridged(scalar)("SELECT pg_sleep(0.005)")

    async def act(self, depth: int, *, within: bool) -> None:
        """Do something."""
        kinds = ["read", "block", "sleep"] if depth <= 0 else [
            "read", "block", "open", "open", "pinned", "together", "in time", "caught",
        ]  # fmt: skip
        kinds += ["write", "careless"] if within else ["alone"]
        kind = self.chance.choice(kinds)
        if kind == "read":
            await bridged(Item.objects.count)()
        elif kind == "block":
            await bridged(self._block)()
        elif kind == "sleep":
            await bridged(scalar)("SELECT pg_sleep(0.003)")
        elif kind == "open":
            await self._open(depth)
        elif kind == "pinned":
            await self._pinned(depth, within=within)
        elif kind == "together":
            await self._together(depth, within=within)
        elif kind == "in time":
            await self._in_time(depth)
        elif kind == "write":
            await bridged(transaction.atomic(self._write))()
        elif kind == "careless":
            await self._carelessly()
        elif kind == "alone":
            await self._alone()
        else:
            with suppress(Broken):
                await self._open(depth)

    async def visit(self) -> None:
        """Act in a task of its own, which may be cancelled, and once more."""
        task = asyncio.create_task(self.act(3, within=False))
        for share in (0.5, 0.3):
            await asyncio.sleep(self.chance.random() * 0.03)
            if self.chance.random() < share:
                task.cancel()
        done, _ = await asyncio.wait({task}, timeout=PATIENCE)
        assert done, f"it does not end: {task.get_stack()}"
        error = None if task.cancelled() else task.exception()
        # One statement that was cancelled may cost the block around: that is told, and no more.
        known = Broken, TimeoutError, transaction.TransactionManagementError
        assert error is None or isinstance(error, known), repr(error)


def storm(pool: ConnectionPool, server: Server, run: Run, seed: int, rounds: int) -> None:
    """Have visitors come in rounds, and hold against each other what is left of all that."""
    drawn = Storm(seed)

    async def main() -> None:
        for _ in range(rounds):
            async with asyncio.TaskGroup() as visitors:
                for _ in range(12):
                    visitors.create_task(drawn.visit())
            assert pool.stats().used == 0

    run(main)
    names = {*server.names}
    assert drawn.committed <= names, f"lost, of seed {seed}"
    assert drawn.returned <= names, f"lost outside of a transaction, of seed {seed}"
    left = names - drawn.committed - drawn.returned - drawn.doubtful
    assert not left, f"never committed, of seed {seed}"
    assert drawn.committed
    assert drawn.returned
    wait_until(lambda: {*server.backends.values()} <= {"idle"})
    assert len(server.backends) <= SIZE
    assert_quiet(pool)
    assert not server.locks
    Item.objects.all().delete()
    connection.close()


def test_a_storm_loses_nothing(pooled: Pooled, server: Server, run_on_each: Run) -> None:
    storm(pooled(max_size=SIZE, timeout=PATIENCE), server, run_on_each, seed=11, rounds=30)


def test_a_storm_in_session_mode_loses_nothing(
    pooled: Pooled, server: Server, run_on_each: Run
) -> None:
    pool = pooled(mode="session", max_size=SIZE, timeout=PATIENCE)
    storm(pool, server, run_on_each, seed=12, rounds=15)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_many_storms_lose_nothing(
    pooled: Pooled, server: Server, run_on_each: Run, seed: int
) -> None:
    pool = pooled(max_size=SIZE, timeout=PATIENCE)
    storm(pool, server, run_on_each, seed=100 + seed, rounds=100)
