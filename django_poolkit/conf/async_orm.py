"""`POOLKIT["ASYNC_ORM"]`: whether Django's async methods run on the event loop."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Final

from django.conf import settings

from django_poolkit.conf.poolkit import bad_value, bad_value_at, section


@dataclass(frozen=True, kw_only=True)
class AsyncOrmConfig:
    """What runs on the event loop that Django would have a thread run."""

    enabled: bool = False
    """Whether Django's own async methods of the ORM run on the event loop."""
    thread_aliases: tuple[str, ...] = ()
    """Aliases whose calls stay on Django's threads."""
    middleware: bool = False
    """Whether those of Django's own middleware that are known not to block run there, too."""
    slow_slice: float | None = 0.05
    """Seconds for which a call may hold the loop before that is logged and counted. None looks at
    none."""


_KEYS: Final = tuple(f.name.upper() for f in fields(AsyncOrmConfig))


def async_orm_config() -> AsyncOrmConfig:
    """Return the section, read now.

    Raises ImproperlyConfigured with the path of the first value that cannot be honoured.
    """
    values: dict[str, Any] = {}
    for key, value in section("ASYNC_ORM", _KEYS).items():
        if key == "THREAD_ALIASES":
            values["thread_aliases"] = _aliases(value)
        elif key == "SLOW_SLICE":
            values["slow_slice"] = _seconds(value)
        elif not isinstance(value, bool):
            raise bad_value("ASYNC_ORM", key, value, "must be True or False")
        else:
            values[key.lower()] = value
    config = AsyncOrmConfig(**values)
    if config.middleware and not config.enabled:
        what = "needs ENABLED, which is not True: without it no middleware leaves its thread"
        raise bad_value("ASYNC_ORM", "MIDDLEWARE", True, what)
    return config


def _aliases(value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        raise bad_value(
            "ASYNC_ORM", "THREAD_ALIASES", value, "must be a list of aliases of DATABASES"
        )
    for index, alias in enumerate(value):
        if not isinstance(alias, str) or alias not in settings.DATABASES or alias in value[:index]:
            path = f"POOLKIT['ASYNC_ORM']['THREAD_ALIASES'][{index}]"
            raise bad_value_at(path, alias, "must be an alias of DATABASES, each of them once")
    return tuple(value)


def _seconds(value: object) -> float | None:
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else 0
    if value is not None and not 0 < number < math.inf:
        what = "must be a number of seconds above 0, or None"
        raise bad_value("ASYNC_ORM", "SLOW_SLICE", value, what)
    return None if value is None else float(number)
