"""Two of tasks' backends, as the how-to has them."""

from __future__ import annotations

from django.tasks.backends.immediate import ImmediateBackend
from django_tasks_db import DatabaseBackend

from django_poolkit.contrib.tasks import CarriesFloors


class Stored(CarriesFloors, DatabaseBackend):
    """Keeps tasks in the database, for a worker."""


class Immediate(CarriesFloors, ImmediateBackend):
    """Runs them where they are enqueued."""
