"""The pool of asyncpg connections: what it is made of, its verbs, and its orders."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Final
from weakref import WeakSet

import asyncpg

from django_poolkit.pools.asyncpg import contract, streams
from django_poolkit.pools.asyncpg.config import AsyncpgConfig
from django_poolkit.pools.asyncpg.connect import Connector, Target
from django_poolkit.pools.asyncpg.connection import LeasedConnection
from django_poolkit.pools.asyncpg.lease import AsyncpgLease, describe
from django_poolkit.pools.asyncpg.life import Life, register
from django_poolkit.pools.asyncpg.line import Line
from django_poolkit.pools.asyncpg.listen import HEARTBEAT, Listener
from django_poolkit.pools.errors import PoolConfigError
from django_poolkit.pools.events import Events
from django_poolkit.pools.lease import Lease
from django_poolkit.pools.ledger import Ledger
from django_poolkit.pools.purpose import ToContext
from django_poolkit.pools.session_state import StatementRules
from django_poolkit.pools.stats import LeaseStats, PoolStats

contract.verify()

logger = logging.getLogger("django_poolkit.pool")

KIND: Final = "asyncpg"
"""`PoolStats.kind` of such a pool."""


class AsyncpgPool(Life):
    """A pool of asyncpg connections, with `min_size` to `max_size` of them on each event loop.

    `server` is what `asyncpg.connect()` takes: where it is, and who one is there. The options are
    those of `AsyncpgConfig`, by the names that users write. It opens at its first acquire on a
    loop, and ends there with the loop; a forked child begins anew.

    Raises PoolConfigError for an option that does not exist or cannot be honoured.
    """

    def __init__(
        self,
        server: Mapping[str, Any] | None = None,
        /,
        *,
        target: Target | None = None,
        config: AsyncpgConfig | None = None,
        name: str | None = None,
        **options: Any,
    ) -> None:
        if config is None:
            config = AsyncpgConfig.from_options(options)
        elif options:
            raise PoolConfigError("pass either config= or single options, not both")
        if target is None:
            target = Target(connect=dict(server or {}))
        elif server is not None:
            raise PoolConfigError("pass either target= or connect parameters, not both")
        self.config = config
        self.name = name or config.name or f"asyncpg-{id(self):x}"
        self.aliases: tuple[str, ...] = (self.name,)
        self.events = Events()
        """Tells of what happens in the pool; shared by all pools of the process's table."""
        self.context: Callable[[], ToContext | None] | None = None
        """Called on each acquire: returns what leads to what the lease is acquired for."""
        self.ended = False
        """Whether it has been closed for good."""
        self.target = target
        self.connector = Connector(target, config)
        self.residue = StatementRules(config.harmless_functions).residue
        self.plain: set[str] = set()
        """Texts that leave nothing behind. Shared by threads: a call each adds, finds, empties."""
        self.plain_home = config.reset is None and config.reset_policy == "dirty"
        """Whether the options ask for nothing at a release that leaves nothing behind."""
        stacks = config.stacks or ("all" if config.leak_after else "sampled")
        self.samples = stacks == "sampled"
        self._first_stack = math.inf if stacks == "none" else 0.0
        self.min_size, self.max_size = config.min_size, config.max_size
        self._inherited: list[object] = []
        self._begin()
        register(self)

    def _begin(self) -> None:
        self.lock = threading.Lock()
        self.ledger = Ledger()  # guarded by lock, as are the four below
        self.lines: dict[asyncio.AbstractEventLoop, Line] = {}
        self.listeners: WeakSet[Listener] = WeakSet()
        self.paused_until = 0.0
        self.generation = 0
        self.stack_due = self._first_stack
        self._announced = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    # -- verbs

    def lease(self, timeout: float | None = None) -> Leasing:
        """Acquire a connection for the length of an `async with` block.

        What it awaits and raises is as with `acquire()`.
        """
        return Leasing(self, timeout)

    async def acquire(self, timeout: float | None = None) -> AsyncpgLease:
        """Acquire a connection and return its lease.

        Waits for `timeout` seconds at most, the pool's own where it is None; 0 means not at all.
        Whoever waits is served in the order of arrival. Raises PoolTimeout, PoolPaused,
        TooManyWaiters or PoolClosed.
        """
        line = self.lines.get(asyncio._get_running_loop())  # type: ignore[arg-type]
        if line is not None and (lease := line.at_once()) is not None:
            return lease
        return await (await self.line()).acquire(timeout)

    async def release(self, lease: AsyncpgLease) -> None:
        """Take a lease's connection back. Raises LeaseReleased, WrongLoop."""
        await lease.release()

    async def discard(self, lease: AsyncpgLease) -> None:
        """Close a lease's connection. Raises LeaseReleased, WrongLoop."""
        await lease.discard()

    def listener(
        self, *channels: str, keep: int = 10_000, heartbeat: float = HEARTBEAT
    ) -> Listener:
        """Listen to channels on a connection beside the pool; see `Listener`.

        Every `heartbeat` seconds it is looked whether that lives. Raises ValueError.
        """
        return Listener(self, channels, keep=keep, heartbeat=heartbeat)

    rows = streams.rows
    copy_out = streams.copy_out
    copy_in = streams.copy_in

    def lost(self, lease: Lease) -> None:
        """Take note of a lease that was dropped. Called by finalizers, on any thread."""
        assert isinstance(lease, AsyncpgLease)
        lease.line.orphans.append(lease)
        if lease.line.soon(lease.line.adopt) or not self.ended:
            return
        # Nobody comes by any more. A finalizer cannot wait for the lock: who has it may be the one
        # that it has interrupted.
        if self.lock.acquire(blocking=False):
            self.lock.release()
            self.sweep()

    def count_pin(self, reason: str) -> None:
        """Do nothing: a lease of this pool lasts until its owner ends it."""

    # -- the loops

    async def line(self) -> Line:
        """Return the pool on the running event loop. Raises PoolClosed."""
        loop = asyncio.get_running_loop()
        line = self.lines.get(loop)
        if line is not None and not line.closing:
            return line
        self.sweep()
        if not self._announced:
            self._announced = True
            self.events.opening(self)
        line = Line(self)
        with self.lock:
            if self.ended:
                raise line.closed_error()
            self.lines[loop] = line
        await line.open()
        if self.paused_until:  # by those who knew of no loop, or of others
            self.end_pause_on(line.loop)
        return line

    async def open(self) -> None:
        """Open it on the running event loop, and connect `min_size` times in the background."""
        (await self.line()).grow()

    def make_engine(self, places: int) -> asyncpg.Pool[Any]:
        """Return a pool of asyncpg's that makes connections when it is asked to, and no others."""
        classes = ("connection_class", "record_class")
        given = {
            key: self.config.connection[key] for key in classes if key in self.config.connection
        }
        return asyncpg.create_pool(
            min_size=0,
            init_size=0,
            max_size=places,
            max_queries=2**62,
            max_inactive_connection_lifetime=0,
            connect=self.connector.connect,
            **given,
        )

    def secrets(self) -> tuple[str, ...]:
        """Return what must not appear in the text of an error."""
        password = self.target.connect.get("password")
        return (password,) if isinstance(password, str) else ()

    # -- seen from outside

    def stats(self) -> PoolStats:
        """Return a snapshot over all event loops, taken in one critical section."""
        self.sweep()
        with self.lock:
            return self.stats_locked(monotonic())

    def leases(self) -> list[LeaseStats]:
        """Return who holds what, oldest first."""
        with self.lock:
            found = self.ledger.leases_locked()
        return [describe(lease) for lease in found if isinstance(lease, AsyncpgLease)]

    def stats_locked(self, now: float) -> PoolStats:
        """Return the snapshot."""
        ledger, lines = self.ledger, list(self.lines.values())
        left = max(0.0, self.paused_until - now)
        return PoolStats(
            name=self.name,
            aliases=self.aliases,
            kind=KIND,
            mode="session",
            state="closed" if self.ended else "paused" if left else "open",
            pause_left=left,
            min_size=self.min_size * max(1, len(lines)),
            max_size=self.max_size * max(1, len(lines)),
            size=sum(line.size_locked() for line in lines),
            idle=sum(len(line.idle) for line in lines),
            used=sum(len(line.out) for line in lines),
            connecting=sum(len(line.connecting) for line in lines),
            waiters=sum(len(line.waiters) for line in lines),
            oldest_waiter=max(
                (now - next(iter(line.waiters)).since for line in lines if line.waiters),
                default=0.0,
            ),
            oldest_lease=ledger.oldest_locked(now),
            standstill=ledger.standstill_locked(now),
            acquired=ledger.acquired,
            waited=ledger.waited,
            timeouts=ledger.timeouts,
            too_many_waiters=ledger.too_many_waiters,
            connects=ledger.connects,
            connect_errors=ledger.connect_errors,
            closed={reason: count for reason, count in ledger.closed.items() if count},
            resets=ledger.resets,
            leaks=ledger.leaks,
            overdue=ledger.overdue,
            last_connect_error=ledger.last_connect_error,
            wait=ledger.wait.snapshot(),
            use=ledger.use.snapshot(),
            connect=ledger.connect.snapshot(),
        )


class Leasing:
    """`async with pool.lease() as connection:`."""

    __slots__ = ("_lease", "_pool", "_timeout")

    def __init__(self, pool: AsyncpgPool, timeout: float | None) -> None:
        self._pool = pool
        self._timeout = timeout
        self._lease: AsyncpgLease | None = None

    async def __aenter__(self) -> LeasedConnection:
        line = self._pool.lines.get(asyncio._get_running_loop())  # type: ignore[arg-type]
        lease = None if line is None else line.at_once()
        if lease is None:
            lease = await (await self._pool.line()).acquire(self._timeout)
        self._lease = lease
        return lease._connection  # type: ignore[no-any-return]

    async def __aexit__(self, *exc_info: object) -> None:
        lease, self._lease = self._lease, None
        if lease is not None and not lease.released and not lease.line.take_back(lease):
            await lease.line.release(lease)
