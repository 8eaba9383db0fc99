"""How a loop looks at the sockets of calls: by one reader that stays, and wakes nobody in vain."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any
from weakref import ref

import pytest

from django_poolkit.pools.bridge import sockets, waits
from django_poolkit.pools.bridge.driver import run
from django_poolkit.pools.bridge.greenlets import getcurrent
from django_poolkit.pools.bridge.sockets import ByReaders, InEpoll, sockets_of
from django_poolkit.pools.postgres import ConnectionPool
from tests.pools.bridge.support import by_itself
from tests.pools.postgres.tasks import LOOPS, run_on, run_on_each

__all__ = ["run_on_each"]

Run = Callable[[Callable[[], Any]], Any]
MakePool = Callable[..., ConnectionPool]
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two ends of a line."""
    here, there = socket.socketpair()
    with here, there:
        yield here, there


def wait(fileno: int, wanted: int = 1, until: float | None = None) -> int:
    """Wait for a socket, in the bridge; return for what it is ready."""
    return waits._suspend(getcurrent(), fileno, wanted, until)  # type: ignore[arg-type]


def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with each look of a loop."""
    seen: list[int] = []

    class Counted(InEpoll):
        def _look(self) -> None:
            seen.append(len(self._waiting))
            super()._look()

    monkeypatch.setattr(sockets, "InEpoll", Counted)
    return seen


def test_a_loop_is_told_once_of_all_that_its_calls_wait_for(make_pool: MakePool) -> None:
    pool = make_pool(max_size=3)

    async def main() -> None:
        await run(by_itself, pool)
        known = asyncio.get_running_loop()._selector.get_map()  # type: ignore[attr-defined]
        before = [*known]
        for _ in range(3):
            await asyncio.gather(*(run(by_itself, pool) for _ in range(3)))
        assert [*known] == before

    run_on("asyncio", main)


def test_each_is_told_what_it_waits_for(run_on_each: Run, pair: Pair) -> None:
    here, there = pair

    async def main() -> None:
        assert await run(wait, here.fileno(), 2) == 2
        there.send(b"x")
        assert await run(wait, here.fileno(), 1) == 1
        assert await run(wait, here.fileno(), 2) == 2
        here.recv(1)
        assert await run(wait, here.fileno(), 1, asyncio.get_running_loop().time()) == 0
        there.close()  # which is told to both
        assert await run(wait, here.fileno(), 1) == 1

    run_on_each(main)


def test_what_comes_while_nobody_waits_wakes_the_loop_once_at_most(
    run_on_each: Run, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    seen = looks(monkeypatch)

    async def main() -> None:
        # Given up, so that it is armed still.
        assert await run(wait, here.fileno(), 1, 0.0) == 0
        there.send(b"x")
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(seen) <= 1
        assert await run(wait, here.fileno()) == 1  # and it is there for who comes

    run_on_each(main)


def test_a_number_that_another_thread_has_closed_is_looked_at_again(run_on_each: Run) -> None:
    async def main() -> None:
        one, other = socket.socketpair()
        number = one.fileno()
        other.send(b"x")
        assert await run(wait, number) == 1
        thread = threading.Thread(target=one.close)
        thread.start()
        thread.join()
        again, far = socket.socketpair()
        if again.fileno() != number:
            before = again.detach()
            again = socket.socket(fileno=os.dup2(before, number))
            os.close(before)
        with other, again, far:
            task = asyncio.ensure_future(run(wait, number))
            await asyncio.sleep(0)
            far.send(b"x")
            async with asyncio.timeout(20.0):
                assert await task == 1

    run_on_each(main)


def test_an_interrupt_in_one_call_is_none_of_the_others(pair: Pair) -> None:
    """What was ready in the same turn is looked at again."""
    here, there = pair
    one, other = socket.socketpair()

    def interrupted() -> None:
        wait(here.fileno())
        raise KeyboardInterrupt

    loop = asyncio.new_event_loop()
    with one, other:

        async def begin() -> list[asyncio.Task[Any]]:
            tasks: list[asyncio.Task[Any]] = [asyncio.ensure_future(run(interrupted))]
            tasks.append(asyncio.ensure_future(run(wait, one.fileno())))
            await asyncio.sleep(0)
            return tasks

        tasks = loop.run_until_complete(begin())
        there.send(b"x")
        other.send(b"x")
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(asyncio.wait(tasks, timeout=20.0))
        assert loop.run_until_complete(asyncio.wait_for(tasks[1], 20.0)) == 1
        assert isinstance(tasks[0].exception(), KeyboardInterrupt)
    loop.close()


@pytest.mark.parametrize("kind", LOOPS)
def test_it_ends_with_its_loop(kind: str, pair: Pair) -> None:
    found: list[Any] = []

    async def main() -> None:
        await run(wait, pair[0].fileno(), 2)
        loop = asyncio.get_running_loop()
        assert sockets_of(loop) is sockets_of(loop)
        found.append(ref(sockets_of(loop)))

    for _ in range(3):  # one after the other, each with one of its own
        run_on(kind, main)
    gc.collect()
    assert [each() for each in found] == [None] * 3


def test_loops_that_take_turns_in_a_thread_keep_theirs(pair: Pair) -> None:
    loops = [make() for make in LOOPS.values()]

    async def mine() -> Any:
        await run(wait, pair[0].fileno(), 2)
        return sockets_of(asyncio.get_running_loop())

    try:
        found = [loop.run_until_complete(mine()) for loop in loops * 2]
        assert found[:2] == found[2:]
        assert found[0] is not found[1]
    finally:
        for loop in loops:
            loop.close()


def test_without_epoll_the_loop_is_told_of_each_wait(
    run_on_each: Run, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, pair: Pair
) -> None:
    monkeypatch.setattr(sockets, "_epoll", sockets._no_epoll)
    pool = make_pool(max_size=2)

    async def main() -> None:
        assert isinstance(sockets_of(asyncio.get_running_loop()), ByReaders)
        for _ in range(3):
            assert await asyncio.gather(*(run(by_itself, pool) for _ in range(4))) == [1] * 4
        assert await run(wait, pair[0].fileno(), 2) == 2
        assert await run(wait, pair[0].fileno(), 1, 0.0) == 0

    run_on_each(main)


def test_a_thread_may_have_the_connection_in_between(run_on_each: Run, make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)

    async def main() -> None:
        for _ in range(5):
            assert await run(by_itself, pool) == 1
            assert await asyncio.to_thread(by_itself, pool) == 1

    run_on_each(main)
    assert pool.stats().connects == 1


def ended(child: int) -> int:
    """Return how a child has ended. Blocks."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_child_knows_of_none(pair: Pair) -> None:
    async def main() -> None:
        await run(wait, pair[0].fileno(), 2)
        assert len(sockets._here.known) >= 1
        child = os.fork()
        if child == 0:
            os._exit(len(sockets._here.known) + (sockets._here.last() is not None))
        assert ended(child) == 0
        assert await run(wait, pair[0].fileno(), 2) == 2

    run_on("asyncio", main)
