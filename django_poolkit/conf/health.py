"""`POOLKIT["HEALTH"]`: where health is answered, how long an answer holds, and who sees details."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Network, IPv6Network, ip_network
from types import MappingProxyType
from typing import Any, Final, Literal

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from django_poolkit.conf.asyncpg import asyncpg_aliases
from django_poolkit.conf.http import http_names
from django_poolkit.conf.poolkit import bad_value, bad_value_at, mapping, refuse_unknown, section

Network = IPv4Network | IPv6Network
Token = str | Callable[[], Any]
"""A token, or a function that returns one or several of them."""
Status = Literal["pass", "warn", "fail"]

CODES: Final[Mapping[Status, int]] = MappingProxyType({"pass": 200, "warn": 200, "fail": 503})
SHORTEST_TOKEN: Final = 16
"""Characters. A shorter one could be found by trying."""
BUILT_IN: Final = ("live", "startup", "ready", "db", "http", "asyncpg")
"""Groups that are there without being set. Of these `db` and `http` cannot be changed."""
KIT: Final = ("process", "db", "http", "asyncpg", "resource")
"""How the names of the kit's own checks begin, which no user's check may bear."""

_GROUP: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_PATH: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+/")
_LONGEST: Final = 3600.0


@dataclass(frozen=True, kw_only=True)
class HealthConfig:
    """How the health of a process is found out, and how it is answered."""

    path: str | None = None
    """Below which path, such as `/health/`, health is answered before the application runs."""
    cache: float = 1.0
    """Seconds for which a result is given again."""
    timeout: float = 0.8
    """Seconds after which a check that has not answered fails."""
    stuck_after: float = 30.0
    """Seconds without any lease that began or ended, after which a full pool with waiters fails."""
    replicas: tuple[str, ...] = ()
    """Aliases that need not be able to write."""
    lag_warn: float = 10.0
    """Seconds by which a replica may be behind before it is warned of."""
    lag_fail: float | None = None
    """Seconds by which a replica may be behind before it fails. None: by any."""
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Members by group, as `{"ready": ["db:default"]}`."""
    checks: tuple[str, ...] = ()
    """Dotted paths of own checks, or of the modules that declare them."""
    status_codes: Mapping[Status, int] = field(default_factory=lambda: dict(CODES))
    """The HTTP status for each outcome."""
    token: tuple[Token, ...] = field(default=(), repr=False)
    """Who sends one of these sees details."""
    permission: str | None = None
    """Which permission of Django's a user must have to see details."""
    trusted_networks: tuple[Network, ...] = ()
    """Whose socket's address is in one of them sees details."""


_KEYS: Final = tuple(f.name.upper() for f in fields(HealthConfig))


def health_config() -> HealthConfig:
    """Return the section, read now.

    Raises ImproperlyConfigured with the path of the first value that cannot be honoured.
    """
    values = section("HEALTH", _KEYS)
    config = HealthConfig(**{key.lower(): _READ[key](key, value) for key, value in values.items()})
    if config.lag_fail is not None and config.lag_fail < config.lag_warn:
        what = f"must not be below LAG_WARN ({config.lag_warn:g})"
        raise bad_value("HEALTH", "LAG_FAIL", config.lag_fail, what)
    return config


def is_group(name: object) -> bool:
    """Return whether this can be the name of a group."""
    return isinstance(name, str) and _GROUP.fullmatch(name) is not None


def _path(key: str, value: object) -> str | None:
    if value is not None and not (isinstance(value, str) and _PATH.fullmatch(value)):
        raise bad_value("HEALTH", key, value, "must begin and end with a slash, as '/health/'")
    return value


def _seconds(least: float, what: str) -> Callable[[str, object], float]:
    def read(key: str, value: object) -> float:
        number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
        if number is None or not least <= number <= _LONGEST:
            text = f"must be a number of seconds, {what} and at most {_LONGEST:g}"
            raise bad_value("HEALTH", key, value, text)
        return float(number)

    return read


def _lag_fail(key: str, value: object) -> float | None:
    if value is None:
        return None
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    if number is None or not 0 < number < math.inf:
        raise bad_value("HEALTH", key, value, "must be a number of seconds above 0, or None")
    return float(number)


def _replicas(key: str, value: object) -> tuple[str, ...]:
    for index, alias in enumerate(_list(key, value, "must be a list of aliases of DATABASES")):
        if not isinstance(alias, str) or alias not in settings.DATABASES:
            raise _bad_entry(key, index, alias, "must be an alias of DATABASES")
    return tuple(value)  # type: ignore[arg-type]


def _groups(key: str, value: object) -> dict[str, tuple[str, ...]]:
    path = f"POOLKIT['HEALTH'][{key!r}]"
    groups = {}
    for name, members in mapping(value, path).items():
        own = f"{path}[{name!r}]"
        if not is_group(name):
            what = "must be named by at most 40 small letters, digits, hyphens and underscores"
            raise ImproperlyConfigured(f"{own} {what}.")
        if name in ("db", "http", "asyncpg"):
            raise ImproperlyConfigured(f"{own} cannot be set: it has all there are as members.")
        if not isinstance(members, (list, tuple)):
            raise bad_value_at(own, members, "must be a list of checks, as ['db:default', 'disk']")
        for member in members:
            _refuse_member(own, member)
        groups[name] = tuple(dict.fromkeys(members))
    return groups


