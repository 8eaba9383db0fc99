"""Checks that `HEALTH["CHECKS"]` can name."""

from __future__ import annotations

from django_poolkit.health import check

looked: list[str] = []


@check("disk", groups=["ready", "shop"])
def disk() -> None:
    """Pass."""
    looked.append("disk")


def plain() -> str:
    """Warn."""
    return "warn"


not_a_check = {"PASSWORD": "s3cret"}
