"""`POOLKIT`: the setting that holds what is no matter of a database. One section, one module."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

SECTIONS: Final = (
    "ASYNCPG", "ASYNC_ORM", "CLUSTERS", "CONTROL", "HEALTH", "HTTP", "LIFESPAN", "ROUTING",
)  # fmt: skip


def section(name: str, keys: Collection[str] | None) -> Mapping[str, Any]:
    """Return what the user wrote in `POOLKIT[name]`; empty where it is absent.

    `keys` are the ones the section knows, None where its keys are the user's own names. Raises
    ImproperlyConfigured for any other, and for sections that do not exist.
    """
    value = _whole()
    path = f"POOLKIT[{name!r}]"
    part = mapping(value.get(name, {}), path)
    if keys is not None:
        refuse_unknown(part, keys, path)
    return part


def is_readable() -> bool:
    """Whether the setting is a dict of known sections, whatever stands in them."""
    try:
        _whole()
    except ImproperlyConfigured:
        return False
    return True


def _whole() -> Mapping[str, Any]:
    value = mapping(getattr(settings, "POOLKIT", {}), "POOLKIT")
    refuse_unknown(value, SECTIONS, "POOLKIT")
    return value


def bad_value(name: str, key: str, value: object, what: str) -> ImproperlyConfigured:
    """Return the error for one value: its path, its type, and what it has to be."""
    return bad_value_at(f"POOLKIT[{name!r}][{key!r}]", value, what)


def bad_value_at(path: str, value: object, what: str) -> ImproperlyConfigured:
    """Return the error for the value at a path of the settings."""
    # What is in the wrong place may be anything, a password too; so only its type is shown.
    shown = repr(value) if isinstance(value, (bool, int, float)) else f"a {type(value).__name__}"
    return ImproperlyConfigured(f"{path} {what}; got {shown}.")


def mapping(value: object, path: str) -> Mapping[str, Any]:
    """Return the value at a path of the settings, if it is a dict; else raise."""
    if not isinstance(value, Mapping):
        raise ImproperlyConfigured(f"{path} must be a dict; got a {type(value).__name__}.")
    return value


def refuse_unknown(value: Mapping[str, Any], known: Collection[str], path: str) -> None:
    """Raise for the first key that is not known, and name the one that may be meant."""
    for key in value:
        if key not in known:
            spelled = {name.upper(): name for name in known}
            close = difflib.get_close_matches(str(key).upper(), spelled, n=1)
            near = f"Did you mean {spelled[close[0]]!r}?" if close else None
            hint = near or f"Known are: {', '.join(known)}."
            raise ImproperlyConfigured(f"{path}[{key!r}]: there is no such setting. {hint}")
