"""`manage.py check` on clusters and their router."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.checks import registry
from django.db import connections, router

from django_poolkit.checks.routing import check_routing
from django_poolkit.middleware import PoolkitMiddleware

OURS = "django_poolkit.middleware.PoolkitMiddleware"
SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"


class Derived(PoolkitMiddleware):
    pass


@pytest.fixture(autouse=True)
def middleware(settings: Any) -> None:
    """Ours, first."""
    settings.MIDDLEWARE = [OURS, SESSIONS]


def ids() -> list[str | None]:
    return [message.id for message in check_routing()]


def test_settings_that_are_right_pass(routed):
    assert ids() == []
    registered: set[Any] = registry.registry.registered_checks
    assert check_routing in {getattr(check, "__wrapped__", None) for check in registered}


def test_a_bad_section_is_told_with_its_path(routed, settings):
    settings.POOLKIT = {"CLUSTERS": {"default": {"replica": []}}}
    [message] = check_routing()
    assert message.id == "poolkit.E004"
    assert "POOLKIT['CLUSTERS']['default']['replica']" in message.msg


def test_an_alias_that_is_none_is_told(routed, settings):
    settings.POOLKIT = {"CLUSTERS": {"default": {"replicas": ["replcia"]}}}
    [message] = check_routing()
    assert message.id == "poolkit.E004"
    assert "['replicas'][0] is 'replcia', which is no alias of DATABASES" in message.msg


def test_no_view_is_to_open_a_transaction_on_a_replica(routed):
    connections.settings["replica"]["ATOMIC_REQUESTS"] = True
    [message] = check_routing()
    assert message.id == "poolkit.E005"
    assert "DATABASES['replica']['ATOMIC_REQUESTS']" in message.msg


def test_views_in_transactions_of_the_primary_read_no_replica(routed, settings):
    connections.settings["default"]["ATOMIC_REQUESTS"] = True
    [message] = check_routing()
    assert message.id == "poolkit.W005"
    assert "['default']['atomic_requests'] to 'replica'" in str(message.hint)
    for entry in ({"replicas": ["replica"], "atomic_requests": "replica"}, {}):
        settings.POOLKIT = {"CLUSTERS": {"default": entry}}
        assert ids() == []


def test_replicas_want_a_router(routed, settings, monkeypatch):
    monkeypatch.setattr(router, "routers", [])
    [message] = check_routing()
    assert message.id == "poolkit.W006"
    assert "django_poolkit.routing.ReadWriteRouter" in str(message.hint)
    settings.POOLKIT = {"CLUSTERS": {"default": {}}}
    assert ids() == []


def test_a_bad_section_of_routing_is_told_with_its_path(routed, settings):
    settings.POOLKIT = {**settings.POOLKIT, "ROUTING": {"WAIT": -1}}
    [message] = check_routing()
    assert message.id == "poolkit.E006"
    assert "POOLKIT['ROUTING']['WAIT']" in message.msg


def test_replicas_want_the_middleware_first(routed, settings):
    settings.MIDDLEWARE = [SESSIONS]
    [message] = check_routing()
    assert message.id == "poolkit.W007"
    assert OURS in str(message.hint)
    settings.MIDDLEWARE = [SESSIONS, OURS, "no.such.thing"]
    [message] = check_routing()
    assert message.id == "poolkit.W008"
    assert SESSIONS in message.msg
    settings.MIDDLEWARE = [f"{__name__}.Derived", SESSIONS]
    assert ids() == []
    settings.MIDDLEWARE = []
    settings.POOLKIT = {"CLUSTERS": {"default": {}}}
    assert ids() == []


def test_no_cookie_of_djangos_may_look_like_ours(routed, settings):
    settings.SESSION_COOKIE_NAME = "poolkit_floor"
    assert ids() == []
    settings.SESSION_COOKIE_NAME = "poolkit_floor_cafe"
    [message] = check_routing()
    assert message.id == "poolkit.E007"
    assert "SESSION_COOKIE_NAME" in message.msg
    settings.POOLKIT = {**settings.POOLKIT, "ROUTING": {"COOKIE": None}}
    assert ids() == []


@pytest.mark.parametrize(
    ("backend", "told"),
    [
        ("locmem.LocMemCache", "of one process"),
        ("dummy.DummyCache", "keeps nothing"),
        ("db.DatabaseCache", "in a database"),
        (None, "no such cache"),
        ("redis.RedisCache", None),
    ],
)
def test_the_cache_has_to_be_there_for_all(routed, settings, backend, told):
    entry = {"BACKEND": f"django.core.cache.backends.{backend}"}
    settings.CACHES = {} if backend is None else {"floors": entry}
    assert ids() == []
    settings.POOLKIT = {**settings.POOLKIT, "ROUTING": {"CACHE": "floors"}}
    found = list(check_routing())
    assert [message.id for message in found] == ([] if told is None else ["poolkit.W009"])
    assert all(told in message.msg for message in found if told)


def test_it_opens_no_connection(routed: Any, servers: Any):
    before = {node: len(node.sessions()) for node in servers.nodes}
    assert ids() == []
    assert {node: len(node.sessions()) for node in servers.nodes} == before
