"""All system checks of the kit, as Django runs them.

Each looks for one thing, and says it by one id. Those of a deployment run with `check --deploy`
only, those of a database where one is named, as by `check --database default` and by `migrate`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

from django.core import checks
from django.core.checks import CheckMessage

from django_poolkit.checks import (
    async_orm,
    budgets,
    dashboard,
    figures,
    growth,
    neighbours,
    poolers,
    receivers,
    requests,
    server,
    sharing,
    timeouts,
    tls,
    unread,
)
from django_poolkit.checks.anchors import with_anchors
from django_poolkit.checks.health import check_health
from django_poolkit.checks.hidden_state import check_hidden_state
from django_poolkit.checks.routing import check_routing

TAG: Final = "poolkit"

Look = Callable[[], Iterable[CheckMessage]]
LookAtDatabases = Callable[[Collection[str]], Iterable[CheckMessage]]

ALWAYS: Final[tuple[Look, ...]] = (
    unread.unread, growth.unrenewed,
    timeouts.acquires, timeouts.guards, timeouts.idleness, timeouts.client_totals,
    timeouts.persistent, sharing.shared_pools, requests.slow_blocks, requests.cut_blocks,
    receivers.receivers, poolers.cursors, poolers.startup_options, poolers.prepared,
    neighbours.django_prometheus, figures.multiprocess, budgets.parts,
    async_orm.aliases, async_orm.obstacles, async_orm.storages, dashboard.apps, dashboard.order,
)  # fmt: skip
DEPLOYED: Final[tuple[Look, ...]] = (
    growth.unpooled, growth.oversized, growth.waiters, timeouts.probes, requests.slow_sessions,
    tls.databases, tls.upstreams, neighbours.gunicorn, budgets.stop,
)  # fmt: skip
OF_DATABASES: Final[tuple[LookAtDatabases, ...]] = (server.budget, server.poolers)
OF_DEPLOYED_DATABASES: Final[tuple[LookAtDatabases, ...]] = (server.timeouts,)


def install() -> None:
    """Register all, as Django starts. What is registered already is not a second time."""
    checks.register(_anchored(check_health), TAG)
    checks.register(_anchored(check_routing), TAG)
    checks.register(_anchored(check_hidden_state), TAG, checks.Tags.database)
    for look in ALWAYS:
        checks.register(_as_check(look), TAG)
    for look in DEPLOYED:
        checks.register(_as_check(look), TAG, deploy=True)
    for ask in OF_DATABASES:
        checks.register(_as_database_check(ask), TAG, checks.Tags.database)
    for ask in OF_DEPLOYED_DATABASES:
        checks.register(_as_database_check(ask), TAG, checks.Tags.database, deploy=True)


@functools.cache
def _anchored(check: Callable[..., Iterable[CheckMessage]]) -> Callable[..., list[CheckMessage]]:
    @functools.wraps(check)
    def anchored(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
        return with_anchors(check(app_configs, **kwargs))

    return anchored


@functools.cache
def _as_check(look: Look) -> Callable[..., list[CheckMessage]]:
    def check(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
        return with_anchors(look())

    check.__name__, check.__doc__ = look.__name__, look.__doc__
    return check


@functools.cache
def _as_database_check(look: LookAtDatabases) -> Callable[..., list[CheckMessage]]:
    def check(
        app_configs: Any = None, databases: Collection[str] | None = None, **kwargs: Any
    ) -> list[CheckMessage]:
        return with_anchors(look(databases or ()))

    check.__name__, check.__doc__ = look.__name__, look.__doc__
    return check
