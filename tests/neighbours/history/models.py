"""What has a history, kept by triggers."""

from __future__ import annotations

from typing import Any, ClassVar

import pghistory
from django.db import models


@pghistory.track()
class Note(models.Model):
    """A text, each version of which is kept."""

    text = models.CharField(max_length=100)
    # Said aloud for the type checker, whose settings do not know this app.
    objects: ClassVar[models.Manager[Note]] = models.Manager()
    events: Any

    class Meta:
        app_label = "history"

    def __str__(self) -> str:
        return self.text
