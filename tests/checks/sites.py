"""Sites with other settings than the tests', for Django's own `check` to look at."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from types import ModuleType
from typing import Any

import pytest
from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage
from django.db import connections
from django.db.utils import ConnectionHandler
from django.test import override_settings

ENGINE = "django_poolkit.backends.postgresql"


def database(pool: Any = None, **entry: Any) -> dict[str, Any]:
    """Return an entry of `DATABASES` that leads to nobody: options of the pool, and its keys."""
    options = {**entry.pop("OPTIONS", {})}
    if pool is not None:
        options["pool"] = pool
    return {"ENGINE": ENGINE, "NAME": "shop", "HOST": "localhost", "OPTIONS": options, **entry}


class Site:
    """What `manage.py check` is to look at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def ids(self, *, deploy: bool = True, **changes: Any) -> list[str]:
        """Return the ids of what the kit's checks find, in order."""
        return [str(message.id) for message in self.look(deploy=deploy, **changes)]

    def look(
        self,
        *,
        databases: dict[str, Any] | None = None,
        deploy: bool = True,
        environment: dict[str, str] | None = None,
        poolkit: dict[str, Any] | None = None,
        asked: Sequence[str] = (),
        **changes: Any,
    ) -> list[CheckMessage]:
        """Return what the kit's checks find. Databases that are `asked` are connected to."""
        with self.having(databases or {"default": database()}), self._patch.context() as patch:
            for name in ("WEB_CONCURRENCY", "PGSSLMODE", "PROMETHEUS_MULTIPROC_DIR"):
                patch.delenv(name, raising=False)
            for name, value in (environment or {}).items():
                patch.setenv(name, value)
            with override_settings(POOLKIT=poolkit or {}, **changes):
                return sorted(
                    checks.run_checks(
                        tags=["poolkit"], include_deployment_checks=deploy, databases=asked
                    ),
                    key=lambda message: str(message.id),
                )

    @contextmanager
    def having(self, databases: dict[str, Any]) -> Iterator[ConnectionHandler]:
        """Have these databases stand in for those of the tests."""
        handler = ConnectionHandler(deepcopy(databases))
        with self._patch.context() as patch:
            for module in _that_know(connections):
                patch.setattr(module, "connections", handler)
            patch.setattr(settings, "DATABASES", databases)
            yield handler


def _that_know(handler: ConnectionHandler) -> list[ModuleType]:
    """Return the modules of the checks, and of what they read, that have Django's connections."""
    return [
        module
        for name, module in list(sys.modules.items())
        if name.startswith(("django_poolkit.checks.", "django_poolkit.conf."))
        and getattr(module, "connections", None) is handler
    ]
