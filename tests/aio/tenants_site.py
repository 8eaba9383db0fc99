"""An async view that reads and writes by calls in the bridge, in all the ways that there are."""

from __future__ import annotations

import asyncio

from django.http import HttpRequest, JsonResponse
from django.urls import path

from django_poolkit.aio import aatomic, bridged
from tests.neighbours.tenants.notes.models import Note


def texts() -> list[str]:
    """Return the texts of all notes that come to sight."""
    return list(Note.objects.values_list("text", flat=True))


async def notes(request: HttpRequest) -> JsonResponse:
    """Write two notes, and return all texts that came to sight."""
    tenant = request.tenant.schema_name  # type: ignore[attr-defined]
    seen: list[str] = []
    for found in await asyncio.gather(*(bridged(texts)() for _ in range(4))):
        seen += found
    async with aatomic():
        await bridged(Note.objects.create)(text=f"{tenant}: together")
        seen += await bridged(texts)()
    await bridged(Note.objects.create)(text=f"{tenant}: alone")
    seen += await bridged(texts)()
    return JsonResponse({"tenant": tenant, "seen": sorted(set(seen))})


urlpatterns = [path("", notes)]
