"""What visitors write and read."""

from __future__ import annotations

from typing import ClassVar

from django.db import models


class Entry(models.Model):
    """An element of a list, which only ever grows."""

    objects: ClassVar[models.Manager[Entry]] = models.Manager()

    target = models.CharField(max_length=60, db_index=True)
    element = models.BigIntegerField()

    class Meta:
        app_label = "site"

    def __str__(self) -> str:
        return f"{self.element} of {self.target}"


class Counter(models.Model):
    """A number, which only ever grows."""

    objects: ClassVar[models.Manager[Counter]] = models.Manager()

    target = models.CharField(max_length=60, unique=True)
    value = models.BigIntegerField(default=0)

    class Meta:
        app_label = "site"

    def __str__(self) -> str:
        return f"{self.target}: {self.value}"


class Mirror(models.Model):
    """A table of one row, in which whoever reads it shows which server it was."""

    objects: ClassVar[models.Manager[Mirror]] = models.Manager()

    class Meta:
        app_label = "site"

    def __str__(self) -> str:
        return "the mirror"
