"""Which checks a group has for members."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Final

from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from django_poolkit.conf.asyncpg import asyncpg_aliases
from django_poolkit.conf.health import HealthConfig
from django_poolkit.conf.http import http_names
from django_poolkit.health import process
from django_poolkit.health.asyncpg import AsyncpgCheck
from django_poolkit.health.base import Check
from django_poolkit.health.database import DatabaseCheck
from django_poolkit.health.declared import Declared, declared
from django_poolkit.health.http import HttpCheck
from django_poolkit.health.report import Result

logger = logging.getLogger("django_poolkit.health")

UNLOADED: Final = "checks"
"""The name of what stands for the project's own checks, where they cannot be loaded."""

# The groups that are there anyhow, and what is known without looking.
_TOLD: Final[Mapping[str, Callable[[], list[Result]]]] = {
    "live": list,
    "startup": process.startup,
    "ready": process.readiness,
}
_KINDS: Final = ("db", "http", "asyncpg")
ALONE: Final = ("live", "startup")
"""These pass where the process answers, unless they are given more members."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """What a group is made of."""

    told: list[Result]
    """What is known without looking."""
    checks: list[Check]


def known(group: object, config: HealthConfig) -> bool:
    """Return whether there is a group of this name."""
    if not isinstance(group, str):
        return False
    kind, slash, name = group.partition("/")
    if kind in _KINDS:
        return not slash or name in _of_the_kit(kind)
    if group in _TOLD or group in config.groups:
        return True
    return any(group in each.groups for each in _loaded(config)[0].values())


def members(group: str, config: HealthConfig) -> Members:
    """Return what a group is made of. Raises KeyError where there is no such group.

    A member that does not exist fails, so that there is an answer at all.
    """
    if not known(group, config):
        raise KeyError(group)
    kind, _, name = group.partition("/")
    if kind in _KINDS:
        return Members(told=[], checks=[_kit(kind, each) for each in _of_the_kit(kind, name)])
    told = _TOLD.get(group, list)()
    loaded, error = _loaded(config)
    if error is not None and group not in ALONE:
        told.append(_broken(UNLOADED))
    joined = [name for name, each in loaded.items() if group in each.groups]
    checks: list[Check] = []
    for member in dict.fromkeys([*config.groups.get(group, ()), *joined]):
        check = _check(member, loaded)
        if check is not None:
            checks.append(check)
        elif member == process.NAME:
            told += [] if group == "ready" else process.readiness()
        elif error is None:  # else it may be among those that could not be loaded
            logger.error("check=%s event=no_such_check group=%s", member, group)
            told.append(_broken(member))
    return Members(told=told, checks=checks)


def names(config: HealthConfig) -> list[str]:
    """Return the names of all checks: databases, client sessions, asyncpg pools, the project's own.

    Raises ImproperlyConfigured where the latter cannot be loaded.
    """
    kit = [f"{kind}:{name}" for kind in _KINDS for name in _of_the_kit(kind)]
    return [*kit, *own(config)]


def named(name: str, config: HealthConfig) -> Check:
    """Return one check.

    Raises KeyError where there is none of this name, ImproperlyConfigured where the project's
    own cannot be loaded.
    """
    check = _check(name, own(config))
    if check is None:
        raise KeyError(name)
    return check


def own(config: HealthConfig) -> dict[str, Declared]:
    """Return the project's own checks by name. Raises ImproperlyConfigured as `names()`."""
    return declared(config.checks)


def unknown_members(config: HealthConfig) -> dict[str, list[str]]:
    """Return the members that do not exist, by group. Raises ImproperlyConfigured as `names()`."""
    there = {*names(config), process.NAME}
    found = {
        group: [member for member in listed if member not in there]
        for group, listed in config.groups.items()
    }
    return {group: missing for group, missing in found.items() if missing}


def _loaded(config: HealthConfig) -> tuple[dict[str, Declared], ImproperlyConfigured | None]:
    """Return the project's own checks, and what came of loading them."""
    try:
        return declared(config.checks), None
    except ImproperlyConfigured as error:
        logger.error("event=checks_not_loaded error=%s", error)
        return declared(()), error


def _of_the_kit(kind: str, name: str = "") -> list[str]:
    if kind == "db":
        # Not what iterating would make: a wrapper for each, in the caller's thread.
        there = list(connections.settings)
    else:
        there = list(http_names() if kind == "http" else asyncpg_aliases())
    return [name] if name else there


def _kit(kind: str, name: str) -> Check:
    if kind == "asyncpg":
        return AsyncpgCheck(alias=name)
    return DatabaseCheck(alias=name) if kind == "db" else HttpCheck(session=name)


def _check(name: str, loaded: Mapping[str, Declared]) -> Check | None:
    kind, colon, inner = name.partition(":")
    if colon and kind in _KINDS:
        return _kit(kind, inner) if inner in _of_the_kit(kind) else None
    return loaded.get(name)


def _broken(name: str) -> Result:
    return Result(name=name, status="fail", reason="config_error", observed=monotonic())
