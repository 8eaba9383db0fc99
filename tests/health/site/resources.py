"""A resource that opens once a file is there, which an upstream is like."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import anyio

from django_poolkit import lifespan

SECRET = "amqp://teller:s3same@broker/"


@lifespan.resource(required=False)
async def broker() -> AsyncIterator[str]:
    """Open, if the file is there."""
    if not await anyio.Path(os.environ["SITE_BROKER"]).exists():
        raise ConnectionError(f"no route to {SECRET}")
    yield "open"
