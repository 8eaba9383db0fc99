"""`manage.py check` on clusters and their router."""

from __future__ import annotations

from typing import Any

from django.core.checks import registry
from django.db import connections, router

from django_poolkit.checks.routing import check_routing


def ids() -> list[str | None]:
    return [message.id for message in check_routing()]


def test_settings_that_are_right_pass(routed):
    assert ids() == []
    registered: set[Any] = registry.registry.registered_checks
    assert check_routing in registered


def test_a_bad_section_is_told_with_its_path(routed, settings):
    settings.POOLKIT = {"CLUSTERS": {"default": {"replica": []}}}
    [message] = check_routing()
    assert message.id == "poolkit.E004"
    assert "POOLKIT['CLUSTERS']['default']['replica']" in message.msg


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


def test_it_opens_no_connection(routed: Any, servers: Any):
    before = {node: len(node.sessions()) for node in servers.nodes}
    assert ids() == []
    assert {node: len(node.sessions()) for node in servers.nodes} == before
