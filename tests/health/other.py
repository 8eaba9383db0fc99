"""A project that has given its health no address."""

from __future__ import annotations

from django.urls import path

from tests.health.drive import other

urlpatterns = [path("<path:rest>", other)]