def _refuse_member(path: str, member: object) -> None:
    """Refuse what can be no check. Which own checks there are is known when they are loaded."""
    if not isinstance(member, str) or not member:
        raise bad_value_at(path, member, "must be a list of checks, as ['db:default', 'disk']")
    kind, colon, name = member.partition(":")
    known = {
        "db": list(settings.DATABASES),
        "http": list(http_names()),
        "asyncpg": list(asyncpg_aliases()),
    }
    if colon and kind not in known:
        raise ImproperlyConfigured(
            f"{path}: there are no checks {kind!r}, only 'db', 'http' and 'asyncpg'."
        )
    if colon:
        where = "DATABASES" if kind == "db" else f"POOLKIT[{kind.upper()!r}]"
        try:
            refuse_unknown({name: None}, known[kind], where)
        except ImproperlyConfigured:
            raise ImproperlyConfigured(
                f"{path} has {member!r} for a member, but {where} has no {name!r}."
            ) from None


def _checks(key: str, value: object) -> tuple[str, ...]:
    what = "must be a list of dotted paths, as ['shop.health.disk'], each of them once"
    for index, path in enumerate(_list(key, value, what)):
        if not isinstance(path, str) or "." not in path.strip("."):
            raise _bad_entry(key, index, path, "must be a dotted path, as 'shop.health.disk'")
    return tuple(value)  # type: ignore[arg-type]


def _status_codes(key: str, value: object) -> dict[Status, int]:
    path = f"POOLKIT['HEALTH'][{key!r}]"
    codes: Mapping[Any, Any] = mapping(value, path)
    bounds: dict[Status, tuple[int, int]] = {"pass": (200, 299), "warn": (200, 599),
                                             "fail": (400, 599)}  # fmt: skip
    for status, code in codes.items():
        if status not in bounds:
            raise ImproperlyConfigured(f"{path}: there is no {status!r}, but pass, warn and fail.")
        low, high = bounds[status]
        if isinstance(code, bool) or not isinstance(code, int) or not low <= code <= high:
            what = f"must be an HTTP status from {low} to {high}"
            raise bad_value_at(f"{path}[{status!r}]", code, what)
    return {**CODES, **codes}


def _token(key: str, value: object) -> tuple[Token, ...]:
    if value is None:
        return ()
    what = (
        f"must be a token of at least {SHORTEST_TOKEN} printable characters without spaces, a "
        "function that returns one, or a list of those"
    )
    tokens = value if isinstance(value, (list, tuple)) else [value]
    if not tokens:
        raise bad_value("HEALTH", key, value, what)
    for token in tokens:
        if not callable(token) and not is_token(token):
            raise bad_value("HEALTH", key, token, what)
    return tuple(tokens)


def is_token(value: object) -> bool:
    """Return whether this can be a token: long enough, and able to stand in a header."""
    return (
        isinstance(value, str)
        and len(value) >= SHORTEST_TOKEN
        and re.fullmatch(r"[!-~]+", value) is not None
    )


def _permission(key: str, value: object) -> str | None:
    named = isinstance(value, str) and re.fullmatch(r"\w+\.\w+", value)
    if value is not None and not named:
        raise bad_value("HEALTH", key, value, "must be a permission, as 'auth.view_user', or None")
    return value  # type: ignore[return-value]


def _trusted_networks(key: str, value: object) -> tuple[Network, ...]:
    networks = []
    for index, entry in enumerate(_list(key, value, "must be a list of networks")):
        try:
            # A number would be read as one address.
            networks.append(ip_network(entry if isinstance(entry, str) else ""))
        except ValueError:
            what = "must be a network, as '10.0.0.0/8', with no bit set behind its prefix"
            raise _bad_entry(key, index, entry, what) from None
    return tuple(networks)


def _list(key: str, value: object, what: str) -> list[Any]:
    if not isinstance(value, (list, tuple)) or any(value.count(each) > 1 for each in value):
        raise bad_value("HEALTH", key, value, what)
    return list(value)


def _bad_entry(key: str, index: int, value: object, what: str) -> ImproperlyConfigured:
    return bad_value_at(f"POOLKIT['HEALTH'][{key!r}][{index}]", value, what)


_READ: Final[Mapping[str, Callable[[str, object], Any]]] = {
    "PATH": _path,
    "CACHE": _seconds(0.0, "0 or more"),
    "TIMEOUT": _seconds(0.05, "0.05 or more"),
    "STUCK_AFTER": _seconds(1e-3, "more than 0"),
    "REPLICAS": _replicas,
    "LAG_WARN": _seconds(0.0, "0 or more"),
    "LAG_FAIL": _lag_fail,
    "GROUPS": _groups,
    "CHECKS": _checks,
    "STATUS_CODES": _status_codes,
    "TOKEN": _token,
    "PERMISSION": _permission,
    "TRUSTED_NETWORKS": _trusted_networks,
}
assert set(_READ) == set(_KEYS)
