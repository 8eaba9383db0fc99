"""The pool of psycopg connections: what it is made of, its upkeep and its verbs."""

from __future__ import annotations

import logging
import math
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Final

import psycopg
import psycopg_pool
from psycopg_pool._acompat import gather

from django_poolkit.pools.config import PoolConfig
from django_poolkit.pools.credentials import supplier
from django_poolkit.pools.errors import PoolConfigError
from django_poolkit.pools.events import Events
from django_poolkit.pools.lease import Lease
from django_poolkit.pools.ledger import Ledger, describe
from django_poolkit.pools.observe import Recorder
from django_poolkit.pools.postgres import at_hand, contract, fork, housekeeper
from django_poolkit.pools.postgres.connect import Connector, SessionDefaults
from django_poolkit.pools.postgres.connection import PoolConnection
from django_poolkit.pools.postgres.errors import PoolClosed, PoolTimeout
from django_poolkit.pools.postgres.fence import Fence
from django_poolkit.pools.postgres.growth import Growth
from django_poolkit.pools.postgres.plans import Plans
from django_poolkit.pools.postgres.positions import PositionReader
from django_poolkit.pools.postgres.prober import Parameters, Prober
from django_poolkit.pools.postgres.shares import Shares
from django_poolkit.pools.postgres.shell import Job, critical
from django_poolkit.pools.postgres.statements import Statements
from django_poolkit.pools.postgres.steering import Steering
from django_poolkit.pools.postgres.waiters import Lanes, Waiters
from django_poolkit.pools.stats import LeaseStats, PoolStats

contract.verify()

logger = logging.getLogger("django_poolkit.pool")

# What psycopg_pool's constructor takes under the same name.
_SHELL_OPTIONS: Final = (
    "min_size", "max_size", "timeout", "max_waiting", "max_lifetime", "max_idle",
    "reconnect_timeout", "reconnect_failed", "num_workers",
)  # fmt: skip


def _of_the_pool(connection_class: type[psycopg.Connection[Any]]) -> type[PoolConnection]:
    if issubclass(connection_class, PoolConnection):
        return connection_class
    names = {"_plain": connection_class.cursor is psycopg.Connection.cursor}
    return type(connection_class.__name__, (PoolConnection, connection_class), names)


def _of_a_bare_pool(options: Mapping[str, Any]) -> PoolConfig:
    config = PoolConfig.from_options({"reset": "dirty", **options}, path="ConnectionPool")
    if config.mode != "session" or config.observe:
        raise PoolConfigError(
            "ConnectionPool: mode and observe are for the connections of Django; the leases of a "
            "bare pool end when their owner says so"
        )
    return config


def _parameters_of(method: weakref.WeakMethod[Parameters]) -> Parameters:
    def parameters() -> tuple[str, Mapping[str, Any]]:
        found = method()
        assert found is not None, "the pool has been collected"
        return found()

    return parameters


