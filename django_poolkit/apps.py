"""The Django app: checks the settings, opens nothing."""

from __future__ import annotations

from django.apps import AppConfig

from django_poolkit.conf.databases import verify_databases


class PoolkitConfig(AppConfig):
    """`INSTALLED_APPS = [..., "django_poolkit"]`."""

    name = "django_poolkit"
    verbose_name = "Connection pools"

    def ready(self) -> None:
        """Refuse settings that cannot be honoured, with their path."""
        verify_databases()
