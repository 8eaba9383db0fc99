"""What each tenant has for itself."""

from __future__ import annotations

from typing import ClassVar

from django.db import models


class Note(models.Model):
    """A text that begins with the name of the schema it belongs to."""

    text = models.CharField(max_length=100)
    # Said aloud for the type checker, whose settings do not know this app.
    objects: ClassVar[models.Manager[Note]] = models.Manager()

    def __str__(self) -> str:
        return self.text
