"""Which share Django's connections count against: of a view, a command, a task, or by hand."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import override_settings
from django.urls import include, path, set_urlconf

from django_poolkit import share
from django_poolkit.backends import labels
from django_poolkit.backends import request as requests
from django_poolkit.backends.request import RequestScope, entered
from tests.app.models import Item


def view(asked: Any) -> HttpResponse:
    """Stand for a view."""
    return HttpResponse()


# Django takes a list of patterns for a URL configuration, and anything that can be compared.
Urls: Any = (
    path("shop/", include(([path("report/", view, name="report")], "shop"))),
    path("nameless/", view),
)
OtherUrls: Any = (path("shop/report/", view, name="elsewhere"),)


@pytest.fixture(autouse=True)
def urls() -> Any:
    """Have these be the site's."""
    with override_settings(ROOT_URLCONF=Urls):
        yield


@pytest.fixture
def pool(pooled: Any) -> Any:
    """A pool with shares."""
    return pooled(max_size=4, shares={"shop:report": 0.25, "by hand": 0.5, "import": 0.5})


def leased_by(pool: Any) -> dict[str, int]:
    """Return what the lease of an iterator counts against."""
    Item.objects.create(name="one")
    rows = Item.objects.iterator()
    next(rows)
    found = {name: each.used for name, each in pool.stats().shares.items() if each.used}
    assert list(rows) == []
    return found


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_request_counts_against_its_view(pooled, mode):
    pool = pooled(mode=mode, max_size=4, shares={"shop:report": 0.25, "by hand": 0.5})
    with entered(RequestScope(method="GET", path="/shop/report/")):
        assert leased_by(pool) == {"shop:report": 1}


@pytest.mark.django_db(transaction=True)
def test_what_is_named_by_hand_comes_first(pool):
    with entered(RequestScope(method="GET", path="/shop/report/")), share("by hand"):
        assert leased_by(pool) == {"by hand": 1}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("where", ["/nameless/", "/nowhere/"])
def test_a_view_without_a_name_counts_against_none(pool, where):
    with entered(RequestScope(method="GET", path=where)):
        assert leased_by(pool) == {}


@pytest.mark.django_db(transaction=True)
def test_a_command_counts_against_its_name(pool, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["manage.py", "import", "secret.csv"])
    assert leased_by(pool) == {"import": 1}


def test_a_view_is_looked_up_once_for_each_configuration(monkeypatch):
    scope = RequestScope(method="GET", path="/shop/report/")
    asked: list[Any] = []
    resolve: Any = vars(requests)["resolve"]

    def counted(*args: Any) -> Any:
        asked.append(args)
        return resolve(*args)

    monkeypatch.setattr(requests, "resolve", counted)
    assert [scope.view(), scope.view()] == ["shop:report"] * 2
    set_urlconf(OtherUrls)
    try:
        assert [scope.view(), scope.view()] == ["elsewhere"] * 2
    finally:
        set_urlconf(None)
    assert len(asked) == 2


def test_a_program_without_commands_has_no_name(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/gunicorn", "site.wsgi"])
    assert labels.of_caller() is None
