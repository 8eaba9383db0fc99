"""Timeouts that are missing, contradict each other, or outlast who waits for the answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from django.core import checks
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured

from django_poolkit.checks.aliases import aliases, asyncpg_pools, client_sessions, pooled
from django_poolkit.conf import site
from django_poolkit.conf.asyncpg import path_of
from django_poolkit.conf.health import health_config
from django_poolkit.conf.http import path_of as session_path
from django_poolkit.pools.config import PoolConfig

_REQUEST: Final = 30.0
"""Seconds after which gunicorn kills a worker that has not answered, by default, and many a
router hangs up."""
_PROBE: Final = 1.0
"""Seconds that a probe of Kubernetes waits by default."""
_UNITS: Final = {"us": 1e-6, "ms": 1e-3, "min": 60.0, "h": 3600.0, "d": 86_400.0, "s": 1.0}


def seconds_of(guards: Mapping[str, Any] | None, name: str) -> float:
    """Return what a guard of the server allows, in seconds; 0 where it does not guard."""
    text = str((guards or {}).get(name, 0))
    for unit, factor in _UNITS.items():
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    return float(text)


def acquires() -> Iterator[CheckMessage]:
    """Look for pools that let a request wait until nobody waits for it any more."""
    found = [(alias.of_pool("timeout"), config.timeout) for alias, config in pooled()]
    found += [(f"{path_of(name)}['TIMEOUT']", config.timeout) for name, config in asyncpg_pools()]
    for path, seconds in found:
        if seconds >= _REQUEST:
            yield checks.Warning(
                f"{path} is {seconds:g} s: by default gunicorn kills a worker that waits for so "
                f"long ({_REQUEST:g} s), and routers have hung up.",
                hint="Give up while somebody can still be told: 5 s is the default.",
                id="poolkit.W015",
            )


def guards() -> Iterator[CheckMessage]:
    """Look for guards of the server that never act, since another acts before."""
    for alias, config in pooled():
        for shorter, longer in (
            ("lock_timeout", "statement_timeout"), ("statement_timeout", "transaction_timeout"),
        ):  # fmt: skip
            least, most = seconds_of(config.guards, shorter), seconds_of(config.guards, longer)
            if least and most and least >= most:
                yield checks.Warning(
                    f"{alias.of_pool(shorter)} ({least:g} s) is not below {longer!r} "
                    f"({most:g} s), so it never acts.",
                    hint=f"Lower {shorter}, or remove it.",
                    id="poolkit.W016",
                )


def idleness() -> Iterator[CheckMessage]:
    """Look for servers that close what the pool means to keep."""
    for alias, config in pooled():
        most = seconds_of(config.guards, "idle_session_timeout")
        if most and _keeps(config) >= most:
            yield checks.Warning(
                f"{alias.of_pool('idle_session_timeout')} ({most:g} s) is not above how long the "
                f"pool keeps an idle connection ({_keeps(config):g} s): the server is first.",
                hint="Have 'max_idle' below it, and with 'min_size' also 'keepalive'.",
                id="poolkit.W017",
            )


def _keeps(config: PoolConfig) -> float:
    """Return how long a connection stays idle in the pool without being asked anything."""
    longest = config.max_lifetime if config.min_size else config.max_idle
    return min(longest, config.keepalive or longest)


def client_totals() -> Iterator[CheckMessage]:
    """Look for client sessions that wait for an upstream longer than a visitor does."""
    for config in client_sessions():
        total = config.options.get("total")
        if total is None or total > _REQUEST:
            shown = "None: a request may take for ever" if total is None else f"{total:g} s"
            yield checks.Warning(
                f"{session_path(config.name)}['total'] is {shown}, and gunicorn kills a worker "
                f"that waits for {_REQUEST:g} s by default.",
                hint="Set it below what your server and your router allow a request to take. "
                "For one long download give the request a timeout of its own.",
                id="poolkit.W018",
            )


def probes() -> Iterator[CheckMessage]:
    """Look whether an answer about health comes after the probe has gone."""
    try:
        config = health_config()
    except ImproperlyConfigured:
        return
    if config.timeout >= _PROBE:
        yield checks.Warning(
            f"POOLKIT['HEALTH']['TIMEOUT'] is {config.timeout:g} s: a probe of Kubernetes waits "
            f"for {_PROBE:g} s by default, and takes a late answer for none.",
            hint="Lower it (0.8 is the default), or give the probes a higher timeoutSeconds and "
            "silence this check.",
            id="poolkit.W019",
        )


def persistent() -> Iterator[CheckMessage]:
    """Look for connections that outlive their request, where each request has a thread."""
    if site.asgi_application() is None:
        return
    for alias in aliases():
        age = alias.settings["CONN_MAX_AGE"]
        if alias.pool is None and age != 0:
            yield checks.Warning(
                f"{alias.path('CONN_MAX_AGE')} is {age!r}, and the site has an ASGI application: "
                "each request may leave a connection behind, in a thread that no other uses.",
                hint=f"Set it to 0, and remove {alias.path('OPTIONS', 'pool')} to have a pool.",
                id="poolkit.W020",
            )
