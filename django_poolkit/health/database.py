"""The check of one database: the figures of its pool, and a round trip beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from django.db import connections

from django_poolkit.health.report import Result


@dataclass(frozen=True, kw_only=True)
class DatabaseCheck:
    """`db:<alias>`."""

    alias: str
    timeout: float | None = None
    cache: float | None = None
    _kept: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def name(self) -> str:
        """What it is called."""
        return f"db:{self.alias}"

    def look(self, seconds: float) -> Result:
        """Ask the database."""
        wrapper = self._kept.get("wrapper")
        if wrapper is None:
            wrapper = self._kept["wrapper"] = connections.create_connection(self.alias)
        try:
            with wrapper.cursor() as cursor:
                cursor.execute("SELECT 1")
        except Exception:
            return Result(name=self.name, status="fail", reason="unreachable")
        finally:
            wrapper.close()
        return Result(name=self.name, status="pass")

    def close(self) -> None:
        """Close what is kept."""
        wrapper = self._kept.pop("wrapper", None)
        if wrapper is not None:
            wrapper.close()
