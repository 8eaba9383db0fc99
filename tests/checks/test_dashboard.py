"""A dashboard that is included, and cannot be shown, is found."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import include, path

from tests.checks.sites import Site

OURS = path("admin/poolkit/", include("django_poolkit.dashboard.urls"))


def catch_all(request: HttpRequest, rest: str) -> HttpResponse:
    """Stand for the admin, which takes every address below its own."""
    return HttpResponse(rest)


ADMIN = path("admin/<path:rest>", catch_all)
ALL = [
    "django.contrib.admin",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django_poolkit.dashboard",
]


def urls(*patterns: Any) -> Any:
    module: Any = ModuleType("urls_of_a_site")
    module.urlpatterns = list(patterns)
    return module


@pytest.fixture
def whole() -> dict[str, Any]:
    """Settings of a site that has all it needs."""
    return {
        "INSTALLED_APPS": [*settings.INSTALLED_APPS, *ALL],
        "ROOT_URLCONF": urls(OURS, ADMIN),
    }


def test_nothing_is_said_where_it_can_be_shown(site: Site, whole: dict[str, Any]) -> None:
    assert site.ids(deploy=False, **whole) == []


def test_nothing_is_said_of_a_site_without_it(site: Site) -> None:
    assert site.ids(deploy=False, ROOT_URLCONF=urls()) == []


def test_e015_names_the_apps_that_are_missing(site: Site) -> None:
    # Of those that are here none is the dashboard's own: its URLs are loaded all the same.
    [found] = site.look(deploy=False, ROOT_URLCONF=urls(OURS))
    assert found.id == "poolkit.E015"
    assert "lacks django.contrib.admin, django_poolkit.dashboard." in found.msg


def test_w045_finds_what_takes_its_address(site: Site, whole: dict[str, Any]) -> None:
    whole["ROOT_URLCONF"] = urls(ADMIN, OURS)
    [found] = site.look(deploy=False, **whole)
    assert found.id == "poolkit.W045"
    assert "/admin/poolkit/" in found.msg
