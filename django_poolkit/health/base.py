"""What a check is, for the runner."""

from __future__ import annotations

from typing import Protocol

from django_poolkit.health.report import Result


class Check(Protocol):
    """Something that is looked at in a thread of its own. Equal ones share it, and their name."""

    @property
    def name(self) -> str:
        """What it is called: unique."""

    @property
    def timeout(self) -> float | None:
        """Seconds that a look may take; None for what the settings say."""

    @property
    def cache(self) -> float | None:
        """Seconds for which a result is given again; None for what the settings say."""

    def look(self, seconds: float) -> Result:
        """Return how it is. Blocks, if it can be helped for `seconds` at most."""

    def close(self) -> None:
        """Close what has been kept between looks. Called in the same thread."""