class ConnectionPool(Steering):
    """A pool of psycopg connections.

    Takes psycopg_pool's arguments, and the options of `PoolConfig` by keyword. It opens at the
    first acquire, and in each forked child anew. A bare pool resets a connection after a
    statement that left session state behind (`reset="dirty"`).

    Raises PoolConfigError for an option that does not exist or cannot be honoured.
    """

    def __init__(
        self,
        conninfo: str | Callable[[], str] = "",
        *,
        connection_class: type[psycopg.Connection[Any]] = PoolConnection,
        kwargs: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
        open: bool = False,  # noqa: A002 - psycopg_pool's name
        config: PoolConfig | None = None,
        defaults: SessionDefaults | None = None,
        **options: Any,
    ) -> None:
        if config is None:
            config = _of_a_bare_pool(options)
        elif options:
            raise PoolConfigError("pass either config= or single options, not both")
        pool_class = _of_the_pool(connection_class)
        self.config = config
        self.events = Events()
        """Tells of what happens in the pool; shared by all pools of the process's table."""
        self._read_options()
        self._ledger = Ledger()
        self._orphans = deque()
        self.greeting = object()
        self._growth = Growth(workers=config.num_workers, cap=config.reconnect_cap)
        recorder = Recorder() if config.observe else None
        self.statements = Statements(config, recorder)
        self._prepare_shell()
        super().__init__(
            conninfo,
            connection_class=pool_class,
            kwargs=kwargs,  # type: ignore[arg-type]
            open=False,
            configure=config.configure,
            check=config.check,
            name=config.name,
            close_returns=config.close_returns,
            **{key: getattr(config, key) for key in _SHELL_OPTIONS},
        )
        self._shares = Shares(config.shares) if config.shares else None
        self._waiting = Lanes() if config.shares else Waiters()
        self._make_connector(pool_class, defaults or SessionDefaults())
        # Weakly: a pool that is dropped must be collected, and closed, at once.
        beside = _parameters_of(weakref.WeakMethod(self._parameters))
        self.fence = self._connector.fence = Fence()
        names: dict[str, Any] = {"name": self.name, "fence": self.fence, "pooler": config.pooler}
        self.prober, self.positions = Prober(beside, **names), PositionReader(beside, **names)
        self.aliases, self._former = (self.name,), at_hand.FormerPool(self)
        fork.register(self)
        if open:
            self.open()

    def _make_connector(
        self, connection_class: type[PoolConnection], defaults: SessionDefaults
    ) -> None:
        config, defaults = self.config, defaults.with_guards(self.config.guards or {})
        self.plans = Plans(self.name, config.prepared_max)
        self._connector = Connector(
            connection_class, defaults, name=self.name, timeout=self.timeout,
            prepare=config.prepare, plans=self.plans, pooler=config.pooler,
        )  # fmt: skip
        self._credentials = supplier(
            config.credentials, config.credentials_ttl, defaults.origins, self.name
        )

    def _read_options(self) -> None:
        config = self.config
        self._generation, self._paused_until = 0, 0.0
        asks = config.reset_callback or config.verify_state or config.observe
        self._plain_home = not asks and config.reset != "always"
        per_statement = config.mode == "transaction" and config.reset == "dirty"
        self._lays_by = self._plain_home and not (config.shares or config.check)
        self._rests = per_statement and self._lays_by
        stacks = self.config.stacks or ("all" if self.config.leak_after else "sampled")
        self._samples = stacks == "sampled"
        self._stack_due = math.inf if stacks == "none" else 0.0

    # -- seen from outside

    @critical
    def stats(self) -> PoolStats:
        """Return a snapshot of the pool, taken in one critical section."""
        return self._stats_locked(monotonic())

    def leases(self) -> list[LeaseStats]:
        """Return who holds what, oldest first."""
        return [describe(lease) for lease in self._live_leases()]

    @critical
    def _live_leases(self) -> list[Lease]:
        leases = self._ledger.leases_locked()
        for lease in leases:
            lease.listed = True  # its next turn is another lease, with another key
        return leases

    # -- steering

    def open(self, wait: bool = False, timeout: float = 30.0) -> None:
        """Open the pool, as the first acquire does. Raises PoolClosed where it has been closed.

        Blocks only with `wait`: until `min_size` connections are idle, `timeout` seconds at most.
        """
        if self._closed and not self.ended:
            self.events.opening(self)
        super().open(wait, timeout)

    def wait(self, timeout: float = 30.0) -> None:
        """Block until `min_size` connections are idle, `timeout` seconds at most.

        If the time is up, closes the pool and raises PoolTimeout.
        """
        started = monotonic()
        try:
            super().wait(timeout)
        except psycopg_pool.PoolTimeout:
            stats = self.stats()
            text = (
                f"pool {self.name!r}: its min_size of {self._min_size} was not reached within "
                f"{timeout:.2f} s ({stats.summary()})"
            )
            error = PoolTimeout(text, pool=self.name, stats=stats)
            error.waited = monotonic() - started
            raise error from None

    def check(self) -> None:
        """Probe every idle connection, and drop those that do not answer. Blocks."""
        self.collect()
        for connection in list(self._pool):
            self._ping_idle(connection)

    def close(self, timeout: float = 5.0) -> None:
        """Refuse new acquires, fail those who wait, close what is idle.

        Leased connections are closed as they come home. Blocks for `timeout` seconds at most,
        while the pool's threads end. A closed pool stays closed.
        """
        idle = self._close()
        self.prober.close()
        self.positions.close()
        # Outside the lock: workers that are being born hold theirs, and may want this one.
        threads = self._signal_stop_worker() if idle is not None else []
        for connection in idle or ():
            self._close_for(connection, "pool_closed")
        me = threading.current_thread()
        gather(*(thread for thread in threads if thread is not me), timeout=timeout)
        self._adopt_orphans()  # which a worker would have done
        if idle is not None:  # or it has been said
            logger.info("pool=%s event=close", self.name)

    @critical
    def _close(self) -> list[PoolConnection] | None:
        if self._closed:
            self._opened = True  # closing what was never opened is final, too
            return None
        self._closed = True
        idle = list(self._pool)
        self._pool.clear()
        self._growth.attempts.clear()
        self._ledger.closed["pool_closed"] += len(idle)
        for waiter in self._waiting.take_all():
            text = f"pool {self.name!r} was closed while this caller waited"
            waiter.fail(PoolClosed(text, pool=self.name))
        return idle

    # -- psycopg_pool's own verbs

    def getconn(self, timeout: float | None = None) -> PoolConnection:
        """Acquire a connection as psycopg_pool does, to be given back with `putconn()`.

        One that is dropped instead is closed, and its slot freed.
        """
        return self._entrust(self.acquire(timeout))

    @staticmethod
    def _entrust(lease: Lease) -> PoolConnection:
        connection: PoolConnection = lease.held
        # The caller holds the connection and nothing else: so it owns the lease, not the
        # other way round, or neither would ever be missed.
        # In this order: an interrupt in between must leave no cycle that hides both.
        lease._connection = weakref.ref(connection)
        connection._owned_lease = lease
        return connection

    def putconn(self, conn: PoolConnection) -> None:
        """Give back what `getconn()` gave. Raises ValueError for a connection not leased."""
        self._check_pool_putconn(conn)
        lease = conn._owned_lease or conn._lease_ref()
        if lease is None:
            raise ValueError(f"can't return connection to pool {self.name!r}: it is not leased")
        conn._owned_lease, lease._connection = None, conn
        self.release(lease)

    # -- beginnings

    def _start_initial_tasks(self) -> None:
        self._start(self._growth.add(self._min_size))
        self.schedule_task(Job(self, "keep_house"), housekeeper.interval(self.config))
        if self._paused_until:
            left = max(0.0, self._paused_until - monotonic())
            self.schedule_task(Job(self, "end_pause"), left)

    def forget(self) -> list[Any]:
        """Start anew in a forked child; return what must be kept and never be closed.

        Runs while the child has one thread, so without the lock, which may be held for ever
        by a thread that only the parent has.
        """
        inherited: list[Any] = [*self._pool, *self._at_hand.values()]
        leases = [lease for ref in list(self._ledger.live.values()) if (lease := ref())]
        leases += [lease for lease, _ in self._orphans]
        for lease in leases:
            if (connection := lease.held) is not None:
                inherited.append(connection)
                connection._parked = True
            lease.released = True
            lease._connection = None
        inherited += [*self.prober.forget(), *self.positions.forget()]
        self._ledger = Ledger()
        self.events.after_fork()
        self.statements.forget()
        self._lock = threading.RLock()
        self._pool = deque()
        self._orphans = deque()
        self._adopting = False
        self._waiting = Lanes() if self._shares else Waiters()
        self._growth = Growth(workers=self.num_workers, cap=self.config.reconnect_cap)
        self._workers, self._sched_runner, self._pool_full_event = [], None, None
        self._prepare_shell()
        if not self.ended:
            self._closed, self._opened = True, False
        self._failing_since = self._lost_until = 0.0
        self._connected_locked()
        return inherited
