"""A collector for prometheus_client: shows the pools of this process when it is asked."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from django_poolkit.metrics.families import FAMILIES, LE, Family, Series, cumulative
from django_poolkit.metrics.readings import Readings, readings
from django_poolkit.metrics.statuses import Value


class PoolCollector(Collector):
    """Reads the pools of this process at each scrape; opens none, sends nothing."""

    def __init__(self, source: Readings = readings) -> None:
        self._source = source

    def describe(self) -> Iterator[Metric]:
        """Yield the names. Without them, a registry collects as it registers."""
        for family in FAMILIES:
            yield _metric(family, {})

    def collect(self) -> Iterator[Metric]:
        """Yield the figures of this moment."""
        for family, found in self._source.take().items():
            yield _metric(family, found)


def _metric(family: Family, found: dict[Series, Value]) -> Metric:
    metric: Metric
    if family.kind == "histogram":
        metric = histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for series, value in found.items():
            buckets = list(zip(LE, cumulative(value), strict=True))
            histogram.add_metric(family.values(series), buckets, sum_value=value[-1])
        return metric
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = single = kind(family.name, family.help, labels=family.labels)
    for series, [number] in found.items():
        single.add_metric(family.values(series), number)
    return metric


_registered: weakref.WeakKeyDictionary[CollectorRegistry, PoolCollector] = (
    weakref.WeakKeyDictionary()
)
_lock = threading.Lock()


def register(registry: CollectorRegistry = REGISTRY) -> PoolCollector:
    """Put a collector on a registry, the default one if not told otherwise, and return it.

    Returns the one that is there where this has been done before. Opens nothing.
    """
    with _lock:
        if registry not in _registered:
            collector = PoolCollector()
            registry.register(collector)
            _registered[registry] = collector
        return _registered[registry]
