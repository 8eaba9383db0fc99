"""What happens in the pool's own threads: connecting, retiring, looking for leaks."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from time import monotonic
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from django_poolkit.pools.config import LIBPQ_GUARDS
from django_poolkit.pools.credentials import Credentials
from django_poolkit.pools.lease import Lease, acquired_at
from django_poolkit.pools.ledger import describe
from django_poolkit.pools.postgres import housekeeper, naming, probe, verify
from django_poolkit.pools.postgres.at_hand import AtHand
from django_poolkit.pools.postgres.connect import Connector, sqlstate, summarise
from django_poolkit.pools.postgres.connection import PoolConnection
from django_poolkit.pools.postgres.growth import Attempt
from django_poolkit.pools.postgres.shell import Job, critical

logger = logging.getLogger("django_poolkit.pool")

_PREPARE_AFTER = 5  # uses of one text, psycopg's own default


def _parsed(conninfo: str) -> Mapping[str, Any]:
    try:
        return conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        # libpq's message quotes from it, which may be the password.
        raise psycopg.ProgrammingError("the connection string cannot be parsed") from None


class Upkeep(AtHand):
    """Runs in worker threads. `ConnectionPool` is the whole."""

    _connector: Connector
    _credentials: Credentials | None
    """Asked for what to connect with, where a function of the settings knows it."""
    _failing_since = 0.0
    service: str | None = None
    """What connections are named for, where nobody names them otherwise; None: they are not."""

    # -- connecting

    def run_attempt(self, attempt: Attempt) -> None:
        """Make one connect, if it is still wanted, and hand the connection to the first waiter."""
        if not self._admit(attempt):
            return
        secrets: list[str] = []
        try:
            connection = self._connect(secrets)
        except BaseException as error:  # also SystemExit, from a user's callable
            self._attempt_failed(attempt, error, secrets)
        else:
            self._attempt_succeeded(attempt, connection)

    @critical
    def _admit(self, attempt: Attempt) -> bool:
        if self._paused():
            self._growth.attempts.discard(attempt)  # resume() plans anew
            return False
        # The attempt itself is part of the size: without it the pool may be short.
        short = self._size_locked() <= self._min_size
        return self._growth.admit(attempt, waiters=self._wanting_locked(), short=short)

    def _connect(self, secrets: list[str]) -> PoolConnection:  # type: ignore[override]
        """Return a new connection, configured and idle. Raises psycopg.Error.

        Puts into `secrets` what must not appear in the text of an error.
        """
        generation = self._generation  # read first: what is recycled meanwhile is old at birth
        conninfo, kwargs = self._parameters()
        secrets += [str(kwargs.get("password") or ""), str(_parsed(conninfo).get("password") or "")]
        connection = self._connector.connect(conninfo, kwargs, secrets=secrets)
        if self.config.verify_state:
            connection._look = verify.look
        try:
            if self._configure is not None:
                self._configure(connection)
                status = connection.pgconn.transaction_status
                if status != TransactionStatus.IDLE:
                    raise psycopg.ProgrammingError(
                        f"configure left the connection in status {TransactionStatus(status).name};"
                        " it has to commit what it begins"
                    )
            connection.settle()
        except BaseException:
            connection.close()
            raise
        now = monotonic()
        connection._created_at = connection._used_at = connection._idle_since = now
        connection._expire_at = now + housekeeper.lifetime(self.max_lifetime)
        connection._generation = generation
        connection._pool = None
        return connection

    def _parameters(self) -> tuple[str, dict[str, Any]]:
        """Return where and how to connect, by whoever has been set to know it."""
        guards = self.config.guards or {}
        kwargs: dict[str, Any] = {key: guards[key] for key in LIBPQ_GUARDS if key in guards}
        kwargs.update(self._resolve_kwargs())
        if kwargs.get("prepare_threshold") is None:
            # Off, as Django has it: poolers before PgBouncer 1.22 mix up prepared statements.
            kwargs["prepare_threshold"] = _PREPARE_AFTER if self.config.prepare else None
        if self._credentials is not None:
            kwargs["credentials"] = self._credentials
        if self.service is not None:
            kwargs.setdefault("fallback_application_name", naming.application_name(self.service))
        return self._resolve_conninfo(), kwargs

    def _attempt_succeeded(self, attempt: Attempt, connection: PoolConnection) -> None:
        seconds = monotonic() - attempt.started
        reason, starts = self._enter_connection(attempt, connection, seconds)
        logger.info("pool=%s event=open seconds=%.4f", self.name, seconds)
        self.events.tell("connection_opened", pool=self.name, seconds=seconds)
        if reason:
            self._close_for(connection, reason)
        self._start(starts)

    @critical
    def _enter_connection(
        self, attempt: Attempt, connection: PoolConnection, seconds: float
    ) -> tuple[str | None, list[Attempt]]:
        now, ledger = monotonic(), self._ledger
        ledger.connects += 1
        ledger.connect.observe(seconds)
        ledger.last_connect_error = None
        self._failing_since = 0.0
        self._connected_locked()
        starts = self._growth.succeeded(attempt)
        self._park(connection)
        if reason := self._stale_locked(connection, now):
            ledger.closed[reason] += 1
        else:
            self._give_locked(connection, now)
        return reason, starts + self._plan_locked()

    def _attempt_failed(self, attempt: Attempt, error: BaseException, secrets: list[str]) -> None:
        text = summarise(error, *secrets)
        pause, nap, tired, times = self._enter_failure(attempt, text, sqlstate(error))
        if times:
            logger.warning("pool=%s event=connect_failed times=%d error=%s", self.name, times, text)
        if pause is not None:
            self.schedule_task(Job(self, "wake_attempt", attempt, nap), pause)
        if tired:
            self.reconnect_failed()

    @critical
    def _enter_failure(
        self, attempt: Attempt, text: str, state: str | None
    ) -> tuple[float | None, int, bool, int]:
        now = monotonic()
        times = self._ledger.connect_failed_locked(text)
        self._connect_failed_locked(state)
        self._failing_since = self._failing_since or now
        tired = 0 < self.reconnect_timeout <= now - self._failing_since
        if tired:
            self._failing_since = math.inf  # once an outage: until a connect succeeds
        short = self._size_locked() <= self._min_size
        idle = self._closed or self._paused()
        wanted = not idle and (short or self._wanting_locked() > 0)
        pause = self._growth.failed(attempt, wanted=wanted)
        return pause, attempt.nap, tired, times

    def wake_attempt(self, attempt: Attempt, nap: int) -> None:
        """Try again, where that pause of a failed connect is over."""
        if seconds := self._sleeps_on(attempt, nap):
            self.schedule_task(Job(self, "wake_attempt", attempt, nap), seconds)
        elif seconds is not None:
            self.run_attempt(attempt)

    @critical
    def _sleeps_on(self, attempt: Attempt, nap: int) -> float | None:
        return self._growth.due(attempt, nap)

    # -- keeping house

    def keep_house(self) -> None:
        """Retire, replace, probe and report; then come again after an interval."""
        # First, so that no exception can end it.
        pause = housekeeper.next_round(self.config, list(self._pool), monotonic())
        self.schedule_task(Job(self, "keep_house"), pause)
        self._adopt_orphans()
        self._report_overdue()
        gone, to_probe, starts = self._make_round()
        for connection, reason in gone:
            self._close_for(connection, reason)
        self._start(starts)
        for connection in to_probe:
            self._ping_idle(connection)

    @critical
    def _make_round(
        self,
    ) -> tuple[list[tuple[PoolConnection, str]], list[PoolConnection], list[Attempt]]:
        self._ledger.purge_locked()
        size = self._size_locked()
        found = housekeeper.inspect(
            list(self._pool),
            config=self.config,
            min_size=self._min_size,
            size=size,
            room=max(0, self._max_size - size),
            replacing=sum(1 for attempt in self._growth.attempts if attempt.replaces),
            connecting=len(self._growth),
            now=monotonic(),
        )
        gone = self._take_idle_locked(found.retire)
        to_probe = found.probe + [c for c in self._pool if not probe.quiet(c)]
        starts = self._growth.add(found.replace, replaces=True)
        starts += self._growth.stranded()
        return gone, to_probe, starts + self._plan_locked()

    def _take_idle_locked(
        self, retire: list[tuple[PoolConnection, str]]
    ) -> list[tuple[PoolConnection, str]]:
        gone = []
        for connection, reason in retire:
            if connection in self._pool:
                self._pool.remove(connection)
                self._ledger.closed[reason] += 1
                gone.append((connection, reason))
        return gone

    def _ping_idle(self, connection: PoolConnection) -> None:
        """Probe one idle connection, out of everybody's way: it is leased meanwhile."""
        lease = Lease(self, self._ledger.new_key(), ())
        if not self._lend_idle(lease, connection):
            return  # acquired meanwhile, and so looked at anyhow
        found = probe.look(connection, bypass=0.0, timeout=self.config.probe_timeout)
        reason, starts = self._end_probe(lease, connection, found)
        if reason is not None:
            self._close_for(connection, reason)
        self._start(starts)

    @critical
    def _end_probe(
        self, lease: Lease, connection: PoolConnection, found: probe.State
    ) -> tuple[str | None, list[Attempt]]:
        # A probe is no use: it is not counted, and what lives goes back to its place among the
        # idle, or a keepalive would keep every connection from ever reaching `max_idle`.
        now = monotonic()
        self._ledger.revoke_locked(lease)
        self._park(connection)
        alive = found is probe.State.ALIVE
        if reason := self._stale_locked(connection, now) if alive else found.value:
            self._ledger.closed[reason] += 1
            return reason, self._plan_locked()
        connection._used_at = now
        self._give_locked(connection, now)
        if self._pool and self._pool[-1] is connection:
            self._pool.pop()
            older = sum(1 for other in self._pool if other._idle_since <= connection._idle_since)
            self._pool.insert(older, connection)
        return None, []

    @critical
    def _lend_idle(self, lease: Lease, connection: PoolConnection) -> bool:
        if connection not in self._pool:
            return False
        self._pool.remove(connection)
        self._lend_locked(lease, connection, monotonic())
        return True

    def _report_overdue(self) -> None:
        after = self.config.leak_after
        if after is None:
            return
        for lease in self._overdue(after):
            found = describe(lease)
            logger.warning(
                "pool=%s event=overdue seconds=%.1f thread=%s where=%s statement=%s lease=%d. "
                "%s\nIts %s is now at:\n  %s",
                self.name, found.seconds, found.thread, found.where, found.statement, found.key,
                acquired_at(found.stack), "thread" if lease.task is None else "task",
                "\n  ".join(lease.where_now()) or "(it has ended)",
            )  # fmt: skip
            self.events.tell(
                "lease_leaked",
                pool=self.name,
                kind="overdue",
                seconds=found.seconds,
                thread=found.thread,
                where=found.where,
                stack=found.stack,
            )

    @critical
    def _overdue(self, after: float) -> list[Lease]:
        return self._ledger.overdue_locked(after, monotonic())
