"""A pool of asyncpg connections against a model of it, in stories that nobody thought of."""

from __future__ import annotations

import asyncio
import gc
import itertools
import warnings
from collections.abc import Coroutine
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from django_poolkit import PoolWarning
from django_poolkit.pools.asyncpg.lease import AsyncpgLease
from django_poolkit.pools.asyncpg.pool import AsyncpgPool
from django_poolkit.testing import Node
from tests.pools.asyncpg.support import until

_numbers = itertools.count(1)


class Story(RuleBasedStateMachine):
    """Acquires, releases, drops, cancels, kills and steers; holds the figures against the model."""

    node: ClassVar[Node]
    where: ClassVar[dict[str, Any]]

    def __init__(self) -> None:
        super().__init__()
        self.name = f"model-{next(_numbers)}"
        self.runner = asyncio.Runner()
        self.pool = AsyncpgPool(
            self.where,
            name=self.name,
            max_size=3,
            TIMEOUT=20.0,
            RECONNECT_CAP=0.2,
            server_settings={"application_name": self.name},
        )
        self.leases: list[AsyncpgLease] = []
        self.waiting: list[asyncio.Task[AsyncpgLease]] = []
        self.dropped = 0

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a step on the loop, and let what it has set going come to its end."""

        async def step() -> Any:
            found = await work
            await until(lambda: not self.pool.stats().connecting or not self._wanted())
            await self._collect()
            return found

        return self.runner.run(step())

    def _wanted(self) -> bool:
        return self.pool.stats().state == "open"

    async def _collect(self) -> None:
        """Move those who have been served from the queue to the leases, in order."""
        before = len(self.leases)
        await until(lambda: self.pool.stats().waiters <= len(self.waiting))
        served = len(self.waiting) - self.pool.stats().waiters
        for task in self.waiting[:served]:  # the first come first, or this would never end
            async with asyncio.timeout(10):
                self.leases.append(await task)
        del self.waiting[:served]
        # After a smaller size, those that are held may be more; nobody gets one then.
        assert len(self.leases) <= max(before, self.pool.stats().max_size)

    @rule()
    def acquire(self) -> None:
        async def step() -> None:
            if len(self.waiting) < 5:
                self.waiting.append(asyncio.create_task(self.pool.acquire()))
                await asyncio.sleep(0)
                await self._settle()

        self.do(step())

    async def _settle(self) -> None:
        def settled() -> bool:
            stats = self.pool.stats()
            return (
                not stats.waiters
                or stats.state != "open"
                or (stats.used >= stats.max_size and not stats.connecting)
            )

        await until(settled, "somebody waits in front of a free place")

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), dirty=st.booleans(), discard=st.booleans())
    def release(self, data: Any, dirty: bool, discard: bool) -> None:
        lease = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))

        async def step() -> None:
            if dirty and not lease.connection.is_closed():
                await lease.connection.execute("SET search_path TO nowhere")
            await (lease.discard() if discard else lease.release())
            await self._settle()

        self.do(step())

    @precondition(lambda self: self.leases)
    @rule()
    def use(self) -> None:
        async def step() -> None:
            for lease in self.leases:
                connection = lease.connection
                if not connection.is_closed():
                    path = await connection.fetchval("SELECT current_setting('search_path')")
                    assert path != "nowhere"

        self.do(step())

    @precondition(lambda self: self.leases)
    @rule()
    def drop(self) -> None:
        async def step() -> None:
            before = self.pool.stats().leaks
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", PoolWarning)
                self.leases.pop()
                gc.collect()
                await until(lambda: self.pool.stats().leaks == before + 1)
            await until(self._within)
            await until(lambda: not self._cleaning())
            await self._settle()

        self.dropped += 1
        self.do(step())

    def _within(self) -> bool:
        stats = self.pool.stats()
        return stats.used <= max(stats.max_size, len(self.leases))

    def _cleaning(self) -> bool:
        return any(
            task.get_coro().__name__ in ("_clean", "_cut_off")  # type: ignore[union-attr]
            for line in self.pool.lines.values()
            for task in line.tasks
        )

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        task = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))

        async def step() -> None:
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            assert isinstance(outcome, asyncio.CancelledError)
            await self._settle()

        self.do(step())

    @rule()
    def pause_and_resume(self) -> None:
        async def step() -> None:
            self.pool.pause(30.0)
            await until(lambda: not self.pool.stats().idle)
            self.pool.resume()
            await self._settle()

        self.do(step())

    @rule()
    def recycle(self) -> None:
        async def step() -> None:
            self.pool.recycle()
            await asyncio.sleep(0.001)
            await self._settle()

        self.do(step())

    @precondition(lambda self: self.pool.lines)
    @rule(size=st.integers(1, 4))
    def resize(self, size: int) -> None:
        async def step() -> None:
            self.pool.resize(0, size)
            await asyncio.sleep(0.001)
            await self._settle()

        self.do(step())

    @rule()
    def kill_idle(self) -> None:
        async def step() -> None:
            pids = [each.pid for line in self.pool.lines.values() for each in line.idle]
            for pid in pids:
                self.node.kill_backend(pid)

        self.do(step())

    @invariant()
    def adds_up(self) -> None:
        stats = self.pool.stats()
        assert stats.size == stats.idle + stats.used + stats.connecting
        assert stats.used == len(self.leases) == len(self.pool.leases())
        assert stats.waiters == len(self.waiting)
        assert stats.leaks == self.dropped
        assert stats.connects - sum(stats.closed.values()) == stats.idle + stats.used

    def teardown(self) -> None:
        async def end() -> None:
            for task in self.waiting:
                task.cancel()
            await asyncio.gather(*self.waiting, return_exceptions=True)
            for lease in self.leases:
                await lease.release()
            await self.pool.close()
            await until(lambda: not self.node.sessions(self.name))
            stats = self.pool.stats()
            assert (stats.size, stats.used, stats.waiters) == (0, 0, 0)

        self.runner.run(end())
        self.runner.close()


def test_the_pool_does_what_the_model_does(primary: Node, where: dict[str, Any]) -> None:
    Story.node, Story.where = primary, where
    story = Story.TestCase
    story.settings = settings(
        max_examples=15,
        stateful_step_count=25,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    story().runTest()


@pytest.mark.slow
def test_the_pool_does_what_the_model_does_for_long(primary: Node, where: dict[str, Any]) -> None:
    Story.node, Story.where = primary, where
    story = Story.TestCase
    story.settings = settings(
        max_examples=150, stateful_step_count=50, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    story().runTest()
