"""The start of the ORM on the loop: as the settings have it, or not at all, and said so."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_poolkit.aio import names, orm, starting
from django_poolkit.pools.bridge import driver

pytestmark = pytest.mark.core


@pytest.fixture(autouse=True)
def undone() -> Iterator[None]:
    """Leave Django as it was."""
    yield
    orm.uninstall()


def start(**section: Any) -> None:
    with override_settings(POOLKIT={"ASYNC_ORM": section}):
        starting.start()


def test_nothing_is_done_unasked() -> None:
    start()
    start(ENABLED=False, SLOW_SLICE=1.0)
    assert not orm.installed()
    assert driver.watch is None


def test_it_is_done_as_the_settings_have_it() -> None:
    start(ENABLED=True, THREAD_ALIASES=["default"], SLOW_SLICE=0.5)
    assert orm.installed()
    assert orm._placing.left == {"default"}
    watch: Any = driver.watch
    assert watch.threshold == 0.5
    orm.uninstall()
    assert driver.watch is None


def test_slices_are_not_looked_at_where_nobody_wants_to_know() -> None:
    start(ENABLED=True, SLOW_SLICE=None)
    assert orm.installed()
    assert driver.watch is None


def test_a_missing_name_is_logged_and_leaves_django_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    missing = names.Name(
        module="django.db.models.query", attribute="no_such_name", make=lambda it: it, reason=""
    )
    monkeypatch.setattr(orm, "TABLE", (*orm.TABLE, missing))
    start(ENABLED=True)
    assert not orm.installed()
    [record] = caplog.records
    assert (record.name, record.levelno) == ("django_poolkit.aio", logging.ERROR)
    assert record.message.startswith("event=async_orm_off reason=")
    assert "django.db.models.query.no_such_name" in record.message


def test_gevents_sockets_leave_django_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    patched = SimpleNamespace(is_module_patched=lambda name: True)
    monkeypatch.setitem(sys.modules, "gevent.monkey", patched)
    start(ENABLED=True)
    assert not orm.installed()
    assert "gevent" in caplog.text


def test_greenlet_that_is_missing_refuses_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "find_spec", lambda name: None)
    with pytest.raises(ImproperlyConfigured, match="pip install django-poolkit\\[bridge\\]"):
        start(ENABLED=True)
    start(ENABLED=False)
