"""The rules of a cluster: whose models it has, which of them are read from the primary."""

from __future__ import annotations

import re
from typing import Final, Literal, cast, get_args

from django_poolkit.conf.poolkit import bad_value_at

StaleWrite = Literal["allow", "warn", "raise"]
Position = Literal["lsn", "time"]
AtomicRequests = Literal["primary", "replica"]

ON_PRIMARY: Final = ("admin", "auth", "sessions")
"""What is read from the primary where nothing else is said: who is logged in must not depend on
how far a replica has come."""
STALE_WRITE: Final[StaleWrite] = "warn"

_LABEL: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)?")


def labels_at(path: str, value: object) -> tuple[str, ...]:
    """Return the labels at a path of the settings: of apps as `shop`, of models as `shop.order`.

    Raises ImproperlyConfigured for anything else.
    """
    what = "must be a list of labels, as ['shop', 'blog.Post']"
    if not isinstance(value, (list, tuple)):
        raise bad_value_at(path, value, what)
    for index, label in enumerate(value):
        if not isinstance(label, str) or not _LABEL.fullmatch(label):
            raise bad_value_at(f"{path}[{index}]", label, "must be as 'shop' or 'blog.Post'")
    return tuple(_as_django_has_it(label) for label in value)


def stale_write_at(path: str, value: object) -> StaleWrite:
    """Return what is at a path of the settings. Raises ImproperlyConfigured for what it is not."""
    if value not in get_args(StaleWrite):
        raise bad_value_at(path, value, "must be 'allow', 'warn' or 'raise'")
    return cast(StaleWrite, value)


def atomic_requests_at(path: str, value: object) -> AtomicRequests:
    """Return what is at a path of the settings. Raises ImproperlyConfigured for what it is not."""
    if value not in get_args(AtomicRequests):
        raise bad_value_at(path, value, "must be 'primary' or 'replica'")
    return cast(AtomicRequests, value)


def position_at(path: str, value: object) -> Position:
    """Return what is at a path of the settings. Raises ImproperlyConfigured for what it is not."""
    if value not in get_args(Position):
        raise bad_value_at(path, value, "must be 'lsn' or 'time'")
    return cast(Position, value)


def _as_django_has_it(label: str) -> str:
    app, dot, model = label.partition(".")
    return f"{app}{dot}{model.lower()}"
