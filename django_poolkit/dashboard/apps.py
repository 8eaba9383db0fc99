"""The app of the dashboard: its permissions, templates and static files. Opens nothing."""

from __future__ import annotations

from django.apps import AppConfig


class DashboardConfig(AppConfig):
    """`INSTALLED_APPS = [..., "django_poolkit", "django_poolkit.dashboard"]`."""

    name = "django_poolkit.dashboard"
    label = "poolkit_dashboard"
    verbose_name = "Connection pools"
    default_auto_field = "django.db.models.BigAutoField"
