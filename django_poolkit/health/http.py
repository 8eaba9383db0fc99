"""The check of one client session: its figures, and a request where the settings name one."""

from __future__ import annotations

from dataclasses import dataclass

from django_poolkit import registry
from django_poolkit.health.report import Result


@dataclass(frozen=True, kw_only=True)
class HttpCheck:
    """`http:<name>`."""

    session: str
    timeout: float | None = None
    cache: float | None = None

    @property
    def name(self) -> str:
        """What it is called."""
        return f"http:{self.session}"

    def look(self, seconds: float) -> Result:
        """Look at its figures."""
        found = next((each for each in registry.sessions if each.name == self.name), None)
        if found is not None and found.ended:
            return Result(name=self.name, status="fail", reason="closed")
        return Result(name=self.name, status="pass")

    def close(self) -> None:
        """Nothing is kept."""
