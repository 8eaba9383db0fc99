"""What is asked of a replica that is read, and what happens where none fulfils it."""

from __future__ import annotations

import math
from typing import Final, Literal, cast, get_args

from django_poolkit.conf.poolkit import bad_value_at

AllDown = Literal["primary", "stale", "error"]
OldPrimary = Literal["refuse", "warn"]

MAX_LAG: Final = 60.0
"""Seconds. A replica holds up what it replays for 30 s, where a long query of its own is in the
way (PostgreSQL's max_standby_streaming_delay), and is not to be left for that alone."""
MAX_LAG_BYTES: Final = 256 * 1024 * 1024
"""What a bulk load writes in a few seconds."""
ALL_DOWN: Final[AllDown] = "primary"
OLD_PRIMARY: Final[OldPrimary] = "refuse"
WATCH: Final = True


def max_lag_at(path: str, value: object) -> float | None:
    """Return the seconds at a path of the settings, None for no limit.

    Raises ImproperlyConfigured for what is neither, as do the others.
    """
    return None if value is None else _positive(path, value, "a number of seconds")


def max_lag_bytes_at(path: str, value: object) -> float | None:
    """Return the bytes at a path of the settings, None for no limit."""
    return None if value is None else _positive(path, value, "a number of bytes")


def all_down_at(path: str, value: object) -> AllDown:
    """Return what is at a path of the settings."""
    if value not in get_args(AllDown):
        raise bad_value_at(path, value, "must be 'primary', 'stale' or 'error'")
    return cast(AllDown, value)


def old_primary_at(path: str, value: object) -> OldPrimary:
    """Return what is at a path of the settings."""
    if value not in get_args(OldPrimary):
        raise bad_value_at(path, value, "must be 'refuse' or 'warn'")
    return cast(OldPrimary, value)


def watch_at(path: str, value: object) -> bool:
    """Return what is at a path of the settings."""
    if not isinstance(value, bool):
        raise bad_value_at(path, value, "must be True or False")
    return value


def _positive(path: str, value: object, what: str) -> float:
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else 0
    if not 0 < number < math.inf:
        raise bad_value_at(path, value, f"must be {what} above 0, or None")
    return number
