"""`POOLKIT["ROUTING"]`: how a visitor is kept from reading before its own write."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Final

from django.conf import settings

from django_poolkit.conf.poolkit import bad_value, section

_NONE: Final[Mapping[str, Any]] = MappingProxyType({})
# The token of RFC 9110 and 6265, which names of headers and of cookies have to be.
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


@dataclass(frozen=True, kw_only=True)
class RoutingConfig:
    """What a visitor carries from one request to the next, and how long that counts."""

    wait: float = 0.05
    """Seconds that a request waits for a replica to come as far as the visitor must see."""
    max_age: float = 30.0
    """Seconds after a write in which a replica must have replayed it to be read."""
    pin: float = 5.0
    """Seconds after a write in which the primary is read, where no position can be had.
    Never above `max_age`."""
    cookie: str | None = "poolkit_floor"
    """Name of the cookie that carries it, None for none."""
    header: str | None = None
    """Name of a header that carries it, of requests and responses alike; None for none."""
    cache: str | None = None
    """The entry of `CACHES` that has it by user, None for none."""
    debug_header: str | None = None
    """Name of a header of responses that says where was read and why, None for none."""


_KEYS: Final = tuple(f.name.upper() for f in fields(RoutingConfig))

# What was read last: the setting, its section, and what came of it. Replaced as a whole.
_read: tuple[Mapping[str, Any], object, RoutingConfig] | None = None


def routing_config() -> RoutingConfig:
    """Return the section; the same object as long as the setting is the same.

    Raises ImproperlyConfigured with the path of the first value that cannot be honoured.
    """
    global _read
    whole = getattr(settings, "POOLKIT", _NONE)
    # Every request asks: a section that is the same object is not read again.
    if _read is not None and _read[0] is whole and _read[1] is whole.get("ROUTING"):
        return _read[2]
    config = _config(section("ROUTING", _KEYS))
    _read = (whole, whole.get("ROUTING"), config)
    return config


def _config(entries: Mapping[str, Any]) -> RoutingConfig:
    values: dict[str, Any] = {}
    for key, value in entries.items():
        if key in ("COOKIE", "HEADER", "DEBUG_HEADER"):
            values[key.lower()] = _token(key, value)
        elif key == "CACHE":
            values["cache"] = _alias(value)
        else:
            values[key.lower()] = _seconds(key, value)
    config = RoutingConfig(**values)
    shown = config.debug_header
    if shown is not None and config.header is not None and shown.lower() == config.header.lower():
        raise bad_value("ROUTING", "DEBUG_HEADER", shown, "must be another one than HEADER")
    if config.wait >= config.max_age:
        what = f"must be below MAX_AGE ({config.max_age:g})"
        raise bad_value("ROUTING", "WAIT", config.wait, what)
    if config.pin > config.max_age:
        if "pin" in values:
            what = f"must not be above MAX_AGE ({config.max_age:g})"
            raise bad_value("ROUTING", "PIN", config.pin, what)
        values["pin"] = config.max_age
        config = RoutingConfig(**values)
    return config


def _token(key: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        kind = "cookie" if key == "COOKIE" else "header"
        what = f"must be the name of a {kind}, or None for none"
        raise bad_value("ROUTING", key, value, what)
    return value


def _alias(value: object) -> str | None:
    if value is not None and (not isinstance(value, str) or not value):
        raise bad_value("ROUTING", "CACHE", value, "must be an alias of CACHES, or None for none")
    return value


def _seconds(key: str, value: object) -> float:
    least, what = (0.0, "0 or more") if key == "WAIT" else (1e-3, "more than 0")
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    if number is None or not least <= number < math.inf:
        raise bad_value("ROUTING", key, value, f"must be a number of seconds, {what}")
    return float(number)
