"""`POOLKIT["LIFESPAN"]`: what a server opens as it starts, and how long start and stop may take."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, get_args

from django_poolkit.conf.poolkit import bad_value, section

Pools = Literal["optional", "required", "lazy"]


@dataclass(frozen=True, kw_only=True)
class LifespanConfig:
    """What is opened as a server process starts, and the time that each step may take."""

    resources: tuple[str, ...] = ()
    """Dotted paths of resources, in the order of their opening."""
    pools: Pools = "optional"
    """Whether a start waits for the pools of `DATABASES`: `optional` connects without insisting,
    `required` fails where it cannot, `lazy` leaves them to their first use."""
    start_timeout: float = 20.0
    """Seconds for opening everything."""
    resource_start_timeout: float = 10.0
    """Seconds for opening one resource that says nothing else."""
    stop_timeout: float = 15.0
    """Seconds for everything from the request to stop: draining and closing."""
    drain_timeout: float = 5.0
    """Seconds of that for the requests in flight, before they are cut."""
    resource_stop_timeout: float = 3.0
    """Seconds for closing one resource that says nothing else."""
    cut_after: float | None = None
    """Seconds after SIGTERM or SIGINT, after which requests are cut that hold up the server.
    None leaves signals to the server."""
    killed_after: float = 30.0
    """Seconds after which whoever stops the process kills it. Changes nothing: a system check
    goes by it."""


_KEYS: Final = tuple(f.name.upper() for f in fields(LifespanConfig))


def lifespan_config() -> LifespanConfig:
    """Return the section, read now.

    Raises ImproperlyConfigured with the path of the first value that cannot be honoured.
    """
    values: dict[str, Any] = {}
    for key, value in section("LIFESPAN", _KEYS).items():
        if key == "RESOURCES":
            values["resources"] = _resources(value)
        elif key == "POOLS":
            values["pools"] = _pools(value)
        elif key == "CUT_AFTER" and value is None:
            continue
        else:
            values[key.lower()] = _seconds(key, value)
    config = LifespanConfig(**values)
    if config.drain_timeout >= config.stop_timeout:
        what = f"must be above DRAIN_TIMEOUT ({config.drain_timeout:g}), which is a part of it"
        raise bad_value("LIFESPAN", "STOP_TIMEOUT", config.stop_timeout, what)
    return config


def _resources(value: object) -> tuple[str, ...]:
    what = "must be a list of dotted paths, as ['shop.resources.redis'], each of them once"
    if not isinstance(value, (list, tuple)):
        raise bad_value("LIFESPAN", "RESOURCES", value, what)
    for path in value:
        if not isinstance(path, str) or "." not in path.strip(".") or value.count(path) > 1:
            raise bad_value("LIFESPAN", "RESOURCES", value, what)
    return tuple(value)


def _pools(value: object) -> Pools:
    if value not in get_args(Pools):
        what = f"must be one of {', '.join(map(repr, get_args(Pools)))}"
        raise bad_value("LIFESPAN", "POOLS", value, what)
    return value  # type: ignore[return-value]


def _seconds(key: str, value: object) -> float:
    zero = key in ("DRAIN_TIMEOUT", "CUT_AFTER")
    least, what = (0.0, "0 or more") if zero else (1e-3, "more than 0")
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    if number is None or not least <= number < math.inf:
        raise bad_value("LIFESPAN", key, value, f"must be a number of seconds, {what}")
    return float(number)
