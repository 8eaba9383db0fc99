"""Asks for the health of a group, in a thread or on an event loop."""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic

from django_poolkit.conf.health import HealthConfig, health_config
from django_poolkit.health import groups
from django_poolkit.health.base import Check
from django_poolkit.health.groups import Members
from django_poolkit.health.report import Report, Result
from django_poolkit.health.runner import Asked, runner


def known(group: object) -> bool:
    """Return whether there is a group of this name, such as `ready` or `db/default`."""
    return groups.known(group, health_config())


def report(group: str) -> Report:
    """Return how the members of a group are, looking at those that were not looked at of late.

    Blocks for `HEALTH["TIMEOUT"]` seconds and a moment at most: a check that takes longer fails
    by `timeout`. However many ask, each check is looked at once at a time.

    Raises KeyError where there is no such group.
    """
    config = health_config()
    found = groups.members(group, config)
    results = _ask(found.checks, config).results()
    return _report(group, found, results, config)


async def areport(group: str) -> Report:
    """Do as `report()` on the running event loop, which is not blocked, and without a thread
    beside those of the checks."""
    config = health_config()
    found = groups.members(group, config)
    results = await _ask(found.checks, config).aresults()
    return _report(group, found, results, config)


def names() -> list[str]:
    """Return the names of all checks: `db:<alias>`, `http:<name>`, and the project's own.

    Raises ImproperlyConfigured where the project's own cannot be loaded.
    """
    return groups.names(health_config())


def look(names: Iterable[str], timeout: float | None = None) -> Report:
    """Look at these checks now, whatever was found before, and return how they are.

    Blocks for `timeout` seconds and a moment at most, for what the settings say where that is
    None. Raises KeyError for a check that does not exist, ImproperlyConfigured where the
    project's own cannot be loaded.
    """
    config = health_config()
    checks = [groups.named(name, config) for name in names]
    results = runner.look(checks, timeout=timeout, default=config.timeout).results()
    return Report(group="", results=tuple(results))


def _ask(checks: Iterable[Check], config: HealthConfig) -> Asked:
    return runner.ask(checks, timeout=config.timeout, cache=config.cache)


def _report(group: str, found: Members, looked: list[Result], config: HealthConfig) -> Report:
    now = monotonic()
    own = [check.cache for check in found.checks if check.cache is not None]
    return Report(
        group=group,
        results=(*found.told, *looked),
        # What the process knows of itself is never out of date.
        age=max((max(0.0, now - result.observed) for result in looked), default=0.0),
        max_age=min([config.cache, *own]),
    )
