"""The Django app: checks the settings, opens nothing."""

from __future__ import annotations

from contextlib import suppress

from django.apps import AppConfig
from django.core.exceptions import ImproperlyConfigured

try:
    from django_poolkit import registry
except ImportError as error:
    if error.name != "psycopg":
        raise
    raise ImproperlyConfigured(str(error)) from error
from django_poolkit import metrics
from django_poolkit.aio import starting as async_orm
from django_poolkit.checks import registered as checks
from django_poolkit.conf.async_orm import async_orm_config
from django_poolkit.conf.asyncpg import verify_asyncpg
from django_poolkit.conf.clusters import verify_clusters
from django_poolkit.conf.control import control_config
from django_poolkit.conf.databases import verify_databases
from django_poolkit.conf.health import health_config
from django_poolkit.conf.lifespan import lifespan_config
from django_poolkit.control.joining import join
from django_poolkit.http.sessions import verify as verify_client_sessions
from django_poolkit.routing import joining as routing


class PoolkitConfig(AppConfig):
    """`INSTALLED_APPS = [..., "django_poolkit"]`."""

    name = "django_poolkit"
    verbose_name = "Connection pools"

    def ready(self) -> None:
        """Refuse settings that cannot be honoured, with their path; connect what is to be."""
        checks.install()
        # `check` is to name all that cannot be honoured, where a start names the first.
        if registry.process.command.partition(" ")[2] == "check":
            with suppress(ImproperlyConfigured):
                routing.install()
            with suppress(ImproperlyConfigured):
                async_orm.start()
        else:
            _verify()
            routing.install()
            async_orm.start()
        events = registry.pools.events
        if join not in events.before_open:
            events.before_open += (join,)
        metrics.install()


def _verify() -> None:
    """Raise ImproperlyConfigured for the first setting that cannot be honoured."""
    verify_databases()
    verify_clusters()
    verify_asyncpg()
    async_orm_config()
    control_config()
    verify_client_sessions()
    lifespan_config()
    health_config()
