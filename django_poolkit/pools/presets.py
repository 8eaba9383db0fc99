"""Options of a pool that go together, by a name: what `OPTIONS["pool"]["preset"]` stands for.

The figures are those that guides to SQLAlchemy's pool publish for such places, translated: its
`pool_size`, which it keeps open, is `min_size`; that and `max_overflow` are `max_size`; and
`pool_recycle` is `max_lifetime`. They are for one process. What a process really needs is
measured, by `manage.py pooladvise`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from django_poolkit.pools.errors import PoolConfigError


def _preset(size: int, overflow: int, recycle: float, timeout: float) -> Mapping[str, Any]:
    return MappingProxyType(
        {
            "min_size": size,
            "max_size": size + overflow,
            "max_lifetime": recycle,
            "timeout": timeout,
        }
    )


PRESETS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "development": _preset(5, 10, 3600.0, 30.0),
        "worker": _preset(5, 10, 3600.0, 30.0),
        "small": _preset(5, 10, 3600.0, 30.0),
        "api": _preset(10, 20, 3600.0, 30.0),
        "medium": _preset(20, 40, 1800.0, 15.0),
        "high": _preset(50, 100, 900.0, 5.0),
    }
)
"""The options of each preset."""


def applied(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with those of their `preset` added; what they say themselves wins.

    Raises PoolConfigError, without a path, for a preset that does not exist.
    """
    values = dict(options)
    if "preset" not in values:
        return values
    name = values.pop("preset")
    if not isinstance(name, str) or name not in PRESETS:
        known = ", ".join(repr(each) for each in PRESETS)
        raise PoolConfigError(
            f"['preset'] must be one of {known}; got a value of type {type(name).__name__}"
        )
    merged = {**PRESETS[name], **values}
    _check_sizes(name, values, merged)
    return merged


def _check_sizes(name: str, given: Mapping[str, Any], merged: Mapping[str, Any]) -> None:
    """Refuse one given size that the other one, of the preset, does not go with."""
    low, high = merged["min_size"], merged["max_size"]
    if not (isinstance(low, int) and isinstance(high, int)) or high < 1 or low <= high:
        return
    if "min_size" in given and "max_size" in given:
        return  # neither is the preset's
    theirs = "max_size" if "min_size" in given else "min_size"
    raise PoolConfigError(
        f"['max_size'] ({high}) is below ['min_size'] ({low}), and the {theirs} is that of the "
        f"preset {name!r}: write one of your own"
    )
