"""Three workers of gunicorn, on the page of django-prometheus."""

from __future__ import annotations

from typing import Any

from django_poolkit.testing import Node
from django_poolkit.testing.waiting import wait_until
from tests.metrics.support import Samples, parsed, value
from tests.servers.conftest import Deploy
from tests.servers.project import PATIENCE
from tests.servers.serving import Site, kill, serve

# Each second the figures are written; more of them for a machine that is busy.
INTERVAL = 10.0


def shown(site: Site) -> Samples:
    reply = site.client.get("/metrics")
    assert reply.status == 200
    site.project.said["metrics"] = reply.body
    return parsed(reply.body)


def gauges(samples: Samples) -> dict[str, Any]:
    states = {
        state: value(samples, "poolkit_connections", state=state)
        for state in ("idle", "used", "connecting")
    }
    return states | {
        "max_size": value(samples, "poolkit_connections_max"),
        "waiters": value(samples, "poolkit_waiters"),
        "processes": value(samples, "poolkit_pools", state="open"),
    }


def counters(samples: Samples) -> dict[str, Any]:
    return {
        "acquired": value(samples, "poolkit_acquires_total"),
        "waited": value(samples, "poolkit_waits_total"),
        "connects": value(samples, "poolkit_connects_total"),
        "timeouts": value(samples, "poolkit_timeouts_total"),
    }


def test_the_page_shows_the_sums_of_poolstatus_and_forgets_the_gauges_of_the_dead(
    database: Node, deploy: Deploy
) -> None:
    project = deploy(database, {"mode": "transaction", "max_size": 4})
    folder = project.home / "metrics"
    folder.mkdir()
    with serve(project, "gthread", 3, "--preload", PROMETHEUS_MULTIPROC_DIR=str(folder)) as site:
        workers = site.workers()
        wait_until(site.is_quiet, PATIENCE)
        [total] = project.status()["totals"]
        assert total["processes"] == 3
        assert total["idle"] == total["connects"] >= 3
        assert total["acquired"] >= 12

        def as_total() -> bool:
            samples = shown(site)
            found = gauges(samples) | counters(samples)
            waits = value(samples, "poolkit_wait_seconds_count")
            uses = value(samples, "poolkit_use_seconds_count")
            return bool(found.items() <= total.items() and waits == uses == found["acquired"])

        wait_until(as_total, INTERVAL, lambda: f"{total}\n{project.said['metrics']}", interval=0.1)

        kill(min(workers))
        [left] = project.status()["totals"]
        assert left["processes"] == 2
        wait_until(
            lambda: gauges(shown(site)).items() <= left.items(),
            INTERVAL,
            lambda: f"{left}\n{project.said['metrics']}",
            interval=0.1,
        )
        # What it did before has been done.
        assert counters(shown(site)).items() <= total.items()
