"""No frame that may outlive its thread knows that thread's greenlet (see `port.getcurrent`)."""

from __future__ import annotations

import asyncio
from traceback import walk_tb
from types import FrameType
from typing import Any

import pytest
from greenlet import getcurrent

from django_poolkit.pools.bridge.driver import await_only, run
from django_poolkit.pools.postgres.errors import PoolTimeout


def knows(frame: FrameType) -> bool:
    here = getcurrent()
    return any(value is here for value in frame.f_locals.values())


def test_not_one_of_an_acquire_that_fails(make_pool):
    pool = make_pool(max_size=1)
    with pool.lease(), pytest.raises(PoolTimeout) as failed:
        pool.acquire(timeout=0)
    frames = [frame for frame, _ in walk_tb(failed.value.__traceback__)][1:]  # but for this one
    assert "acquire" in [frame.f_code.co_name for frame in frames]
    assert not any(map(knows, frames))


def test_not_that_of_a_call_in_the_bridge():
    async def main() -> None:
        ready = asyncio.get_running_loop().create_future()
        call: Any = run(await_only, ready)
        task = asyncio.ensure_future(call)
        await asyncio.sleep(0)
        assert not task.done()
        assert not knows(call.cr_frame)
        ready.set_result(None)
        await task

    asyncio.run(main())


def test_not_that_of_who_awaits_outside_of_the_bridge():
    with pytest.raises(RuntimeError, match="await_only") as failed:
        await_only(asyncio.sleep(0))
    frames = [frame for frame, _ in walk_tb(failed.value.__traceback__)][1:]
    assert [frame.f_code.co_name for frame in frames] == ["await_only"]
    assert not any(map(knows, frames))
