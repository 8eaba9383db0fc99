"""A view that reads and writes in all the ways that take a connection."""

from __future__ import annotations

from typing import Any

from django.db import connection as default_connection
from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.urls import path

from tests.neighbours.tenants.notes.models import Note

connection: Any = default_connection


def notes(request: HttpRequest) -> JsonResponse:
    """Write two notes, and return all texts that came to sight."""
    tenant = request.tenant.schema_name  # type: ignore[attr-defined]
    seen = list(Note.objects.values_list("text", flat=True))
    with transaction.atomic():
        Note.objects.create(text=f"{tenant}: together")
        seen += Note.objects.values_list("text", flat=True)
    for note in Note.objects.order_by("pk")[:3].iterator(chunk_size=1):
        seen.append(note.text)
        note.save()
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO notes_note (text) VALUES (%s)", [f"{tenant}: alone"])
        cursor.execute("SELECT text FROM notes_note")
        seen += [text for (text,) in cursor.fetchall()]
    return JsonResponse({"tenant": tenant, "seen": sorted(set(seen))})


urlpatterns = [path("", notes)]
