"""The site without Django's handler: FastAPI alone, in a process of its own."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.neighbours.fastapi.site.settings"
django.setup()

from fastapi import FastAPI, Request  # noqa: E402

from django_poolkit.asgi import Poolkit  # noqa: E402
from tests.neighbours.fastapi.site.routes import router  # noqa: E402


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
    """What the application opens itself."""
    yield {"own": "open"}


app = FastAPI(lifespan=lifespan)
app.include_router(router)
app.add_middleware(Poolkit)


@app.get("/state")
async def state(request: Request) -> list[str]:
    """Say what is open."""
    return sorted(request.scope["state"])
