"""What a connection does under a deadline: wait no longer, and leave nothing running.

The thread that waits for an answer is the one that gives up, and that has the server cancel its
statement: so no other thread can be on its way to cancel what the connection does next. It waits
until the server has hung up on the request, which it does after it has passed it on. Where that
is not heard, or the statement ended at the same moment, the connection is never lent again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Mapping
from math import inf
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final, NoReturn

import psycopg
from psycopg import capabilities
from psycopg.pq import TransactionStatus

from django_poolkit.pools.deadline import Deadline
from django_poolkit.pools.postgres.errors import DeadlineExceeded
from django_poolkit.pools.statement_kinds import verb_of

if TYPE_CHECKING:
    from django_poolkit.pools.postgres.connection import PoolConnection

logger = logging.getLogger("django_poolkit.pool")

GRACE: Final = 1.0
"""Seconds that a server has to cancel a statement, or to roll back, before it is hung up on."""
AGAIN: Final = 0.1
"""Seconds that a statement has to end before it is cancelled again; doubled from there on.

A request that overtakes its statement finds nothing to cancel, and is lost (PostgreSQL's
`PostgresMain()`)."""
DOUBTFUL: Final = -2
"""The generation of a connection that a cancellation may reach late: it is not lent again."""

# What psycopg does to leave something, by the name of the generator that it waits for. After the
# deadline it may go on for a moment, and nothing else may begin.
ENDINGS: Final = frozenset(
    {
        "_rollback_gen", "_close_gen", "copy_end", "_end_copy_out_gen", "_sync_gen", "_exit_gen",
        "_set_autocommit_gen", "_set_isolation_level_gen", "_set_read_only_gen",
        "_set_deferrable_gen",
    }
)  # fmt: skip
# How psycopg reads on in what a statement, which runs, gives it piece by piece.
READS: Final = ("_stream_fetchone_gen", "_read_gen", "_read_row_gen")
COMMITS: Final = ("_commit_gen", "steps")
_WAIT: Final = psycopg.Connection.wait
_ACTIVE: Final = TransactionStatus.ACTIVE


def wait(
    connection: PoolConnection,
    gen: Generator[Any, Any, Any],
    interval: float,
    timeout: float | None,
    deadline: Deadline,
) -> Any:
    """Wait as `psycopg.Connection.wait()` does, until the deadline at most.

    What runs then is cancelled, which takes `GRACE` seconds at most. Raises DeadlineExceeded.
    """
    left = deadline.at - monotonic()
    if left > 0:
        if timeout is not None and timeout <= left:
            return _WAIT(connection, gen, interval, timeout)
        try:
            return _WAIT(connection, gen, interval, left)
        except psycopg.errors._WaitTimeout:
            pass
        if connection.pgconn.transaction_status != _ACTIVE:
            gen.close()
            raise exceeded(connection, deadline, "while notifications were waited for")
        return _cancelled(connection, gen, interval, deadline)
    # Whoever has met the deadline may leave what he was in, and begin nothing.
    reads = name_of(gen) in READS
    if ends(connection, gen) or (reads and connection._cancelled_for is deadline):
        return _bounded(connection, gen, interval, deadline, GRACE)
    runs = connection.pgconn.transaction_status == _ACTIVE
    if runs and reads:
        return _cancelled(connection, gen, interval, deadline)
    text = None if runs else text_of(gen)
    gen.close()
    raise exceeded(connection, deadline, "while {} ran" if runs else "before {} began", text)


def _cancelled(
    connection: PoolConnection, gen: Generator[Any, Any, Any], interval: float, deadline: Deadline
) -> Any:
    """Have the server cancel what runs; return its result where it ended before that."""
    until = monotonic() + GRACE
    connection._cancelled_for, connection._certain = deadline, connection._generation
    connection._generation = DOUBTFUL  # until it is known that no cancellation is on its way
    ask(connection)
    seconds = max(0.0, until - monotonic())
    return _bounded(connection, gen, interval, deadline, seconds, again=AGAIN)


def ask(connection: PoolConnection) -> None:
    """Have what runs cancelled; keep it certain only where the server has heard."""
    certain, connection._certain = connection._certain, None
    if cancel(connection):
        connection._certain = certain


def _bounded(
    connection: PoolConnection,
    gen: Generator[Any, Any, Any],
    interval: float,
    deadline: Deadline,
    seconds: float,
    again: float = inf,
) -> Any:
    """Wait for the end of what has been cancelled, or for what is done to leave a statement.

    What has ended before the cancellation came is not thrown away; whoever wants more is told.
    After `again` seconds it is cancelled once more, and so on in longer and longer pauses.
    """
    until = monotonic() + seconds
    while True:
        left = max(0.0, until - monotonic())
        try:
            return _WAIT(connection, gen, interval, min(again, left))
        except psycopg.errors.QueryCanceled as error:
            raise_cancelled(connection, deadline, error)
        except psycopg.errors._WaitTimeout:
            if again < left:
                ask(connection)
                again *= 2
                continue
            raise hung_up(connection, gen, deadline) from None


def raise_cancelled(
    connection: PoolConnection, deadline: Deadline, error: psycopg.errors.QueryCanceled
) -> NoReturn:
    """Tell whoever met a deadline that his statement has been cancelled for it."""
    if connection._cancelled_for is not deadline:
        raise error
    if connection._certain is not None and connection._generation == DOUBTFUL:
        connection._generation = connection._certain  # it has come
    raise exceeded(connection, deadline, "while {} ran; it was cancelled") from error


def hung_up(
    connection: PoolConnection, gen: Generator[Any, Any, Any], deadline: Deadline
) -> DeadlineExceeded:
    """Close a connection that does not come to rest; return the error for that."""
    connection.pgconn.finish()  # first: what `gen` does at its end must not wait again
    gen.close()
    text = "while {} ran; the server did not end it, so the connection was closed"
    return exceeded(connection, deadline, text)


def cancel(connection: PoolConnection) -> bool:
    """Ask the server to cancel what runs; return whether it has heard. Blocks for `GRACE` s."""
    try:
        if capabilities.has_cancel_safe():
            connection.cancel_safe(timeout=GRACE)
            return True
        # libpq before 17 has only one that blocks, for as long as the network likes.
        heard = threading.Event()
        thread = threading.Thread(
            target=_cancel_by_old_means, args=(connection, heard), name="cancel", daemon=True
        )
        thread.start()
        return heard.wait(GRACE)
    except (psycopg.Error, OSError, RuntimeError) as error:
        _say_failed(connection, error)
        return False


def cancel_unheard(connection: PoolConnection) -> None:
    """Have cancelled what nobody reads the answer of any more: twice, since one may come too early.

    Blocks as `cancel()`, and for `AGAIN` seconds more.
    """
    if cancel(connection):
        sleep(AGAIN)
        cancel(connection)


def _cancel_by_old_means(connection: PoolConnection, heard: threading.Event) -> None:
    try:
        connection.cancel()
    except (psycopg.Error, OSError) as error:
        _say_failed(connection, error)
    else:
        heard.set()


def _say_failed(connection: PoolConnection, error: BaseException) -> None:
    lease = connection._lease_ref()
    name = None if lease is None else lease.pool.name
    logger.warning("pool=%s event=cancel_failed error=%s", name, type(error).__name__)


def name_of(gen: Generator[Any, Any, Any]) -> str:
    """Return the name of what psycopg does step by step."""
    return getattr(gen, "__name__", "")


def _arguments(gen: Generator[Any, Any, Any]) -> Mapping[str, Any]:
    """Return what a generator that has not begun was called with."""
    return {} if (frame := getattr(gen, "gi_frame", None)) is None else frame.f_locals


def text_of(gen: Generator[Any, Any, Any]) -> str | None:
    """Return the statement that has not begun, None where it is none, or has no text."""
    query = _arguments(gen).get("query")
    if isinstance(query, bytes):
        return query.decode("latin-1")
    if query is None and name_of(gen) in COMMITS:
        return "COMMIT"
    return query if isinstance(query, str) else None


def ends(connection: PoolConnection, gen: Generator[Any, Any, Any]) -> bool:
    """Return whether it leaves a transaction, a cursor, a COPY or a pipeline."""
    if name_of(gen) != "_execute_gen":
        # A block of psycopg's that no error ends would commit.
        return name_of(gen) in ENDINGS and _arguments(gen).get("exc_type", gen) is not None
    # Django rolls back to a savepoint by a text, and then releases it by another.
    lease, text = connection._lease_ref(), text_of(gen)
    if _begins_with(text, "RELEASE"):
        text = None if lease is None else lease.statement
    return _begins_with(text, "ROLLBACK")


def _begins_with(text: str | None, word: str) -> bool:
    return text is not None and text.lstrip()[: len(word)].upper() == word


def exceeded(
    connection: PoolConnection, deadline: Deadline, where: str, text: str | None = None
) -> DeadlineExceeded:
    """Return the error for whoever has met a deadline; `where` has a place for the statement."""
    lease = connection._lease_ref()
    if text is None and lease is not None:
        text = lease.statement
    what = "a statement" if text is None else f"a statement ({verb_of(text)})"
    pool = None if lease is None else lease.pool.name
    error = DeadlineExceeded(
        f"pool {pool!r}: the deadline of {deadline.seconds:.2f} s passed {where.format(what)}",
        pool=pool,
    )
    error.deadline, error.waited_for = deadline.seconds, what
    return error
