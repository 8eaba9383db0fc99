"""Requests that wait for somebody else between their statements."""

from __future__ import annotations

import threading

from django.db import connection

from tests.app.models import Item
from tests.pools.support import Call
from tests.scenarios.conftest import NAME

REQUESTS = 100
CONNECTIONS = 4


def test_a_hundred_requests_that_wait_for_an_api_share_four_connections(pooled, primary):
    pool = pooled(mode="transaction", max_size=CONNECTIONS, timeout=30.0)
    all_there = threading.Barrier(REQUESTS + 1)
    answered = threading.Event()

    def request() -> int:
        try:
            Item.objects.create(name="asked")
            all_there.wait(60.0)
            assert answered.wait(60.0)  # the API
            return Item.objects.filter(name="asked").count()
        finally:
            connection.close()

    calls = [Call(request) for _ in range(REQUESTS)]
    # With a connection each, the fifth would not get here before the first is done.
    all_there.wait(60.0)
    stats = pool.stats()
    assert (stats.used, stats.waiters) == (0, 0)
    assert stats.size <= CONNECTIONS
    answered.set()
    assert [call.result(60.0) for call in calls] == [REQUESTS] * REQUESTS
    stats = pool.stats()
    assert (stats.used, stats.timeouts, stats.pins) == (0, 0, {})
    assert len(primary.sessions(NAME)) <= CONNECTIONS
