"""A view that writes in all the ways that take a connection."""

from __future__ import annotations

import pghistory
from django.db import connection, transaction
from django.http import HttpRequest, JsonResponse
from django.urls import path

from tests.neighbours.history.models import Note


def write(request: HttpRequest, name: str) -> JsonResponse:
    """Write five versions of two notes."""
    pghistory.context(visitor=name)
    note = Note.objects.create(text=f"{name}: made")
    with transaction.atomic():
        note.text = f"{name}: in a block"
        note.save()
    for each in Note.objects.filter(pk=note.pk).iterator(chunk_size=1):
        each.text = f"{name}: in a loop"
        each.save()
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE history_note SET text = %s WHERE id = %s", [f"{name}: by text", note.pk]
        )
    Note.objects.bulk_create([Note(text=f"{name}: at once")])
    return JsonResponse({"seen": Note.objects.filter(text__startswith=f"{name}:").count()})


def look(request: HttpRequest) -> JsonResponse:
    """Read only."""
    return JsonResponse({"notes": Note.objects.count()})


urlpatterns = [path("write/<name>/", write), path("look/", look)]
