"""OpenTelemetry, by its own SDK."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.metrics import db_metrics

from django_poolkit.metrics.otel import Instruments, Telemetry, note_wait
from django_poolkit.metrics.readings import Readings
from django_poolkit.pools.events import Events
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.postgres.errors import PoolTimeout
from django_poolkit.pools.stats import BUCKETS
from django_poolkit.testing.waiting import wait_until
from tests.metrics.conftest import Worker
from tests.pools.support import fill, queue_up

MakePool = Callable[..., ConnectionPool]
PREFIX = "db.client.connection."
POOL = "db.client.connection.pool.name"


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


@pytest.fixture
def provider(reader: InMemoryMetricReader) -> Iterator[MeterProvider]:
    provider = MeterProvider([reader])
    yield provider
    provider.shutdown()


def exported(reader: InMemoryMetricReader) -> dict[str, dict[str, Any]]:
    """Return what would be sent, by name without the prefix."""
    data = json.loads(reader.get_metrics_data().to_json())  # type: ignore[union-attr]
    [scope] = data["resource_metrics"][0]["scope_metrics"]
    return {each["name"].removeprefix(PREFIX): each for each in scope["metrics"]}


def figures(metric: dict[str, Any]) -> dict[str, Any]:
    """Return a metric's values, or its histogram's counts, by state."""
    found = {}
    for point in metric["data"]["data_points"]:
        assert point["attributes"].pop(POOL) == "default"
        state = point["attributes"].pop(f"{PREFIX}state", "")
        assert not point["attributes"]
        found[state] = point.get("count", point.get("value"))
    return found


def test_it_is_the_semantic_conventions_one_for_one(
    make_pool: MakePool, provider: MeterProvider, reader: InMemoryMetricReader
) -> None:
    pool = make_pool(name="default", max_size=1, min_size=0)
    Instruments(provider.get_meter("test"), pool.events, Readings([pool]))
    fill(pool, 1)
    lease = pool.acquire()
    second = queue_up(pool, lambda: pool.acquire().release())
    wait_until(lambda: pool.stats().oldest_waiter > 0.1)
    during = exported(reader)
    lease.release()
    second.result()
    with pool.lease(), pytest.raises(PoolTimeout):
        pool.acquire(timeout=0.01)
    after = exported(reader)

    assert {PREFIX + name for name in after} == {
        getattr(db_metrics, name)
        for name in vars(db_metrics)
        if name.startswith("DB_CLIENT_CONNECTION_")
    }
    assert figures(during["count"]) == {"idle": 0, "used": 1}
    assert figures(during["pending_requests"]) == {"": 1}
    assert figures(after["count"]) == {"idle": 1, "used": 0}
    assert figures(after["max"]) == figures(after["idle.max"]) == {"": 1}
    assert figures(after["idle.min"]) == {"": 0}
    assert figures(after["timeouts"]) == {"": 1}
    assert figures(after["create_time"]) == {"": 1}
    assert figures(after["wait_time"]) == figures(after["use_time"]) == {"": 4}
    for name in "create_time", "wait_time", "use_time":
        assert after[name]["unit"] == "s"
        [point] = after[name]["data"]["data_points"]
        assert point["explicit_bounds"] == list(BUCKETS)
    [waits] = after["wait_time"]["data"]["data_points"]
    assert 0.1 < waits["max"] < 60
    kinds = {name: metric["data"].get("is_monotonic") for name, metric in after.items()}
    assert kinds["timeouts"] is True
    assert kinds["count"] is False
    units = {metric["unit"] for metric in after.values()}
    assert units == {"s", "{connection}", "{request}", "{timeout}"}


def test_without_a_provider_no_lease_is_told_of() -> None:
    events = Events()
    telemetry = Telemetry(events)
    telemetry.start()
    assert events.of_leases == ()


def test_with_a_provider_instruments_are_made_once(
    monkeypatch: pytest.MonkeyPatch, provider: MeterProvider
) -> None:
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: provider)
    events = Events()
    telemetry = Telemetry(events)
    for _ in range(2):
        telemetry.start()
    assert len(events.of_leases) == 1


def test_a_wait_is_on_the_span_of_who_waited(make_pool: MakePool) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    pool = make_pool(name="default", max_size=1)
    fill(pool, 1)
    Telemetry(pool.events)

    def view() -> None:
        with tracer.start_as_current_span("view"):
            pool.acquire().release()

    view()
    lease = pool.acquire()
    waiting = queue_up(pool, view)
    wait_until(lambda: pool.stats().oldest_waiter > 0.05)
    lease.release()
    waiting.result()
    at_once, waited = exporter.get_finished_spans()
    assert at_once.events == ()
    [event] = waited.events
    assert event.name == "db.client.connection.wait"
    assert event.attributes is not None
    assert event.attributes[POOL] == "default"
    seconds = event.attributes["db.client.connection.wait_time"]
    assert isinstance(seconds, float)
    assert 0.05 < seconds < 60
    provider.shutdown()


def test_a_wait_that_nobody_traces_asks_for_no_span(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    get_current_span = trace.get_current_span

    def ask(context: Any) -> trace.Span:
        asked.append(context)
        return get_current_span(context)

    monkeypatch.setattr(trace, "get_current_span", ask)
    wait = {"pool": "default", "seconds": 0.1}
    note_wait("lease_waited", wait)
    assert not asked
    with trace.use_span(trace.NonRecordingSpan(trace.INVALID_SPAN_CONTEXT)):
        note_wait("lease_waited", wait)
    assert len(asked) == 1


def test_a_provider_that_is_set_before_the_first_query_gets_the_figures(
    start: Callable[..., Worker],
) -> None:
    worker = start()
    worker.ask("measure")
    worker.ask("query 3")
    found = worker.ask("measured")
    assert found["db.client.connection.max"] == 4
    assert found["db.client.connection.wait_time"] == 3
    assert found["db.client.connection.use_time"] == 3
    assert found["db.client.connection.create_time"] == 1
    worker.end()
