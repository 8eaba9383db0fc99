"""When a process begins to look at its servers: as it starts, or else at their first use."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.db import connections

from django_poolkit.conf.lifespan import lifespan_config
from django_poolkit.lifespan import builtin
from django_poolkit.routing import is_read_only, joining, scopes
from django_poolkit.routing.monitor import Monitor, monitor
from tests.app.models import Item


@pytest.fixture
def started(routed: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The servers, with a monitor that may begin."""
    monkeypatch.setattr(monitor, "start", lambda: Monitor.start(monitor))
    monitor.forget()
    monitor.looked.clear()
    yield routed
    monitor.close(10.0)
    monitor.forget()


def looks() -> bool:
    return monitor.started


def test_a_server_that_starts_waits_for_the_first_look(started):
    started.primary.stop()
    try:

        async def serve() -> bool:
            async with builtin._watching():
                assert monitor.looked.is_set()
                return is_read_only()  # known before anybody has asked for anything

        assert asyncio.run(serve())
        assert not monitor.started  # it ends with the server
    finally:
        started.primary.start()
        for node in started.replicas:
            node.wait_streaming()


def test_it_is_one_of_the_resources_where_there_is_something_to_look_at(started, settings):
    assert "routing:watch" in [each.name for each in builtin.builtin(lifespan_config())]
    clusters = {"default": {"replicas": ["replica"], "watch": False}}
    settings.POOLKIT = {**settings.POOLKIT, "CLUSTERS": clusters}
    assert "routing:watch" not in [each.name for each in builtin.builtin(lifespan_config())]


def test_who_only_writes_begins_to_look_too_but_for_commands(started, settings):
    joining.note_write("replica")
    assert not looks()
    with scopes.CommandBlock():
        joining.note_write("default")
    assert not looks()
    Item.objects.create(name="new")
    assert looks()
    connections["default"].close()
