"""The page of django-prometheus, as it is: with our ENGINE, and with its own under our mixin."""

from __future__ import annotations

import sys
from collections.abc import Callable

import django
import django_prometheus
import pytest

from tests.metrics.conftest import Worker
from tests.metrics.support import assert_grown, value

pytestmark = pytest.mark.core

Start = Callable[..., Worker]


def test_each_of_its_versions_has_a_leg() -> None:
    # 2.5 refuses Django 6.1, and wraps cursors by another way than 2.4. The environments of
    # Python 3.13 have 2.4 whatever their Django.
    new = django.VERSION < (6, 1) and sys.version_info < (3, 13)
    assert django_prometheus.__version__.startswith("2.5" if new else "2.4")


def test_its_page_shows_the_pools_and_opens_none(start: Start) -> None:
    worker = start()
    samples = worker.scrape()
    assert not any(name.startswith("poolkit_") for name, _ in samples)
    assert worker.ask("pools") == 0
    worker.ask("query 3")
    before = worker.scrape()
    assert value(before, "poolkit_acquires_total") == 3
    assert value(before, "poolkit_connections", state="idle") == 1
    assert value(before, "poolkit_connections_max") == 4
    assert value(before, "poolkit_wait_seconds_count") == 3
    assert value(before, "poolkit_collect_errors_total") == 0
    # A pool that was closed and made anew, as Celery does between tasks.
    worker.ask("remake")
    after = worker.scrape()
    assert value(after, "poolkit_acquires_total") == 4
    assert value(after, "poolkit_closed_total", reason="pool_closed") == 1
    assert_grown(before, after)
    # What it shows of itself is there as ever.
    assert ("django_http_requests_before_middlewares_total", frozenset()) in after
    assert worker.end() == ""


def test_its_own_figures_go_on_with_its_engine_under_our_mixin(start: Start) -> None:
    worker = start(engine="tests.neighbours.instruments.engine")
    worker.ask("query 5")
    samples = worker.scrape()
    theirs = frozenset({("alias", "default"), ("vendor", "postgresql")})
    assert samples["django_db_execute_total", theirs] == 5
    assert value(samples, "poolkit_acquires_total") == 5
    assert value(samples, "poolkit_connects_total") == 1
    assert worker.end() == ""
