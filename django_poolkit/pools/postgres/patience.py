"""Patience: for how long one waits for a server, who could go to another one as well.

A pool alone waits out an outage: its callers have nowhere else to go. Those who have are turned
away as soon as the server refuses a connection, or has not answered for as long as their
patience lasts; but not where all connections are leased, which is no fault of the server.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final

from django_poolkit.pools.deadline import current
from django_poolkit.pools.errors import PoolError
from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres.adoption import Adoption
from django_poolkit.pools.postgres.errors import (
    PoolPaused,
    PoolTimeout,
    ServerRefuses,
    TooManyWaiters,
)
from django_poolkit.pools.postgres.growth import FIRST_PAUSE
from django_poolkit.pools.postgres.shell import critical
from django_poolkit.pools.postgres.waiters import Waiter

# Seconds after which a connect under way is worth a word in a timeout's message.
_LONG_CONNECT: Final = 1.0
# What floating point may add up to.
_SAME: Final = 1e-6
# What a server says that lives, and has no connection left.
_CROWDED: Final = "53300"
# Seconds without an answer to a connect, after which it is taken not to come.
_SILENT: Final = 1.0
# Seconds for which a word that the server is lost holds: longer than from one look to the next.
_WORD: Final = 10.0


class Patience(Adoption):
    """Turns away who can go elsewhere. `ConnectionPool` is the whole."""

    _refusing = False
    """Whether the last connect has failed, for other reasons than that all were taken."""
    _respite = 0.0
    """Seconds for which who can go elsewhere leaves the server alone after that."""
    _respite_until = 0.0
    _lost_since = 0.0
    _lost_until = 0.0
    """Up to when the server is taken to be lost, on the word of who looks at it."""

    @property
    def refusing(self) -> bool:
        """Whether the server has refused, and who can go elsewhere need not try it now.

        That is while somebody waits for another try, and for a while after the last one. Never
        blocks.
        """
        if not self._refusing or self._pool or self._resting or self._at_hand:
            return False
        return len(self._waiting) > 0 or monotonic() < self._respite_until

    @property
    def unreachable(self) -> bool:
        """Whether the server gives no connection: the last connect has failed, and not since all
        were taken; or one has had no answer for a second. Never blocks."""
        return self.server_lost or self._refusing or self._growth.pending(monotonic()) >= _SILENT

    @property
    def server_lost(self) -> bool:
        """Whether somebody has looked, and found that the server gives no connection. Never
        blocks."""
        return monotonic() < self._lost_until

    def note_lost(self, since: float) -> None:
        """Have acquires wait no longer for this server than `timeout` after `since`.

        That is on the monotonic clock. Who comes later than that, and finds no connection idle, is
        told so at once, and no connect is made for it. Holds for ten seconds, so it is to be
        repeated for as long as it is so. Does not block.
        """
        self._lost_since = since
        self._lost_until = monotonic() + _WORD

    @property
    def last_refusal(self) -> str:
        """What the last failed connect met, for an error: its class, SQLSTATE and first line."""
        return f"last connect error: {self._ledger.last_connect_error}"

    def _ends(self, started: float, allowed: float) -> float:
        """Return until when one may wait who may do so for `allowed` seconds."""
        end = started + allowed
        return min(end, self._lost_since + self.timeout) if self.server_lost else end

    def _turn_away_locked(self, lease: Lease) -> None:
        """Raise ServerRefuses for one who is about to queue, where that would be in vain."""
        if (reason := self._in_vain_locked(lease)) is not None:
            raise self._refusal(reason)

    def _connect_failed_locked(self, state: str | None) -> None:
        """Turn away all in the queue who can go elsewhere, unless the server is only crowded."""
        self._refusing = state != _CROWDED
        if not self._refusing:
            return
        self._respite = min(self.config.reconnect_cap, self._respite * 2 or FIRST_PAUSE)
        self._respite_until = monotonic() + self._respite
        for waiter in list(self._waiting.queue):
            if waiter.lease.patience is not None:
                self._waiting.remove(waiter)
                waiter.fail(self._refusal(self.last_refusal))

    def _connected_locked(self) -> None:
        """Take note that the server gives connections."""
        self._refusing, self._respite = False, 0.0

    @critical
    def _look_whether_in_vain(self, waiter: Waiter) -> None:
        reason = self._in_vain_locked(waiter.lease)
        # Who joins the queue wakes one connect from its pause, but not more often than it is good.
        if reason is None and self._refusing and self._growth.asleep():
            reason = self.last_refusal
        if reason is not None and not waiter.settled:
            self._waiting.remove(waiter)
            waiter.fail(self._refusal(reason))

    def _in_vain_locked(self, lease: Lease) -> str | None:
        """Return why it makes no sense to wait any longer, None where it does."""
        if self._paused():
            return "it is paused"
        seconds = self._growth.pending(monotonic())
        if lease.patience is not None and seconds > lease.patience:
            return f"a connect has had no answer for {seconds:.1f} s"
        return None

    def _refusal(self, reason: str) -> ServerRefuses:
        return ServerRefuses(f"pool {self.name!r}: {reason}", pool=self.name, reason=reason)

    def label_leases(self, label: Callable[[], str | None]) -> None:
        """Have `label` asked, at each acquire, which share it counts against.

        Called outside every lock, where nobody has named one by hand; it may not use the pool.
        A pool without `shares` never asks.
        """
        if self._shares is not None:
            self._shares.label = label

    def _admits_locked(self, lease: Lease) -> bool:
        """Return whether the lease's share, if it has one, is not used up."""
        if (shares := self._shares) is None or lease.share is None:
            return True
        return shares.free(self._ledger, self._max_size)[lease.share] > 0

    def _crowd_locked(self, lease: Lease) -> int:
        """Return how many are before one who is about to queue.

        Those of a share that is used up are in nobody's way but their own.
        """
        if self._shares is None or self._admits_locked(lease):
            return self._wanting_locked()
        return len(self._lanes.lanes.get(lease.share, ()))

    def _timed_out_locked(self, lease: Lease, started: float, allowed: float) -> PoolError:
        now = monotonic()
        self._ledger.timeouts += 1
        stats = self._stats_locked(now)
        kind, why = PoolTimeout, f"no connection within {allowed:.2f} s"
        if self.server_lost:
            since = now - self._lost_since
            why = f"no connection for {now - started:.2f} s, and its server lost for {since:.1f} s"
        if self._paused():
            kind, why = PoolPaused, f"paused, and not resumed within {allowed:.2f} s"  # type: ignore[assignment]
        # The clock that `allowed` was reckoned by: what is over is the deadline, not the timeout.
        deadline = current()
        late = deadline is not None and deadline.at <= started + allowed + _SAME
        if deadline is not None and late:
            why += f", which its deadline of {deadline.seconds:.2f} s had left"
        if used_up := lease.share is not None and not self._admits_locked(lease):
            held = stats.shares[lease.share]
            why += f": share {lease.share!r} holds {held.used} of its {held.max_used}"
        text = f"pool {self.name!r}: {why} ({stats.summary()})"
        if (pending := self._growth.pending(now)) >= _LONG_CONNECT:
            text += f"; a connect has had no answer for {pending:.1f} s"
        error = kind(text, pool=self.name, stats=stats)
        if isinstance(error, PoolTimeout):
            error.waited = now - started
            error.share = lease.share if used_up else None
            error.deadline = deadline.seconds if deadline is not None and late else None
        return error

    def _crowded_locked(self, crowd: int) -> TooManyWaiters:
        self._ledger.too_many_waiters += 1
        stats = self._stats_locked(monotonic())
        return TooManyWaiters(
            f"pool {self.name!r}: {crowd} are waiting already, which is its "
            f"max_waiting ({stats.summary()})",
            pool=self.name,
            stats=stats,
        )
