"""The check of one database: the figures of its pool, and a round trip beside it.

A database that is not pooled by us is asked over a connection that only its check has. Of an alias
with several hosts each is looked at, and as long as one of them is well, it does not fail.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from threading import Thread
from time import monotonic
from typing import Any, Final

from django.db import connections, utils

from django_poolkit.backends.postgresql.base import PooledDatabaseWrapperMixin
from django_poolkit.conf.control import control_config
from django_poolkit.conf.health import health_config
from django_poolkit.health import judging
from django_poolkit.health.report import Result
from django_poolkit.pools.errors import PoolClosed
from django_poolkit.pools.postgres import ConnectionPool, naming
from django_poolkit.pools.postgres.prober import Answer, Cause, ProbeFailed, Prober
from django_poolkit.pools.stats import PoolStats
from django_poolkit.routing import admission, outage
from django_poolkit.routing.router import is_replaceable
from django_poolkit.routing.topology import role_of

logger = logging.getLogger("django_poolkit.health")

# The part of the time of a look that the probe has: the rest is for what comes before and after.
_SHARE: Final = 0.85
# The part after which one of several hosts is waited for no more.
_LATEST: Final = 0.95
# SQLite opens a file when it has to read it, which by `SELECT 1` it has not.
_QUESTIONS: Final = {"sqlite": "PRAGMA schema_version"}


@dataclass(slots=True)
class _Kept:
    """What is kept between two looks."""

    prober: Prober | None = None
    own: Prober | None = None
    """The same, where there is no pool that would have one."""
    told: Cause | None = None
    """Why the last probe failed, so that an outage is told of once."""
    hosts: dict[str, DatabaseCheck] = field(default_factory=dict)
    """The checks of the hosts by full name, where there are several."""
    looking: Thread | None = None
    """Of one of several hosts: the look that was begun last."""


@dataclass(frozen=True, kw_only=True)
class DatabaseCheck:
    """`db:<alias>`."""

    alias: str
    timeout: float | None = None
    cache: float | None = None
    host: str | None = None
    """The key of the one host that is looked at, of several."""
    _kept: _Kept = field(default_factory=_Kept, compare=False, repr=False)

    @property
    def name(self) -> str:
        """What it is called."""
        return f"db:{self.alias}" if self.host is None else f"db:{self.alias}/{self.host}"

    def look(self, seconds: float) -> Result:
        """Look at the pool, then ask the server beside it."""
        wrapper: Any = connections[self.alias]
        pool: ConnectionPool | None = None
        try:
            if isinstance(wrapper, PooledDatabaseWrapperMixin):
                if (hosts := wrapper.host_pools) is not None:
                    return self._look_at_hosts(hosts, seconds)
                pool = wrapper.pool
        except PoolClosed:
            return judging.result(self.name, ("fail", "closed"))
        if pool is None:
            return self._judge(None, self._ask_unpooled(wrapper.vendor, seconds))
        return self._look_at(pool, seconds)

    def _look_at_hosts(self, pools: Mapping[str, ConnectionPool], seconds: float) -> Result:
        """Look at all hosts at once. One that does not come back, as a resolver may keep it from
        doing, has failed; it is not asked anew meanwhile, nor waited for by the process's end."""
        until = monotonic() + seconds * _LATEST
        checks = {name: self._of_host(name) for name in pools}
        found: dict[str, Result | BaseException] = {}
        looks = {name: checks[name]._begin(pools[name], seconds, found) for name in pools}
        for thread in looks.values():
            thread.join(max(0.0, until - monotonic()))
        results = []
        for name, check in checks.items():
            result = found.get(name)
            if isinstance(result, BaseException):
                raise result
            results.append(result or check._overdue(pools[name], seconds))
        return judging.of_hosts(self.name, results)

    def _begin(
        self, pool: ConnectionPool, seconds: float, found: dict[str, Result | BaseException]
    ) -> Thread:
        """Have the pool of this host looked at; what comes of it is entered by its full name."""
        before = self._kept.looking
        if before is not None and before.is_alive():
            return before  # it enters into what it was begun with
        name = self.name.removeprefix("db:")

        def look() -> None:
            try:
                found[name] = self._look_at(pool, seconds)
            except BaseException as error:
                found[name] = error

        thread = self._kept.looking = Thread(
            target=look, name=f"poolkit-health-host-{name}", daemon=True
        )
        thread.start()
        return thread

    def _overdue(self, pool: ConnectionPool, seconds: float) -> Result:
        cause = self._failed("timeout", f"no answer within {seconds:g} s")
        return self._judge(pool.stats(), cause)

    def _of_host(self, name: str) -> DatabaseCheck:
        known = self._kept.hosts.get(name)
        if known is None:
            known = DatabaseCheck(alias=self.alias, host=name.rpartition("/")[2])
        return self._kept.hosts.setdefault(name, known)

    def _look_at(self, pool: ConnectionPool, seconds: float) -> Result:
        stats = pool.stats()
        if (verdict := judging.of_state(stats)) is not None:
            return judging.result(self.name, verdict, stats)
        found = self._ask(pool.prober, seconds)
        # Once more: a probe takes its time, and what is shown is what is judged.
        stats = pool.stats()
        if (verdict := judging.of_state(stats)) is not None:
            return judging.result(self.name, verdict, stats)
        return self._judge(stats, found)

    def close(self) -> None:
        """Close the connection that is kept. Does not block."""
        for check in list(self._kept.hosts.values()):
            check.close()
        prober, self._kept.prober, self._kept.own = self._kept.prober, None, None
        if prober is not None:
            prober.release()

    def _judge(self, stats: PoolStats | None, found: Answer | Cause) -> Result:
        config = health_config()
        replica = self.alias in config.replicas or role_of(self.alias) == "replica"
        verdict = judging.of_server(found, stats, replica=replica, config=config)
        if stats is not None:
            verdict = judging.of_replica(
                verdict,
                replaceable=is_replaceable(self.alias),
                evicted=admission.eviction(self.name.removeprefix("db:")),
            )
            verdict = judging.of_primary(verdict, outage.refusal_of(self.alias))
        # Who waits for nothing but a connect, as the first of all, waits for nobody who has one.
        if stats is not None and stats.waiters > stats.connecting:
            pool = judging.of_pool(stats, stuck_after=config.stuck_after)
            verdict = judging.worse(verdict, pool)
        result = judging.result(self.name, verdict, stats)
        if isinstance(found, str):
            return result
        return replace(result, latency=found.seconds, lag=found.lag)

    def _ask(self, prober: Prober, seconds: float) -> Answer | Cause:
        self._kept.prober = prober
        try:
            answer = prober.ask(seconds * _SHARE)
        except ProbeFailed as error:
            return self._failed(error.cause, str(error))
        self._kept.told = None
        return answer

    def _failed(self, cause: Cause, text: str) -> Cause:
        if cause != self._kept.told:
            logger.warning("check=%s event=probe_failed reason=%s error=%s", self.name, cause, text)
        self._kept.told = cause
        return cause

    # -- without a pool of ours

    def _ask_unpooled(self, vendor: str, seconds: float) -> Answer | Cause:
        if vendor != "postgresql":
            return self._ask_other(vendor)
        if self._kept.own is None:
            self._kept.own = Prober(self._parameters, name=self.alias)
        return self._ask(self._kept.own, seconds)

    def _parameters(self) -> tuple[str, Mapping[str, Any]]:
        params = connections[self.alias].get_connection_params()
        name = naming.application_name(control_config().service)
        return "", {"fallback_application_name": name, **params}

    def _ask_other(self, vendor: str) -> Answer | Cause:
        """Ask over a connection of this moment. For how long, only its driver can say."""
        wrapper = connections.create_connection(self.alias)
        options = wrapper.settings_dict["OPTIONS"]
        without = {key: value for key, value in options.items() if key != "pool"}
        wrapper.settings_dict = {**wrapper.settings_dict, "OPTIONS": without}
        suffix, started = wrapper.features.bare_select_suffix, monotonic()
        try:
            with wrapper.cursor() as cursor:
                cursor.execute(_QUESTIONS.get(vendor, f"SELECT 1{suffix}"))
                cursor.fetchone()
        except utils.Error as error:
            return self._failed("unreachable", type(error).__name__)
        finally:
            wrapper.close()
        self._kept.told = None
        seconds = monotonic() - started
        return Answer(seconds=seconds, in_recovery=False, read_only=False, lag=None)
