"""Resources that the settings of tests name."""

from __future__ import annotations

from collections.abc import AsyncIterator

from django_poolkit import lifespan

SECRETS = {"PASSWORD": "s3cret"}


@lifespan.resource
async def declared() -> AsyncIterator[str]:
    """Declared by the decorator."""
    yield "declared"


async def plain() -> AsyncIterator[str]:
    """Not declared."""
    yield "plain"


async def coroutine() -> str:
    """No resource."""
    return "redis"
