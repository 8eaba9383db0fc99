"""A group of ours is one of django-health-check's checks."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import Executor
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import AsyncRequestFactory
from health_check.exceptions import (  # type: ignore[import-untyped]
    ServiceUnavailable,
    ServiceWarning,
)
from health_check.views import HealthCheckView  # type: ignore[import-untyped]

from django_poolkit import health
from django_poolkit.contrib.django_health_check import PoolkitHealth
from django_poolkit.health.report import Report, Result, Status

pytestmark = pytest.mark.core

CHECK = "django_poolkit.contrib.django_health_check.PoolkitHealth"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Status]:
    """How the group is, by the newest entry."""
    statuses: list[Status] = ["pass"]

    async def areport(group: str) -> Report:
        result = Result(name="db:s3same", status=statuses[-1], reason="unreachable")
        return Report(group=group, results=(result,))

    monkeypatch.setattr(health, "areport", areport)
    return statuses


@pytest.mark.parametrize(
    ("status", "warnings", "error"),
    [
        ("pass", True, None),
        ("warn", False, None),
        ("warn", True, ServiceWarning),
        ("fail", False, ServiceUnavailable),
    ],
)
def test_the_status_of_a_group(
    status: Status, warnings: bool, error: type[Exception] | None, told: list[Status]
) -> None:
    told.append(status)
    result = asyncio.run(PoolkitHealth(group="db", warnings=warnings).get_result())
    assert (type(result.error) if result.error else None) == error
    assert "s3same" not in str(result.error)


def test_a_group_that_does_not_exist() -> None:
    result = asyncio.run(PoolkitHealth(group="nonsense").get_result())
    assert isinstance(result.error, ServiceUnavailable)


def test_its_view_has_our_group_without_a_thread(
    told: list[Status], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any, *_: Any) -> Any:
        raise AssertionError("a thread was asked for")

    def ask() -> HttpResponse:
        view = HealthCheckView.as_view(checks=[CHECK, (CHECK, {"group": "live"})])
        request = AsyncRequestFactory().get("/", headers={"accept": "application/json"})
        answered: HttpResponse = asyncio.run(view(request))
        return answered

    monkeypatch.setattr(Executor, "submit", refuse)
    threads = set(threading.enumerate())
    answered = ask()
    assert answered.status_code == 200
    assert set(json.loads(answered.content).values()) == {"OK"}
    told.append("fail")
    answered = ask()
    assert answered.status_code == 500
    assert b"The group fails." in answered.content
    assert b"s3same" not in answered.content
    assert set(threading.enumerate()) <= threads
