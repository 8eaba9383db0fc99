"""Metrics: the figures of all pools, for Prometheus and OpenTelemetry."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from django_poolkit import registry
from django_poolkit.metrics.readings import readings


def install() -> None:
    """Have the pools of this process measured by whatever is installed for it.

    Called by the app as Django starts. Opens nothing, starts no thread, and imports nothing that
    is not installed. May be called again.

    With prometheus_client a collector is put on its default registry; and once a pool opens while
    the environment has PROMETHEUS_MULTIPROC_DIR, a thread writes there. With opentelemetry-api
    waits are put on the spans that are recorded; and once a pool opens while a meter provider is
    set, its instruments are made.
    """
    events = registry.pools.events
    if readings.watch in events.before_open:
        return
    starts: list[Callable[[Any], None]] = []
    if find_spec("prometheus_client"):
        from django_poolkit.metrics import collector, multiprocess

        collector.register()
        starts.append(multiprocess.writer.start)
    if find_spec("opentelemetry") and find_spec("opentelemetry.metrics"):
        from django_poolkit.metrics.otel import Telemetry

        starts.append(Telemetry(events).start)
    if starts:
        events.before_open += (readings.watch, *starts)
