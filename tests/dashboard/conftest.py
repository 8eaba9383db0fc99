"""A site with the admin and the dashboard, in the tests' process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.contrib.auth.management import create_permissions
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client, override_settings

from django_poolkit.control import collect
from django_poolkit.control.collect import Problem, Report
from django_poolkit.dashboard import access, looking

APPS = [
    "django.contrib.admin",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_poolkit.dashboard",
]
SITE: dict[str, Any] = {
    "ROOT_URLCONF": "tests.dashboard.site_urls",
    "SESSION_ENGINE": "django.contrib.sessions.backends.signed_cookies",
    "STATIC_URL": "/static/",
    "MIDDLEWARE": [
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    "TEMPLATES": [
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
}


@pytest.fixture
def site(db: None) -> Iterator[None]:
    """The site, with the table that the admin keeps its log in."""
    with override_settings(INSTALLED_APPS=[*settings.INSTALLED_APPS, *APPS], **SITE):
        from django.contrib.admin.models import LogEntry

        create_permissions(apps.get_app_config("poolkit_dashboard"), verbosity=0)
        with connection.schema_editor() as editor:
            editor.create_model(LogEntry)
        looking.forget()
        yield
        looking.forget()
        if not connection.in_atomic_block:  # else all of it is rolled back
            with connection.schema_editor() as editor:
                editor.delete_model(LogEntry)


@pytest.fixture
def visit(site: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Client]:
    """Return a function that logs in somebody with some of the permissions."""
    monkeypatch.setattr(access, "PATIENCE", 60.0)  # the machine may be busy

    def log_in(*permissions: str, staff: bool = True, superuser: bool = False) -> Client:
        user = User.objects.create(username="ada", is_staff=staff, is_superuser=superuser)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        assert user.user_permissions.count() == len(permissions)
        client = Client(enforce_csrf_checks=True)
        client.force_login(user)
        return client

    return log_in


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that says what the processes answer to each look."""

    def set_processes(*processes: dict[str, Any], problems: tuple[Problem, ...] = ()) -> None:
        def look() -> Report:
            return collect._report(time.time(), processes, list(problems))

        monkeypatch.setattr(collect, "look", look)
        looking.forget()

    return set_processes
