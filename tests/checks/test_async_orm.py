"""What `manage.py check` says of the ORM on the event loop."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from django.apps import apps
from django.core.files.storage import FileSystemStorage, Storage
from django.db import models
from django.test.utils import isolate_apps

from django_poolkit.aio import names
from django_poolkit.aio import orm as aio
from tests.checks.sites import Site, database

pytestmark = pytest.mark.core

SQLITE = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:", "OPTIONS": {}}


def on(**section):
    return {"ASYNC_ORM": {"ENABLED": True, **section}}


def of(site: Site, identifier: str, **changes):
    return [each for each in site.look(**changes) if each.id == identifier]


@pytest.mark.parametrize(
    "entry",
    [SQLITE, database(False), database(ENGINE="django.db.backends.postgresql"),
     database(ENGINE="no.such.engine")],
    ids=["sqlite", "unpooled", "stock", "unknown"],
)  # fmt: skip
def test_an_alias_that_no_loop_can_wait_for_has_to_be_named(site, entry):
    databases = {"default": database(), "legacy": entry}
    [error] = of(site, "poolkit.E009", databases=databases, poolkit=on())
    assert "DATABASES['legacy']" in error.msg
    assert "THREAD_ALIASES" in error.hint
    named = on(THREAD_ALIASES=["legacy"])
    assert not of(site, "poolkit.E009", databases=databases, poolkit=named)
    assert not of(site, "poolkit.E009", databases=databases, poolkit={})


def test_aliases_of_the_kit_are_served_in_either_mode(site):
    databases = {"default": database({"mode": "transaction"}), "other": database()}
    assert not of(site, "poolkit.E009", databases=databases, poolkit=on())


def test_a_name_that_a_django_has_not_got_is_told(site, monkeypatch):
    gone = names.Name(
        module="django.db.models.query", attribute="QuerySet.no_such_name",
        make=lambda original: original, reason="nothing",
    )  # fmt: skip
    monkeypatch.setattr(aio, "TABLE", (*aio.TABLE, gone))
    [warning] = of(site, "poolkit.W040", poolkit=on())
    assert "django.db.models.query.QuerySet.no_such_name" in warning.msg
    assert not of(site, "poolkit.W040", poolkit={})


def test_gevents_sockets_are_told(site, monkeypatch):
    patched = SimpleNamespace(is_module_patched=lambda name: name == "socket")
    monkeypatch.setitem(sys.modules, "gevent.monkey", patched)
    [warning] = of(site, "poolkit.W040", poolkit=on())
    assert "gevent" in warning.msg


def test_windows_is_told(site, monkeypatch):
    monkeypatch.setattr("django_poolkit.aio.starting.sys.platform", "win32")
    [warning] = of(site, "poolkit.W040", poolkit=on())
    assert "Windows" in warning.msg


def test_greenlet_that_is_missing_is_an_error(site, monkeypatch):
    monkeypatch.setattr("django_poolkit.aio.starting.find_spec", lambda name: None)
    [error] = of(site, "poolkit.E010", poolkit=on())
    assert "pip install django-poolkit[bridge]" in error.msg


def test_settings_that_cannot_be_read_are_told_once(site):
    found = site.look(poolkit={"ASYNC_ORM": {"ENABLED": True, "SLOW_SLICE": 0}})
    assert [each.id for each in found if each.id in ("poolkit.E008", "poolkit.E009")] == [
        "poolkit.E008"
    ]


@isolate_apps("tests.app")
def test_a_file_that_save_would_send_elsewhere_is_told(site, monkeypatch):
    class Remote(models.Model):
        near = models.FileField(storage=FileSystemStorage())
        scan = models.ImageField(storage=Storage())

        class Meta:
            app_label = "app"

    monkeypatch.setattr(apps, "get_models", lambda: [Remote])
    [warning] = of(site, "poolkit.W041", poolkit=on())
    assert "app.Remote.scan may upload" in warning.msg
    assert "near" not in warning.msg
    assert not of(site, "poolkit.W041", poolkit={})
