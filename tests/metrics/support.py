"""Figures to measure, and what was exposed of them, as prometheus_client's parser reads it."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from django_poolkit.pools.stats import PoolStats
from tests.pools.support import make_stats

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class ScriptedPool:
    """Says of itself what it is told to."""

    def __init__(self, **changes: Any) -> None:
        self.name: str = changes.get("name", "default")
        self.says: PoolStats | Exception = make_stats(**changes)

    def stats(self) -> PoolStats:
        """Return what was last set, or raise it."""
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


def parsed(text: str) -> Samples:
    """Return the samples of an exposition. Raises ValueError for one that is none."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float | None:
    """Return one sample, None where it is not there. Of the pool `default` if not told."""
    return samples.get((name, frozenset({"pool": "default", **labels}.items())))


def counters(samples: Samples) -> Samples:
    """Return the samples that may only grow."""
    growing = ("_total", "_bucket", "_count", "_sum")
    return {key: number for key, number in samples.items() if key[0].endswith(growing)}


def assert_grown(before: Samples, after: Samples) -> None:
    """Fail where a counter went back or was lost."""
    for key, number in counters(before).items():
        assert after[key] >= number, key
