"""The check of the asyncpg pools of an alias: their figures. `db:<alias>` asks the server."""

from __future__ import annotations

from dataclasses import dataclass

from django_poolkit import registry
from django_poolkit.conf.health import health_config
from django_poolkit.health import judging
from django_poolkit.health.report import Result


@dataclass(frozen=True, kw_only=True)
class AsyncpgCheck:
    """`asyncpg:<alias>`."""

    alias: str
    timeout: float | None = None
    cache: float | None = None

    @property
    def name(self) -> str:
        """What it is called."""
        return f"asyncpg:{self.alias}"

    def look(self, seconds: float) -> Result:
        """Look at the figures. A pool that nobody has asked for yet passes."""
        found = [
            pool.stats()
            for pool in registry.asyncpg
            if self.alias in pool.aliases and not pool.ended
        ]
        results = [
            judging.result(
                self.name,
                judging.of_state(stats)
                or judging.of_pool(stats, stuck_after=health_config().stuck_after),
                stats,
            )
            for stats in found
        ]
        if not results:
            return judging.result(self.name, judging.PASS)
        return results[0] if len(results) == 1 else judging.of_hosts(self.name, results)

    def close(self) -> None:
        """Nothing is kept."""
