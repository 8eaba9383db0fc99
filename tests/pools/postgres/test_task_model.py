"""Threads and tasks on one pool against a model of it, in stories that nobody thought of."""

from __future__ import annotations

import asyncio
import itertools
import threading
from contextlib import suppress
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing.waiting import wait_until
from tests.pools.postgres.tasks import LOOPS, assert_quiet
from tests.pools.support import PATIENCE, Call

SIZE = 2
_numbers = itertools.count(1)


class Loop(threading.Thread):
    """An event loop that runs in a thread."""

    def __init__(self, kind: str) -> None:
        super().__init__(daemon=True)
        self.loop = LOOPS[kind]()
        self.start()

    def run(self) -> None:
        self.loop.run_forever()

    def do(self, work: Any) -> Any:
        """Await something on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE)

    def end(self) -> None:
        """Stop and close the loop."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.join(PATIENCE)
        self.loop.close()


class Request:
    """Somebody who has come for a connection: a thread, or a task of a loop."""

    def __init__(self, pool: ConnectionPool, loop: Loop | None) -> None:
        self.pool, self.loop, self.number = pool, loop, next(_numbers)
        self.used = False
        self._found: Lease | None = None
        if loop is None:
            self.call = Call(pool.acquire)
        else:
            self.task = loop.do(self._begin())

    async def _begin(self) -> asyncio.Task[Any]:
        return asyncio.ensure_future(self.pool.aacquire())

    def cancel(self) -> None:
        """Cancel the task; give back what it has where it was served before."""

        async def work() -> None:
            self.task.cancel()
            with suppress(asyncio.CancelledError):
                await (await self.task).release()

        assert self.loop is not None
        self.loop.do(work())

    @property
    def served(self) -> bool:
        return not self.call.is_alive() if self.loop is None else self.task.done()

    @property
    def lease(self) -> Any:
        if self._found is None:
            self._found = self.call.result() if self.loop is None else self.task.result()
        return self._found

    def execute(self, statement: str) -> Any:
        """Return the one value that a statement gives."""
        if self.loop is None:
            return self.lease.connection.execute(statement).fetchone()[0]

        async def work() -> Any:
            cursor = await self.lease.connection.execute(statement)
            return (await cursor.fetchone())[0]

        return self.loop.do(work())

    def end(self, verb: str) -> None:
        """Release or discard."""
        found = getattr(self.lease, verb)
        if self.loop is None:
            found()
        else:
            self.loop.do(found())


class Story(RuleBasedStateMachine):
    """Acquires, uses, gives back, cancels and steers; holds the figures against the model."""

    params: ClassVar[dict[str, Any]]

    def __init__(self) -> None:
        super().__init__()
        self.pool = ConnectionPool(kwargs=self.params, max_size=SIZE, timeout=60.0)
        self.loops = [Loop(kind) for kind in LOOPS]
        self.held: list[Request] = []
        self.waiting: list[Request] = []

    def _one(self, requests: list[Request], which: int) -> Request:
        return requests[which % len(requests)]

    def _serve(self) -> None:
        while self.waiting and len(self.held) < SIZE:
            self.held.append(self.waiting.pop(0))

    @rule(who=st.sampled_from([None, 0, 1]))
    def acquire(self, who: int | None) -> None:
        before = self.pool.stats()
        request = Request(self.pool, None if who is None else self.loops[who])
        self.waiting.append(request)
        self._serve()
        if request in self.waiting:
            wait_until(lambda: self.pool.stats().waiters == before.waiters + 1)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 5), dirty=st.booleans())
    def use(self, which: int, dirty: bool) -> None:
        request = self._one(self.held, which)
        mine = str(request.number) if request.used else None
        assert request.execute("SELECT nullif(current_setting('x.owner', true), '')") == mine
        if dirty or request.used:
            request.execute(f"SELECT set_config('x.owner', '{request.number}', false)")
            request.used = True

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 5), verb=st.sampled_from(["release", "release", "discard"]))
    def give_back(self, which: int, verb: str) -> None:
        request = self._one(self.held, which)
        self.held.remove(request)
        request.end(verb)
        self._serve()

    @precondition(lambda self: any(request.loop for request in self.waiting))
    @rule(which=st.integers(0, 5))
    def cancel(self, which: int) -> None:
        request = self._one([each for each in self.waiting if each.loop], which)
        self.waiting.remove(request)
        request.cancel()
        wait_until(lambda: self.pool.stats().waiters == len(self.waiting))

    @precondition(lambda self: self.held and any(request.loop for request in self.waiting))
    @rule(which=st.integers(0, 5))
    def cancel_in_the_instant_of_a_release(self, which: int) -> None:
        request = self._one([each for each in self.waiting if each.loop], which)
        self.waiting.remove(request)
        giver = self.held.pop(0)
        giving = Call(giver.end, "release")
        request.cancel()
        giving.result()
        self._serve()

    @rule()
    def recycle(self) -> None:
        self.pool.recycle()

    @invariant()
    def adds_up(self) -> None:
        wait_until(lambda: all(request.served for request in self.held))
        wait_until(lambda: self.pool.stats().waiters == len(self.waiting))
        assert all(request.lease.released is False for request in self.held)
        assert not any(request.served for request in self.waiting)
        stats = self.pool.stats()
        assert stats.used == len(self.held)
        assert stats.size == stats.idle + stats.used + stats.connecting
        assert stats.timeouts == stats.leaks == 0
        pids = [request.lease.held.info.backend_pid for request in self.held]
        assert len(set(pids)) == len(pids)

    def teardown(self) -> None:
        for request in self.waiting:
            if request.loop:
                request.cancel()
        self.waiting = [request for request in self.waiting if not request.loop]
        while self.held:
            self.held.pop().end("release")
            self._serve()
        try:
            wait_until(lambda: self.pool.stats().used == 0)
            assert_quiet(self.pool)
        finally:
            for loop in self.loops:
                loop.end()
            self.pool.close()


def run(params: dict[str, Any], *, examples: int, steps: int, **more: Any) -> None:
    """Play stories."""
    Story.params = params
    case = Story.TestCase
    case.settings = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None,
        suppress_health_check=list(HealthCheck), **more,
    )  # fmt: skip
    case().runTest()


def test_threads_and_tasks_do_what_the_model_does(params: dict[str, Any]) -> None:
    run(params, examples=10, steps=25, derandomize=True)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_threads_and_tasks_do_what_the_model_does_for_long(params: dict[str, Any]) -> None:
    run(params, examples=200, steps=50)
