"""What the backend asks of those above it, and what it tells them: each None until it is set.

They are set once, as the app gets ready, by plain assignment: `ports.note_write = function`.
Every statement may pass here, so each of them has to be quick, never wait, and never raise, unless
it says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from django_poolkit.pools.errors import PoolError
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.postgres.commit import Asked, Commit

choose_host: Callable[[str, Mapping[str, float]], str | None] | None = None
"""Called with a logical alias and the weights of its hosts by key, before a lease is acquired.

Returns one of these keys, or None to leave the choice to the backend. A host that has just
refused a connection is left out of them, so that another one has to be chosen, and remembered.
What it raises where none of them will do, the acquire raises.
"""

keeps_host: Callable[[str, str], bool] | None = None
"""Called with a logical alias and the key of a host, as a lease from there is used once more.

In session mode, where a lease may have been acquired before it was known what has to be seen.
Returns False where the lease must be given back, and another be acquired.
"""

note_refusal: Callable[[str, str | None], None] | None = None
"""Called with an alias, and the key of its host if it has several, that has refused a connection,
or not answered a connect in time; another one is tried then.
"""

reroutes: Callable[[str], bool] | None = None
"""Called with an alias as a wrapper is opened: whether reads that fail there may be made again on
another alias. On another host of the same alias they may in any case."""

repeats: Callable[[str], bool] | None = None
"""Called with an alias as a cursor is opened: whether a write that is refused there, since the
server is a replica, may be made once more on a new connection."""

another_alias: Callable[[str, Collection[str], object], str | None] | None = None
"""Called with an alias on which a read has failed, all those where it has been by now, and Django's
cursor that runs it; the database wrapper where it got no connection, and so no cursor.

Returns where it may go in their place, None where it may not, as where the alias was named by its
caller. Remembers it.
"""

explain: Callable[[str, PoolError, ConnectionPool], Exception | None] | None = None
"""Called with an alias, what was raised as no connection could be had there, and the pool.

Returns what is to be raised in its place, from it; None to leave it.
"""

note_standby: Callable[[str], None] | None = None
"""Called with an alias, where a write has been refused since the server is a replica."""

note_pool: Callable[[str, ConnectionPool], None] | None = None
"""Called with an alias and a pool that has just been made for it, before anybody has it."""

note_broken: Callable[[str, str | None, ConnectionPool], None] | None = None
"""Called with an alias, the key of its host if it has several, and the pool, where a connection
has broken under a statement."""

note_failure: Callable[[object, BaseException], None] | None = None
"""Called with a database wrapper and what the driver raised as it was used, in the thread that did
so, before Django makes an error of its own of it."""

refuse_write: Callable[[str], None] | None = None
"""Called with an alias as a statement that may write, or that takes an advisory lock, begins on it.

What it raises, that statement raises, and is not sent.
"""

note_write: Callable[[str], None] | None = None
"""Called with an alias as a statement that may write begins on it, in the thread that runs it."""

note_lock: Callable[[str], None] | None = None
"""Called with an alias as a statement that takes an advisory lock begins on it.

What it raises, that statement raises, and is not sent.
"""

note_lone_write: Callable[[str], None] | None = None
"""Called with an alias, after `note_write`, where no commit of the backend's is to follow.

As in autocommit, or where the transaction has been begun by a text. And once more as a cursor is
closed after that, when the statement has ended.
"""

ask_commit: Callable[[str], Asked] | None = None
"""Called with an alias as a transaction that may have written is committed on it.

Returns what is to be known of it. That costs no round trip.
"""

note_commit: Callable[[str, Commit], None] | None = None
"""Called with an alias as such a transaction has been committed, unless nothing was to be known.

Before any `on_commit` hook. Not called for one that has written nothing, nor for one that the
server has refused; but where the connection was lost, so that nobody knows.
"""
