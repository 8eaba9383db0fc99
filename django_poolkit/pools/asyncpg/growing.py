"""Connects: made in the background for those who wait, and for nobody who could cancel them."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

import asyncpg

from django_poolkit.pools.asyncpg.connect import summarise
from django_poolkit.pools.asyncpg.physical import Physical
from django_poolkit.pools.asyncpg.state import Attempt, State
from django_poolkit.pools.asyncpg.steering import EARLY
from django_poolkit.pools.chance import chance

if TYPE_CHECKING:
    from django_poolkit.pools.asyncpg.line import Line

logger = logging.getLogger("django_poolkit.pool")


class Growing(State):
    """Makes connections. `Line` is the whole."""

    def start_connects(self, count: int, replaces: Physical | None = None) -> None:
        """Begin so many connects, as `plan_locked()` has said."""
        for _ in range(count):
            attempt = Attempt(replaces)
            with self.lock:
                self.connecting.add(attempt)
            attempt.task = self.spawn(self._attempt(attempt))
            attempt.task.add_done_callback(partial(self._attempted, attempt))

    def grow(self) -> None:
        """Make what is wanted now. A timer's callback, too."""
        with self.lock:
            count = self.plan_locked()
        self.start_connects(count)

    async def _attempt(self, attempt: Attempt) -> None:
        # Read first: what is recycled meanwhile is old at birth.
        generation = self.pool.generation
        try:
            engine = await self._engine()
            physical = self.pool.connector.describe(await engine.acquire())
        except Exception as error:
            self._failed(attempt, error)
        else:
            physical.generation = generation
            self._succeeded(attempt, physical)

    def _attempted(self, attempt: Attempt, _: object) -> None:
        with self.lock:  # unless it was cancelled, maybe before it began, that has been done
            self.connecting.discard(attempt)

    async def _engine(self) -> asyncpg.Pool[Any]:
        """Return asyncpg's own pool, which makes the connections and keeps their type caches."""
        # It cannot be resized: a larger one is put beside it. Twice as many places as connections,
        # since one keeps its place until it has said goodbye.
        wanted = 2 * self.pool.max_size + 8
        if not self.engines or self.engines[-1].get_max_size() < wanted:
            engine = self.pool.make_engine(wanted)
            self.engines.append(engine)
            await engine
        engine = self.engines[-1]
        if not engine._initialized:  # another task is at it; it has nothing to wait for
            await asyncio.sleep(0)
        return engine

    def _succeeded(self, attempt: Attempt, physical: Physical) -> None:
        now = monotonic()
        seconds = now - attempt.since
        physical.expires_at = now + self.lifetime()
        gone: list[tuple[Physical, str]] = []
        with self.lock:
            self._failures = 0
            ledger = self.ledger
            ledger.connects += 1
            ledger.connect.observe(seconds)
            ledger.last_connect_error = None
            if (old := attempt.replaces) is not None and old in self.idle:
                self.idle.remove(old)
                gone.append((old, "max_lifetime"))
            reason = self.stale_locked(physical, now)  # it is of the size still, by its attempt
            self.connecting.discard(attempt)
            if reason:
                gone.append((physical, reason))
            else:
                self.give_locked(physical, now)
            ledger.closed.update(reason for _, reason in gone)
            more = self.plan_locked()
        logger.info("pool=%s event=open seconds=%.4f", self.pool.name, seconds)
        self.pool.events.tell("connection_opened", pool=self.pool.name, seconds=seconds)
        self.close_soon(gone)
        self.start_connects(more)

    def _failed(self, attempt: Attempt, error: BaseException) -> None:
        text = summarise(error, *self.pool.secrets())
        with self.lock:
            self.connecting.discard(attempt)
            if attempt.replaces is not None:
                attempt.replaces.replacing = False
            times = self.ledger.connect_failed_locked(text)
            self._failures += 1
            self._failed_at = monotonic()
            pause = self.pause()
        if times:
            name = self.pool.name
            logger.warning("pool=%s event=connect_failed times=%d error=%s", name, times, text)
        # Somewhat later than the pause, so that many processes do not come all at once.
        self.loop.call_later(pause * chance.uniform(1.0, 1.25) + EARLY, self.grow)

    # -- coming home

    def come_home(self, physical: Physical, used_at: float) -> None:
        """Lend a connection to the next, or close it where it is not to be kept."""
        physical.used_at, now = used_at, monotonic()
        gone: list[tuple[Physical, str]] = []
        with self.lock:
            if reason := self.stale_locked(physical, now):
                self.out.discard(physical)
                self.ledger.closed[reason] += 1
                gone.append((physical, reason))
                starts = self.plan_locked()
            else:
                self.give_locked(physical, now)
                starts = 0
        if gone:
            self.close_soon(gone)
            self.start_connects(starts)
            self._end_if_last()

    def drop(self, physical: Physical, reason: str) -> None:
        """Give its place to another."""
        with self.lock:
            self.out.discard(physical)
            self.ledger.closed[reason] += 1
            starts = self.plan_locked()
        self.start_connects(starts)
        self._end_if_last()

    def _end_if_last(self) -> None:
        if self.closing and not self.out:
            self.pool.gone(cast("Line", self))
