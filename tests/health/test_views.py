"""Behind the middleware of auth's a user's permission shows details, if the databases are well."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import OperationalError
from django.test import Client, override_settings

from django_poolkit import health
from django_poolkit.health import views
from django_poolkit.health.report import Report, Result, Status

pytestmark = [pytest.mark.core, pytest.mark.django_db]

PERMISSION = "auth.view_user"
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
AsUser = Callable[..., Client]


@pytest.fixture
def site(settings: Any) -> None:
    """A project whose sessions need no database, and whose users do."""
    settings.ROOT_URLCONF = "tests.health.drive"
    settings.MIDDLEWARE = MIDDLEWARE
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
    settings.POOLKIT = {**settings.POOLKIT, "HEALTH": {"PERMISSION": PERMISSION}}


@pytest.fixture
def databases(monkeypatch: pytest.MonkeyPatch) -> list[Status]:
    """How the databases are, by the newest entry: they pass."""
    statuses: list[Status] = ["pass"]

    async def told(group: str) -> Report:
        if group != "db":
            return await health.areport(group)
        return Report(group=group, results=(Result(name="db:default", status=statuses[-1]),))

    monkeypatch.setattr(views, "areport", told)
    return statuses


@pytest.fixture
def as_user(site: None) -> AsUser:
    """Return a function that logs a user in, who has a permission or not."""

    def as_user(*, permitted: bool = False, **facts: Any) -> Client:
        user = User.objects.create_user("somebody", **facts)
        if permitted:
            user.user_permissions.add(Permission.objects.get(codename="view_user"))
        client = Client()
        client.force_login(user)
        return client

    return as_user


def sees(client: Client) -> bool:
    answered = client.get("/health/live")
    assert answered.status_code == 200
    assert answered["Content-Type"] == "application/json"
    found = json.loads(answered.content)
    assert found["status"] == "pass"
    return "checks" in found


def test_nobody_in_particular_sees_no_details(site: None, databases: list[Status]) -> None:
    assert not sees(Client())


@pytest.mark.parametrize(
    ("facts", "allowed"),
    [
        ({}, False),
        ({"is_staff": True}, False),
        ({"permitted": True}, True),
        ({"permitted": True, "is_active": False}, False),
        ({"is_superuser": True}, True),
    ],
)
def test_the_permission_shows_details(
    facts: dict[str, Any], allowed: bool, as_user: AsUser, databases: list[Status]
) -> None:
    assert sees(as_user(**facts)) == allowed


@pytest.mark.parametrize("facts", [{"permitted": True}, {"is_superuser": True}])
def test_without_the_setting_no_permission_shows_any(
    facts: dict[str, Any], as_user: AsUser, databases: list[Status], settings: Any
) -> None:
    client = as_user(**facts)
    settings.POOLKIT = {**settings.POOLKIT, "HEALTH": {}}
    assert not sees(client)


@pytest.mark.parametrize("status", ["warn", "fail"])
def test_nobody_is_looked_up_in_a_database_that_is_not_well(
    status: Status,
    as_user: AsUser,
    databases: list[Status],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_up: list[Any] = []
    client = as_user(permitted=True)
    databases.append(status)
    monkeypatch.setattr(views, "_has_permission", lambda *asked: looked_up.append(asked))
    assert not sees(client)
    assert not looked_up


def test_the_databases_are_not_asked_for_who_sends_no_cookie(
    site: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def areport(group: str) -> Report:
        asked.append(group)
        return Report(group=group, results=())

    monkeypatch.setattr(views, "areport", areport)
    assert not sees(Client())
    assert not asked


def test_who_cannot_be_looked_up_sees_no_details(
    as_user: AsUser,
    databases: list[Status],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = as_user(permitted=True)

    def raises(*_: Any) -> bool:
        raise OperationalError("s3same")

    monkeypatch.setattr(views, "_has_permission", raises)
    with caplog.at_level(logging.DEBUG):
        assert not sees(client)
    assert "event=permission_unknown error=OperationalError" in caplog.messages
    assert "s3same" not in caplog.text


def test_without_the_middleware_there_is_nobody(
    as_user: AsUser, databases: list[Status], caplog: pytest.LogCaptureFixture
) -> None:
    client = as_user(permitted=True)
    with override_settings(MIDDLEWARE=[]):
        assert not sees(client)
    assert not caplog.messages


def test_the_answer_is_kept_for_nobody_else(as_user: AsUser, databases: list[Status]) -> None:
    answered = as_user(permitted=True).get("/health/live")
    assert answered["Cache-Control"] == "private, max-age=1"
    assert "Cookie" in answered["Vary"]
    assert "Authorization" in answered["Vary"]
    assert not answered.cookies
