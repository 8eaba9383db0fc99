"""Words and figures of what is advised, alike in all of its tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from django_poolkit.control.tables import duration


def counted(count: int, one: str, many: str = "") -> str:
    """Return a count with its noun, as `1 process`."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def percent(share: float) -> str:
    """Return a share of one, short."""
    if 0 < share < 0.001:
        return "<0.1%"
    return f"{share:.0%}" if share >= 0.1 or not share else f"{share:.1%}"


def seconds(value: float) -> str:
    """Return a duration with its unit, and none without."""
    return duration(value) if value else "0"


def toned(lines: Sequence[str], tone: str) -> Iterator[tuple[str, str]]:
    """Yield each of several lines with the tone of all."""
    for text in lines:
        yield text, tone
