"""A view that holds its connection for too long, as the log tells of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory, override_settings
from django.urls import path

from django_poolkit.testing.waiting import wait_until
from django_poolkit.wsgi import PoolkitWSGI
from tests.app.models import Item

said: list[str] = []


def hoarding(request: HttpRequest, number: int) -> HttpResponse:
    """Use the database, and then do something else until somebody has complained."""
    Item.objects.count()
    wait_until(lambda: any("event=overdue " in line for line in said))
    return HttpResponse("ok")


urlpatterns = [path("hoard/<int:number>/", hoarding, name="hoard")]


def begin(status: str, headers: Any, error: Any = None, /) -> Callable[[bytes], object]:
    """Take the head of a response, as a server does."""
    assert status == "200 OK"
    return lambda data: None


class _Ear(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        said.append(record.getMessage())


def test_the_view_is_named_with_where_it_acquired(pooled: Any) -> None:
    pool = pooled(max_size=2, leak_after=0.2)
    ear = _Ear(logging.INFO)
    logger = logging.getLogger("django_poolkit.pool")
    level = logger.level
    logger.addHandler(ear)
    logger.setLevel(logging.INFO)
    said.clear()
    try:
        with override_settings(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"]):
            environ = RequestFactory().get("/hoard/7/?token=secret").environ
            answer = PoolkitWSGI(WSGIHandler())(environ, begin)
            assert b"".join(answer) == b"ok"
            answer.close()  # type: ignore[attr-defined]
    finally:
        logger.removeHandler(ear)
        logger.setLevel(level)
    [overdue] = [line for line in said if "event=overdue " in line]
    assert "where=GET hoard" in overdue
    assert "statement=SELECT" in overdue
    assert "hoarding" in overdue  # the stack
    assert "secret" not in overdue
    assert len([line for line in said if "event=overdue_returned" in line]) == 1
    assert (pool.stats().overdue, pool.stats().used, pool.stats().leaks) == (1, 0, 0)
