"""django-health-check: a group of ours as one of its checks.

Name `django_poolkit.contrib.django_health_check.PoolkitHealth` among the `checks` of its view.
Its own `Database` check takes a connection of the pool, and so calls a database down whose pool is
busy; this one does not.
"""

from __future__ import annotations

import dataclasses

from health_check.base import HealthCheck  # type: ignore[import-untyped]
from health_check.exceptions import (  # type: ignore[import-untyped]
    ServiceUnavailable,
    ServiceWarning,
)

from django_poolkit import health


@dataclasses.dataclass
class PoolkitHealth(HealthCheck):  # type: ignore[misc]
    """Fails where a group of django_poolkit's fails. Needs no thread; its answer may be cached.

    What it says names no check and gives no reason: the page is open to all.
    """

    group: str = "db"
    """As in `/health/<group>`."""
    warnings: bool = dataclasses.field(default=False, repr=False)
    """Whether a warning counts as well: django-health-check 4 answers 500 to it, too."""

    async def run(self) -> None:
        """Ask for the group.

        Raises ServiceUnavailable where it fails, and ServiceWarning where it warns and that
        counts.
        """
        if not health.known(self.group):
            raise ServiceUnavailable("There is no such group.")
        status = (await health.areport(self.group)).status
        if status == "fail":
            raise ServiceUnavailable("The group fails.")
        if status == "warn" and self.warnings:
            raise ServiceWarning("The group warns.")
