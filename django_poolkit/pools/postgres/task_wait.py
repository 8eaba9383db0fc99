"""What a connection does while a task waits for its answer: on being cancelled, and on a deadline.

As in a thread (`late.py`) the one who waits is the one who has the server cancel the statement,
and who reads what is left of its answer: so nothing goes on running, and no cancellation is on
its way to what the connection does next. All of it is steadfast: a second cancellation, or a loop
that shuts down, waits for it. A commit and a rollback are let end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from math import inf
from time import monotonic
from typing import Any, Final

import psycopg
from psycopg import capabilities, waiting
from psycopg.pq import TransactionStatus

from django_poolkit.pools.deadline import Deadline
from django_poolkit.pools.postgres import late
from django_poolkit.pools.postgres.steadfast import in_thread, steadfast

logger = logging.getLogger("django_poolkit.pool")

# Seconds that a commit or a rollback has to end, before it is cancelled like anything else.
_ENDING: Final = 5.0
_INTERVAL: Final = 0.1  # psycopg's own
_ACTIVE: Final = TransactionStatus.ACTIVE

Steps = Generator[Any, Any, Any]


async def _read(
    connection: Any, gen: Steps, seconds: float | None, interval: float = _INTERVAL
) -> Any:
    return await waiting.wait_async(
        gen, connection.pgconn.socket, interval=interval, timeout=seconds
    )


async def leave(connection: Any, gen: Steps) -> None:
    """Leave nothing running, whoever cancels meanwhile: its task has been cancelled."""
    if connection.pgconn.transaction_status == _ACTIVE:
        await steadfast(_leave(connection, gen))


async def _leave(connection: Any, gen: Steps) -> None:
    """Bring what runs to its end."""
    if late.name_of(gen) in (*late.ENDINGS, *late.COMMITS):
        try:
            await _read(connection, gen, _ENDING)
            return
        except psycopg.errors._WaitTimeout:
            pass
        except Exception:
            if connection.pgconn.transaction_status != _ACTIVE:
                return  # it has ended, with an error that nobody waits for
    generation = connection._generation
    connection._generation = late.DOUBTFUL  # until it is known that no cancellation is on its way
    until, pause, heard = monotonic() + 2 * late.GRACE, late.AGAIN, True
    while connection.pgconn.transaction_status == _ACTIVE and monotonic() < until:
        # More than once: one that overtakes its statement finds nothing to cancel.
        heard = await cancel(connection) and heard
        try:
            await _read(connection, gen, min(pause, max(0.0, until - monotonic())))
        except psycopg.errors._WaitTimeout:
            pause *= 2
            continue
        except psycopg.errors.QueryCanceled:
            if heard and connection._generation == late.DOUBTFUL:
                connection._generation = generation  # it has come
        except Exception:  # noqa: S110 - how else it ends: nobody waits for that
            pass
        break
    if connection.pgconn.transaction_status == _ACTIVE:
        logger.warning("event=not_cancelled")
        connection.pgconn.finish()  # first: what `gen` does at its end must not wait again
        gen.close()


async def cancel(connection: Any) -> bool:
    """Ask the server to cancel what runs; return whether it has heard. Takes `GRACE` s at most."""
    try:
        if not capabilities.has_cancel_safe():
            return await in_thread("cancel", late.cancel, connection)
        steps = connection._cancel_gen()
        await waiting.wait_conn_async(steps, interval=_INTERVAL, timeout=late.GRACE)
        return True
    except (psycopg.Error, OSError) as error:
        logger.warning("event=cancel_failed error=%s", type(error).__name__)
        return False


async def end_block(block: Any, kind: type[BaseException] | None, *error: Any) -> Any:
    """End a block of psycopg's, and that of a task that is cancelled within bounds.

    A network may be silent for as long as it likes. So the rollback of such a task is cancelled in
    its turn: `leave()` sees to it that it is done, or the connection closed.
    """
    if kind is None or not issubclass(kind, asyncio.CancelledError):
        return await block.__aexit__(kind, *error)
    limit = asyncio.timeout(late.GRACE)
    try:
        async with limit:
            return await block.__aexit__(kind, *error)
    except (TimeoutError, asyncio.CancelledError):  # Python before 3.11.3 makes this of that here
        if not limit.expired():
            raise
    return None


async def until(connection: Any, gen: Steps, seconds: float | None, deadline: Deadline) -> Any:
    """Wait until the deadline at most, as `late.wait()` does. Raises DeadlineExceeded."""
    left = deadline.at - monotonic()
    if left > 0:
        if seconds is not None and seconds <= left:
            return await _read(connection, gen, seconds)
        try:
            return await _read(connection, gen, left)
        except psycopg.errors._WaitTimeout:
            pass
        if connection.pgconn.transaction_status != _ACTIVE:
            gen.close()
            raise late.exceeded(connection, deadline, "while notifications were waited for")
        return await steadfast(_cancelled(connection, gen, deadline))
    reads = late.name_of(gen) in late.READS
    if late.ends(connection, gen) or (reads and connection._cancelled_for is deadline):
        return await steadfast(_bounded(connection, gen, deadline, late.GRACE))
    runs = connection.pgconn.transaction_status == _ACTIVE
    if runs and reads:
        return await steadfast(_cancelled(connection, gen, deadline))
    text = None if runs else late.text_of(gen)
    gen.close()
    raise late.exceeded(connection, deadline, "while {} ran" if runs else "before {} began", text)


async def _cancelled(connection: Any, gen: Steps, deadline: Deadline) -> Any:
    """Have the server cancel what runs; return its result where it ended before that."""
    until = monotonic() + late.GRACE
    connection._cancelled_for, connection._certain = deadline, connection._generation
    connection._generation = late.DOUBTFUL
    await _ask(connection)
    seconds = max(0.0, until - monotonic())
    return await _bounded(connection, gen, deadline, seconds, again=late.AGAIN)


async def _ask(connection: Any) -> None:
    certain, connection._certain = connection._certain, None
    if await cancel(connection):
        connection._certain = certain


async def _bounded(
    connection: Any, gen: Steps, deadline: Deadline, seconds: float, again: float = inf
) -> Any:
    """Wait for the end of what has been cancelled, or for what is done to leave a statement."""
    until = monotonic() + seconds
    while True:
        left = max(0.0, until - monotonic())
        try:
            return await _read(connection, gen, min(again, left))
        except psycopg.errors.QueryCanceled as error:
            late.raise_cancelled(connection, deadline, error)
        except psycopg.errors._WaitTimeout:
            if again < left:
                await _ask(connection)
                again *= 2
                continue
            raise late.hung_up(connection, gen, deadline) from None
