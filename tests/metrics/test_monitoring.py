"""The dashboard, the alerts and the reference speak of metrics that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from django_poolkit.metrics.families import FAMILIES, LE, merged
from tests.pools.support import make_stats

DOCS = Path(__file__).parents[2] / "docs"
DASHBOARD = json.loads((DOCS / "monitoring/grafana-dashboard.json").read_text())
ALERTS = (DOCS / "monitoring/alerts.yml").read_text()

# What Prometheus adds to each series.
TARGET = {"job", "instance"}
# Words of PromQL that are in use, and are no metric.
WORDS = {"sum", "max", "rate", "increase", "histogram_quantile", "and", "group_left"}
# Figures for which nobody looks at a dashboard.
NOT_DRAWN = {
    "poolkit_connections_min", "poolkit_standstill_seconds", "poolkit_collect_errors_total",
    "poolkit_floors_total", "poolkit_routing_decisions_total", "poolkit_slow_slices_total",
    # Those of replicas, which most projects have none of.
    "poolkit_replica_lag_seconds", "poolkit_replica_lag_bytes", "poolkit_evictions_total",
    "poolkit_read_retries_total", "poolkit_read_only", "poolkit_primary_losses_total",
    # That of what a project has to ask for.
    "poolkit_retries_total",
    # Those of shares, likewise.
    "poolkit_share_connections", "poolkit_share_connections_max", "poolkit_share_waiters",
}  # fmt: skip


def labels_of_samples() -> dict[str, set[str]]:
    """Return the labels of everything that is exposed, by its name."""
    found: dict[str, set[str]] = {}
    for family in FAMILIES:
        labels = {*family.labels, *TARGET}
        if family.kind == "histogram":
            found[f"{family.name}_bucket"] = labels | {"le"}
            found[f"{family.name}_count"] = found[f"{family.name}_sum"] = labels
        else:
            found[family.name] = labels
    return found


SAMPLES = labels_of_samples()


def fixed_words() -> dict[str, set[str]]:
    """Return what labels say that always say one of the same words, by `name{label}`."""
    figures = merged([make_stats().as_dict()])
    return {
        f"{family.name}{{{family.label}}}": {key for _, key in found}
        for family, found in figures.items()
        if family.label in ("state", "kind")
    }


def verify(expression: str) -> set[str]:
    """Fail for an expression that can find nothing. Return the metrics that it asks for."""
    expression = re.sub(r"\$__\w+|\b\d+[smh]\b", "", expression)
    asked = set()
    labels: set[str] = set()
    for name, matchers in re.findall(r"(poolkit_\w+)(?:\{(.*?)\})?", expression):
        assert name in SAMPLES, name
        asked.add(name)
        labels |= SAMPLES[name]
        for label, text in re.findall(r'(\w+)=~?"(.*?)"', matchers):
            assert label in SAMPLES[name], f"{name} has no label {label}"
            if not text.startswith("$"):
                assert text in fixed_words()[f"{name}{{{label}}}"], text
    assert asked, expression
    for names in re.findall(r"\b(?:by|on) \((.*?)\)", expression):
        assert set(names.split(", ")) <= labels, names
        assert ("le" in names.split(", ")) == ("histogram_quantile" in expression)
    rest = re.sub(r"\{.*?\}|\b(by|on) \(.*?\)", "", expression)
    assert set(re.findall(r"[A-Za-z_]\w*", rest)) - asked <= WORDS, rest
    return asked


def targets() -> list[tuple[dict[str, Any], str]]:
    return [(panel, each["expr"]) for panel in DASHBOARD["panels"] for each in panel["targets"]]


def alerts() -> dict[str, str]:
    found = re.findall(r"- alert: (\w+)\n +expr: (?:\|\n((?: {10,}.*\n)+)|(.*)\n)", ALERTS)
    assert len(found) == ALERTS.count("alert:")
    return {name: block or line for name, block, line in found}


@pytest.mark.parametrize(
    ("panel", "expression"),
    targets(),
    ids=[f"{panel['title']}-{n}" for n, (panel, _) in enumerate(targets())],
)
def test_the_dashboard_asks_for_what_is_there(panel: dict[str, Any], expression: str) -> None:
    [name, *_] = verify(expression)
    assert '{job=~"$job", pool=~"$pool"' in expression
    # Seconds are drawn as such, unless they are divided by seconds.
    if name.endswith(("_seconds", "_bucket")):
        assert panel["fieldConfig"]["defaults"]["unit"] == "s"


def test_the_dashboard_shows_every_metric() -> None:
    asked = set().union(*(verify(expression) for _, expression in targets()))
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked}
    assert shown == {family.name for family in FAMILIES} - NOT_DRAWN


def test_the_dashboard_is_whole() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = set()
    for panel in panels:
        assert panel["description"]
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert x < 24
                assert (x, y) not in places, f"{panel['title']} covers another panel"
                places.add((x, y))
    for variable in DASHBOARD["templating"]["list"][1:]:
        name, label = re.findall(r"label_values\((\w+).*, (\w+)\)", variable["definition"])[0]
        assert label in SAMPLES[name]


@pytest.mark.parametrize("name", list(alerts()))
def test_an_alert_asks_for_what_is_there(name: str) -> None:
    assert name.startswith("Poolkit")
    verify(alerts()[name])
    assert "by (job, pool" in alerts()[name]


def test_alerts_speak_of_labels_that_they_have() -> None:
    assert set(re.findall(r"\$labels\.(\w+)", ALERTS)) == {"job", "pool"}


def test_an_alert_for_slow_acquires_asks_for_a_bound_that_is_there() -> None:
    bound = re.findall(r"> ([\d.]+)$", alerts()["PoolkitSlowAcquires"].strip())
    assert bound
    assert bound[0] in LE


@pytest.mark.parametrize(
    "expression",
    [
        "poolkit_waiter",
        'poolkit_waiters{host="a"}',
        'sum by (pool) (poolkit_pools{state="stopped"})',
        "sum by (pool, reason) (poolkit_waiters)",
        "histogram_quantile(0.9, sum by (pool) (rate(poolkit_wait_seconds_bucket[5m])))",
        "sum by (pool) (rate(poolkit_wait_seconds[5m]))",
        "average(poolkit_waiters)",
        "up == 0",
    ],
)
def test_an_expression_that_can_find_nothing_is_noticed(expression: str) -> None:
    with pytest.raises((AssertionError, KeyError)):
        verify(expression)


def test_the_reference_has_every_metric_as_it_is() -> None:
    text = (DOCS / "reference/metrics.md").read_text()
    rows = re.findall(r"^\| `(poolkit_\w+)` \| (\w+) \| (.*?) \| (.*?) \| (.*?) \|$", text, re.M)
    assert [row[:4] for row in rows] == [
        (
            family.name,
            family.kind,
            ", ".join(f"`{label}`" for label in family.labels),
            {"sum": "summed", "max": "the highest"}[family.across],
        )
        for family in FAMILIES
    ]
    assert all(means for *_, means in rows)


@pytest.mark.parametrize("page", ["reference/metrics.md", "how-to/monitor-with-prometheus.md"])
def test_pages_name_metrics_that_exist(page: str) -> None:
    names = {*SAMPLES, *(family.name for family in FAMILIES)}
    assert set(re.findall(r"\bpoolkit_\w+", (DOCS / page).read_text())) <= names


def test_the_recipes_ask_for_what_is_there() -> None:
    text = (DOCS / "how-to/monitor-with-prometheus.md").read_text()
    blocks = re.findall(r"^```text\n(.*?)^```", text.split("\n## Ask\n")[1], re.M | re.S)
    assert len(blocks) > 5
    for block in blocks:
        for expression in re.split(r"\n(?=\S)", block.strip()):
            verify(expression)
