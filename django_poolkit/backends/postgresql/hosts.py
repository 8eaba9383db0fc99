"""From which server a wrapper's next lease comes, where its alias leads to several.

The choice is made as a lease is acquired. In a request it holds for all of its leases; outside
of one, in session mode, for the lease, in transaction mode until the wrapper is closed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import methodcaller
from time import monotonic, sleep
from typing import Any, Final, TypeVar

from django_poolkit.backends import ports, request
from django_poolkit.backends.postgresql.errors import EXHAUSTED
from django_poolkit.backends.postgresql.pooling import PoolChoiceMixin, Twins
from django_poolkit.backends.rota import rota
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


class HostChoiceMixin(PoolChoiceMixin):
    """Acquires from the pool of a wrapper: of a host that it chooses, or another that lives."""

    _opened: bool

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
        if isinstance(found, Twins):
            lease: Lease = self._from_hosts(found, "acquire", depth=depth)
            return lease
        assert found is not None
        return found.acquire(depth=depth, skip=skip)

    def _from_hosts(self, twins: Twins, verb: str, **options: Any) -> Any:
        """Return what `verb` of a pool returns: that of the chosen host, or of one that lives.

        Blocks as a pool alone would. Raises as that one, also where all hosts refuse.
        """
        timeout = twins.timeout
        deadline = monotonic() + timeout
        patience = min(_PATIENCE, timeout / len(twins.weights))
        if len(twins.weights) == 1:
            self._choose(twins.weights)
            return self._acquired(methodcaller(verb, **options))
        found: dict[str, ServerRefuses] = {}
        refused: set[str] = set()
        pause = _ROUND
        while True:
            left = max(0.0, deadline - monotonic())
            hosts = {key: weight for key, weight in twins.weights.items() if key not in refused}
            if hosts:
                key = self._choose(hosts)
                try:
                    return self._acquired(methodcaller(verb, left, patience=patience, **options))
                except ServerRefuses as error:
                    found[key] = error
                    refused.add(key)
            elif left > pause:
                # Not queued at one of them: any may be the first that is back.
                sleep(pause)
                pause = min(2 * pause, _LONGEST_ROUND)
                refused.clear()
            else:
                break
        try:
            # The last try, which its pool counts and tells of as of any other timeout.
            pool = twins.pool(self._choose(twins.weights))
            return methodcaller(verb, left, **options)(pool)
        except (PoolTimeout, PoolPaused) as error:
            combined = self._all_refuse(error, found, timeout)
            self._note_exhausted(combined)
            raise combined from None

    def _all_refuse(
        self, error: PoolTimeout | PoolPaused, found: Mapping[str, ServerRefuses], timeout: float
    ) -> PoolError:
        names = {f"{self.alias}/{key}": error.reason for key, error in found.items()}
        reasons = "; ".join(f"{name}: {names[name]}" for name in sorted(names))
        text = f"alias {self.alias!r}: none of its hosts gave a connection within {timeout:.2f} s"
        combined = type(error)(f"{text} ({reasons})", pool=error.pool, stats=error.stats)
        if isinstance(combined, PoolTimeout):
            combined.waited = timeout
        return combined

    def _acquired(
        self, acquire: Callable[[ConnectionPool | None], T], known: ConnectionPool | None = None
    ) -> T:
        """Return what `acquire(pool)` does, also where the pool is closed meanwhile.

        `known` is the pool of the present settings, where that has been found out.
        """
        deadline: float | None = None
        while True:
            pool, known = known or self.pool, None
            try:
                return acquire(pool)
            except PoolClosed:
                # close_pool() swaps the table first, so the next look-up finds another pool.
                # That may be closed as well, where somebody closes without end.
                assert pool is not None
                deadline = deadline or monotonic() + pool.timeout
                if not pool.closed or monotonic() >= deadline:
                    raise
            except EXHAUSTED as error:
                self._note_exhausted(error)
                raise

    @staticmethod
    def _note_exhausted(error: PoolError) -> None:
        scope = request.current()
        if scope is not None and scope.exhausted is None:
            scope.exhausted = error
