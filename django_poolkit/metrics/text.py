"""The figures of several processes in Prometheus' text format. Needs no library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django_poolkit.metrics.families import LE, Family, Series, cumulative, merged
from django_poolkit.metrics.statuses import Value


def exposition(processes: Iterable[Mapping[str, Any]]) -> str:
    """Return the answers to `status` of several processes as one: summed, or the highest of them.

    Its counters are those of the processes that were asked: one that has ended takes its counts
    with it, which looks like a restart to Prometheus, and is one.
    """
    figures = merged(status for process in processes for status in process["pools"])
    lines: list[str] = []
    for family, found in figures.items():
        if found:
            lines += (f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}")
        for series, value in found.items():
            lines += _samples(family, series, value)
    return "".join(f"{line}\n" for line in lines)


def _samples(family: Family, series: Series, value: Value) -> Iterator[str]:
    labels = ",".join(
        f'{name}="{_escaped(text)}"'
        for name, text in zip(family.labels, family.values(series), strict=True)
    )
    if family.kind != "histogram":
        yield f"{family.name}{{{labels}}} {value[0]!r}"
        return
    for le, count in zip(LE, cumulative(value), strict=True):
        yield f'{family.name}_bucket{{{labels},le="{le}"}} {count!r}'
    yield f"{family.name}_count{{{labels}}} {sum(value[:-1])!r}"
    yield f"{family.name}_sum{{{labels}}} {value[-1]!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
