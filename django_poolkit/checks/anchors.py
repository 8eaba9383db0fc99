"""Where the documentation says what to do: one heading for each id of a system check."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from django.core.checks import CheckMessage

PAGE: Final = "docs/reference/checks.md"


def anchor(name: str) -> str:
    """Return where the page speaks of a check, as `docs/reference/checks.md#poolkitw001`."""
    return f"{PAGE}#{name.replace('.', '').lower()}"


def with_anchors(messages: Iterable[CheckMessage]) -> list[CheckMessage]:
    """Return the messages, and have the hint of each end with where to read on."""
    found = list(messages)
    for message in found:
        if message.id:
            where = f"See {anchor(message.id)}."
            message.hint = f"{message.hint} {where}" if message.hint else where
    return found
