"""Values of a server's settings, as one spells them and as it does."""

from __future__ import annotations

import re
from typing import Final

_UNITS: Final = {"us": 1e-3, "ms": 1.0, "s": 1e3, "min": 6e4, "h": 3.6e6, "d": 8.64e7}


def same(name: str, value: str, wanted: str) -> bool:
    """Return whether a server means the same by two values of a setting."""
    if name == "TimeZone":
        return value.lower() == wanted.lower()
    return value == wanted or _milliseconds(value) == _milliseconds(wanted) is not None


def _milliseconds(text: str) -> float | None:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(us|ms|s|min|h|d)?", text.strip())
    return float(match[1]) * _UNITS[match[2] or "ms"] if match else None
