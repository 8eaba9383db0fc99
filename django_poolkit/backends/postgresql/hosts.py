"""From which server a wrapper's next lease comes, where its alias leads to several.

The choice is made as a lease is acquired. In a request it holds for all of its leases; outside
of one, in session mode, for the lease, in transaction mode until the wrapper is closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import methodcaller
from time import monotonic
from typing import Any, Final, TypeVar

from django.db.utils import OperationalError

from django_poolkit.backends import pausing, ports, request
from django_poolkit.backends.postgresql.binding import follow_the_pool
from django_poolkit.backends.postgresql.errors import EXHAUSTED
from django_poolkit.backends.postgresql.pooling import PoolChoiceMixin, Twins
from django_poolkit.backends.rota import rota
from django_poolkit.pools.chance import chance
from django_poolkit.pools.errors import PoolClosed, PoolError
from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.postgres.errors import PoolPaused, PoolTimeout, ServerRefuses

T = TypeVar("T")

# Seconds that a host has to answer a connect, before another one is tried.
_PATIENCE: Final = 1.0
# Seconds between two rounds through hosts all of which refuse: the first, and the longest.
_ROUND: Final = 0.05
_LONGEST_ROUND: Final = 0.5


class Search:
    """A read that has failed, and looks for another server."""

    __slots__ = ("_deadline", "been")

    def __init__(self, seconds: float) -> None:
        self._deadline = monotonic() + seconds
        self.been: set[str] = set()
        """Full names of the servers where it has been: `alias`, or `alias/key`."""

    def left(self) -> float:
        """Return the seconds that it has left to find one, 0.0 where there are none."""
        return max(0.0, self._deadline - monotonic())


class GoesElsewhere(Exception):
    """An alias gives no connection, and the read that wants one goes to another alias.

    Meant for who opens cursors, and never seen outside of wrappers.
    """

    def __init__(self, alias: str) -> None:
        super().__init__(alias)
        self.alias = alias


class HostChoiceMixin(PoolChoiceMixin):
    """Acquires from the pool of a wrapper: of a host that it chooses, or another that lives."""

    _opened: bool
    _search: Search | None
    """The read for which a lease is to be acquired, where it has failed elsewhere."""
    _reroutes: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        follow_the_pool(self.settings_dict)  # before anybody asks the features

    def _choose(self, hosts: Mapping[str, float]) -> str:
        """Choose one of these hosts, and remember it."""
        key = ports.choose_host and ports.choose_host(self.alias, hosts)
        if key is not None:
            if key not in hosts:
                raise ValueError(
                    f"ports.choose_host returned {key!r} for {self.alias!r}, which is none of "
                    f"{', '.join(map(repr, hosts))}"
                )
        elif (scope := request.current()) is not None:
            key = rota.pick_once(scope, self.alias, hosts)
        elif self._opened and self._host in hosts:
            return self._host  # type: ignore[return-value]
        else:
            key = rota.pick(self.alias, hosts)
        self._host = key
        return key

    def _lease_from(self, found: ConnectionPool | Twins | None, depth: int, skip: int) -> Lease:
        """Return a lease from the one pool, or from that of the host to be chosen."""
        assert found is not None
        if self._search is not None:
            return self._from_others(found, self._search, depth=depth)
        if isinstance(found, Twins):
            if len(found.weights) > 1:
                return self._from_hosts(found, depth=depth)
            found = found.pool(self._choose_or_leave(found.weights))
            return self._or_elsewhere(found, depth=depth)
        if self._reroutes:
            return self._or_elsewhere(found, depth=depth)
        return found.acquire(depth=depth, skip=skip)

    def _from_hosts(self, twins: Twins, **options: Any) -> Lease:
        """Return a lease from the chosen host, or from another one that lives.

        Blocks as a pool alone would. Raises as that one, also where all hosts refuse.
        """
        timeout = twins.timeout
        deadline = monotonic() + timeout
        patience = min(_PATIENCE, timeout / len(twins.weights))
        found: dict[str, str] = {}
        refused: set[str] = set()
        pause = 0.0
        while True:
            left = max(0.0, deadline - monotonic())
            hosts = {key: weight for key, weight in twins.weights.items() if key not in refused}
            if hosts:
                key = self._choose_or_leave(hosts)
                refused.add(key)
                pool = twins.pool(key)
                if not pause and pool.refusing:
                    # In an outage one lease at a time tries, and the others pass by.
                    found[key] = pool.last_refusal
                    continue
                try:
                    acquire = methodcaller("acquire", left, patience=patience, **options)
                    lease: Lease = self._acquired(acquire)
                    return lease
                except ServerRefuses as error:
                    found[key] = error.reason
                    if ports.note_refusal is not None:
                        ports.note_refusal(self.alias, key)
            elif left > pause:
                if not pause:
                    self._leave_alias()
                # Not queued at one of them: any may be the first that is back.
                pausing.pause(pause * chance.uniform(0.5, 1.0))
                pause = min(2 * pause or _ROUND, _LONGEST_ROUND)
                refused.clear()
            else:
                break
        try:
            # The last try, which its pool counts and tells of as of any other timeout.
            return twins.pool(self._choose(twins.weights)).acquire(left, **options)
        except (PoolTimeout, PoolPaused) as error:
            combined = self._all_refuse(error, found, timeout)
            self._note_exhausted(combined)
            raise combined from None

    def _or_elsewhere(self, pool: ConnectionPool, **options: Any) -> Lease:
        """Return a lease from the one server of an alias, unless it refuses.

        Raises GoesElsewhere then, where the read may do so; else waits for it.
        """
        deadline = monotonic() + pool.timeout
        try:
            patience = min(_PATIENCE, pool.timeout)
            taken: Lease = self._acquired(methodcaller("acquire", patience=patience, **options))
            return taken
        except ServerRefuses:
            if ports.note_refusal is not None:
                ports.note_refusal(self.alias, self._host)
            self._leave_alias()
        left = max(0.0, deadline - monotonic())
        waited: Lease = self._acquired(methodcaller("acquire", left, **options))
        return waited

    def _choose_or_leave(self, hosts: Mapping[str, float]) -> str:
        try:
            return self._choose(hosts)
        except OperationalError:  # none of them has what is to be seen
            self._leave_alias()
            raise

    def _leave_alias(self) -> None:
        """Raise GoesElsewhere, where what wants a connection of this alias may do so."""
        if not self._reroutes or self._search is not None or ports.another_alias is None:
            return
        if self.in_atomic_block or (self._opened and not self.autocommit):
            return  # what is read in it belongs together
        if (alias := ports.another_alias(self.alias, {self.alias}, self)) is not None:
            raise GoesElsewhere(alias)

    def _from_others(self, found: ConnectionPool | Twins, search: Search, **options: Any) -> Lease:
        """Return a lease from a server where a read has not been yet.

        Blocks for what the search has left. Raises ServerRefuses where there is no such server.
        """
        for pool, name in self._others(found, search):
            search.been.add(name)
            if pool.refusing:
                continue
            left = search.left()
            acquire = methodcaller("acquire", left, patience=min(_PATIENCE, left), **options)
            try:
                lease: Lease = self._acquired(acquire)
                return lease
            except ServerRefuses:
                if ports.note_refusal is not None:
                    ports.note_refusal(self.alias, self._host)
        raise ServerRefuses(f"alias {self.alias!r}: no other server gives a connection")

    def _others(
        self, found: ConnectionPool | Twins, search: Search
    ) -> Iterator[tuple[ConnectionPool, str]]:
        """Choose the servers where a read has not been yet, one after the other."""
        if isinstance(found, ConnectionPool):
            if self.alias not in search.been:
                yield found, self.alias
            return
        while search.left():
            weights = found.weights.items()
            names = {key: f"{self.alias}/{key}" for key in found.weights}
            hosts = {key: weight for key, weight in weights if names[key] not in search.been}
            if not hosts:
                return
            key = self._choose(hosts)
            yield found.pool(key), names[key]

    def _all_refuse(
        self, error: PoolTimeout | PoolPaused, found: Mapping[str, str], timeout: float
    ) -> PoolError:
        reasons = "; ".join(f"{self.alias}/{key}: {found[key]}" for key in sorted(found))
        text = f"alias {self.alias!r}: none of its hosts gave a connection within {timeout:.2f} s"
        combined = type(error)(f"{text} ({reasons})", pool=error.pool, stats=error.stats)
        if isinstance(combined, PoolTimeout):
            combined.waited = timeout
            combined.deadline = error.deadline if isinstance(error, PoolTimeout) else None
        return combined

    def _acquired(self, acquire: Callable[[ConnectionPool | None], T]) -> T:
        """Return what `acquire(pool)` does, also where the pool is closed meanwhile."""
        deadline: float | None = None
        while True:
            pool = self.pool
            try:
                return acquire(pool)
            except PoolClosed:
                # close_pool() swaps the table first, so the next look-up finds another pool.
                # That may be closed as well, where somebody closes without end.
                assert pool is not None
                self._known = None
                deadline = deadline or monotonic() + pool.timeout
                if not pool.closed or monotonic() >= deadline:
                    raise
            except EXHAUSTED as error:
                self._note_exhausted(error)
                raise

    def _note_exhausted(self, error: PoolError) -> None:
        """Take note that no connection could be had. Raises what says more of it, if anything."""
        if (scope := request.current()) is not None:
            scope.refused(error)
        if ports.explain is not None and (pool := self.pool) is not None:
            explained = ports.explain(self.alias, error, pool)
            if explained is not None:
                raise explained from error
