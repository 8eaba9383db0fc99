"""Steps that nobody can interrupt, and calls that block, for the sake of a task.

A release, a rollback and the cancelling of a statement must come to their end, also where the
task is cancelled meanwhile, and once more, and where the loop is shutting down and cancels every
task there is. So there is no task of their own: the one that is cancelled goes on, and is told
afterwards.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

R = TypeVar("R")


async def steadfast(steps: Coroutine[Any, Any, R]) -> R:
    """Await a coroutine to its end; a cancellation that comes meanwhile is raised after that.

    It may not cancel the task itself, as `asyncio.timeout()` does: bound it by other means.
    Where the task is thrown away with its loop, the coroutine ends with it.
    """
    cancelled: list[asyncio.CancelledError] = []
    try:
        result = await endure(steps, cancelled.append)
    except Exception as error:
        if cancelled:
            raise cancelled[-1] from error
        raise
    if cancelled:
        raise cancelled[-1]
    return result


def _for_ever() -> None:
    return


async def endure(
    steps: Coroutine[Any, Any, R],
    note: Callable[[asyncio.CancelledError], None],
    left: Callable[[], float | None] = _for_ever,
    give_up: Callable[[], None] = _for_ever,
) -> R:
    """Await a coroutine to its end as `steadfast()`, and have `note` called with a cancellation.

    That one waits for as many seconds as `left` says, None for any time; then `give_up` is called,
    and what is waited for is cancelled.
    """
    try:
        while True:
            try:
                awaited = steps.send(None)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            if awaited is None:  # it lets others run
                waits = asyncio.get_running_loop().create_future()
                waits.get_loop().call_soon(_end, waits)
            else:
                awaited._asyncio_future_blocking = False
                waits = awaited
            while not waits.done():
                try:
                    # Unlike `await`, it does not cancel what it waits for.
                    await asyncio.wait({waits}, timeout=left())
                except asyncio.CancelledError as error:
                    note(error)
                else:
                    if not waits.done():
                        give_up()
                        waits.cancel()
    finally:
        steps.close()


def _end(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def in_thread(name: str, function: Callable[..., R], *args: Any) -> R:
    """Call what blocks in a thread of its own, in this context, and return what it returns.

    Not in a pool of threads: those of one that is full may all be waiting for what this call is
    about to give back. Blocks where the system gives no thread. Where nobody waits for it any
    more, because the loop was closed, it goes on none the less.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[R] = loop.create_future()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            result = context.run(function, *args)
        except BaseException as error:
            _tell(loop, _fail, done, error)
        else:
            _tell(loop, _answer, done, result)

    try:
        threading.Thread(target=work, name=f"{name}-for-task", daemon=True).start()
    except RuntimeError:  # the system gives no thread
        return function(*args)
    return await done


def _tell(loop: asyncio.AbstractEventLoop, verb: Callable[..., None], *args: Any) -> None:
    try:
        loop.call_soon_threadsafe(verb, *args)
    except RuntimeError:  # it was closed, and nobody waits
        return


def _answer(done: asyncio.Future[R], result: R) -> None:
    if not done.done():
        done.set_result(result)


def _fail(done: asyncio.Future[Any], error: BaseException) -> None:
    if not done.done():
        done.set_exception(error)
