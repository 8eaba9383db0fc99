"""What a connection does while a task waits for its answer: on being cancelled, and on a deadline.

As in a thread (`late.py`) the one who waits is the one who has the server cancel the statement,
and who reads what is left of its answer: so nothing goes on running, and no cancellation is on
its way to what the connection does next. All of it is steadfast: a second cancellation, or a loop
that shuts down, waits for it. A commit and a rollback are let end.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import capabilities, generators, waiting
from psycopg.pq import TransactionStatus

from django_poolkit.pools.deadline import Deadline
from django_poolkit.pools.postgres import late
from django_poolkit.pools.postgres.steadfast import in_thread, steadfast

if TYPE_CHECKING:
    from django_poolkit.pools.postgres.connection import PoolConnection

logger = logging.getLogger("django_poolkit.pool")

# Seconds that a commit or a rollback has to end, before it is cancelled like anything else.
_ENDING: Final = 5.0
# Twice this, in seconds, a statement has to end before it is cancelled again.
_FIRST_PAUSE: Final = 0.05
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
    until, pause, heard = monotonic() + 2 * late.GRACE, _FIRST_PAUSE, True
    while connection.pgconn.transaction_status == _ACTIVE and monotonic() < until:
        # More than once: one that overtakes its statement finds nothing to cancel.
        heard = await cancel(connection) and heard
        pause *= 2
        try:
            await _read(connection, gen, min(pause, max(0.0, until - monotonic())))
        except psycopg.errors._WaitTimeout:
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


def abandon(connection: PoolConnection) -> None:
    """Have what runs cancelled by a thread, and never lend the connection again. Does not block.

    For one whose task is gone. The connection may be closed at once.
    """
    if connection.pgconn.transaction_status != _ACTIVE:
        return
    connection._generation = late.DOUBTFUL
    with suppress(psycopg.Error, RuntimeError):  # it is broken, or the system gives no thread
        # Made here: afterwards the connection may be closed.
        request: Any
        if capabilities.has_cancel_safe():
            work, request = _send_cancel, connection.pgconn.cancel_conn()
        else:
            work, request = _send_cancel_by_old_means, connection.pgconn.get_cancel()
        threading.Thread(target=work, args=(request,), name="cancel", daemon=True).start()


def _send_cancel(request: Any) -> None:
    with suppress(psycopg.Error, OSError):
        request.start()
        waiting.wait_conn(generators.cancel(request), interval=_INTERVAL, timeout=late.GRACE)


def _send_cancel_by_old_means(request: Any) -> None:
    with suppress(psycopg.Error, OSError):
        request.cancel()


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
    connection._cancelled_for, connection._certain = deadline, None
    generation = connection._generation
    connection._generation = late.DOUBTFUL
    if await cancel(connection):
        connection._certain = generation
    return await _bounded(connection, gen, deadline, max(0.0, until - monotonic()))


async def _bounded(connection: Any, gen: Steps, deadline: Deadline, seconds: float) -> Any:
    """Wait for the end of what has been cancelled, or for what is done to leave a statement."""
    try:
        return await _read(connection, gen, seconds)
    except psycopg.errors.QueryCanceled as error:
        if connection._cancelled_for is not deadline:
            raise
        if connection._certain is not None and connection._generation == late.DOUBTFUL:
            connection._generation = connection._certain  # it has come
        raise late.exceeded(connection, deadline, "while {} ran; it was cancelled") from error
    except psycopg.errors._WaitTimeout:
        connection.pgconn.finish()
        gen.close()
        text = "while {} ran; the server did not end it, so the connection was closed"
        raise late.exceeded(connection, deadline, text) from None
