"""One alias that leads to both replicas: a scope reads one of them."""

from __future__ import annotations

import collections
import contextvars
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection, connections

from django_poolkit.backends import ports
from django_poolkit.backends.request import RequestScope, entered
from django_poolkit.routing import choice, scope
from tests.app.models import Item
from tests.routing.conftest import entry


@pytest.fixture(params=["session", "transaction"])
def hosts(request: Any, paused: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The alias `replica` leads to both; their answers differ by what they have last replayed."""
    monkeypatch.setattr(ports, "choose_host", choice.host_for)
    first, second = paused.replicas
    second.resume_replay()
    paused.primary.execute("INSERT INTO app_item (name, created) VALUES ('new', now())")
    paused.primary.wait_caught_up(second)
    connections["replica"].close()
    del connections["replica"]
    places = {name: {"HOST": node.host, "PORT": node.port} for name, node in
              (("old", first), ("new", second))}  # fmt: skip
    options = {"pool": {"max_size": 8, "mode": request.param}, "hosts": places}
    connections.settings["replica"] = entry(first, OPTIONS=options)
    return paused


def count() -> int:
    """Return 1 where the first host answers, 2 where the second does."""
    found = Item.objects.count()
    connections["replica"].close()  # so that each read acquires
    return found


def test_a_scope_reads_one_host_and_all_scopes_both(hosts):
    found: collections.Counter[int] = collections.Counter()
    for number in range(40):
        with scope() if number % 2 else entered(RequestScope(method="GET")):
            answers = {count() for _ in range(5)}
            with ThreadPoolExecutor(1) as pool:
                answers.add(pool.submit(contextvars.copy_context().run, count).result())
            assert len(answers) == 1  # nobody goes back in time
            found.update(answers)
    assert set(found) == {1, 2}


def test_a_host_that_is_down_costs_no_error(hosts):
    hosts.replicas[0].stop()
    try:
        for _ in range(10):
            with scope():
                assert {count() for _ in range(3)} == {2}
    finally:
        connections["replica"].close()
        hosts.replicas[0].start()
        hosts.replicas[0].wait_streaming()


def test_what_the_scope_has_written_is_the_primarys(hosts):
    with scope():
        Item.objects.create(name="newer")
        assert Item.objects.count() == 3
    connection.close()
