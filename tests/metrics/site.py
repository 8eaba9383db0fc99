"""A worker with django-prometheus: `python -m tests.metrics.site`, told what to do line by line.

Each line of its input is one command; each line of its output is the answer, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

given: dict[str, Any] = json.loads(os.environ["SITE"])
if given.get("late"):
    # As a settings module does that comes too late: somebody has imported prometheus_client.
    import prometheus_client  # noqa: F401

    os.environ["PROMETHEUS_MULTIPROC_DIR"] = given["late"]

import django  # noqa: E402
from django.conf import settings  # noqa: E402

settings.configure(
    SECRET_KEY="tests only",
    ROOT_URLCONF="django_prometheus.urls",
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=[
        "django_prometheus.middleware.PrometheusBeforeMiddleware",
        "django_prometheus.middleware.PrometheusAfterMiddleware",
    ],
    DATABASES={"default": given["database"]},
    INSTALLED_APPS=["django_prometheus", "django_poolkit"],
)
django.setup()

from django.db import connection as default_connection  # noqa: E402
from django.test import Client  # noqa: E402

from django_poolkit import registry  # noqa: E402
from django_poolkit.contrib import django_prometheus  # noqa: E402

django_prometheus.register()
connection: Any = default_connection
client = Client()
reader: Any = None


def query(times: str = "1") -> int:
    """Run statements, each with a lease of its own; return the acquires of this process."""
    for _ in range(int(times)):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        connection.close()
    return int(connection.pool.stats().acquired)


def hold() -> int:
    """Keep a connection; return how many are used now."""
    connection.ensure_connection()
    return int(connection.pool.stats().used)


def remake() -> int:
    """Close the pool as Celery does, and use another; return the acquires of that."""
    connection.close_pool()
    return query("1")


def scrape() -> str:
    """Return what the page of django-prometheus shows."""
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response["Content-Type"].startswith("text/plain")
    return response.content.decode()


def pools() -> int:
    """Return how many pools there are in the process's table."""
    return len(registry.pools)


def fork(times: str) -> int:
    """Have a child run statements and end as usual; return its exit status."""
    pid = os.fork()
    if pid == 0:
        query(times)
        writes = any(thread.name == "poolkit-metrics" for thread in threading.enumerate())
        sys.exit(0 if writes else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def measure() -> None:
    """Set a meter provider, as a server's hook does after the fork."""
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    global reader
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))


def measured() -> dict[str, Any]:
    """Return what OpenTelemetry has of the pools, by name: the first point's figure."""
    data = json.loads(reader.get_metrics_data().to_json())
    [scope] = data["resource_metrics"][0]["scope_metrics"]
    assert scope["scope"]["name"] == "django_poolkit"
    points = {each["name"]: each["data"]["data_points"][0] for each in scope["metrics"]}
    return {name: point.get("count", point.get("value")) for name, point in points.items()}


COMMANDS = (query, hold, remake, scrape, pools, fork, measure, measured)


def main() -> None:
    """Answer until the input ends."""
    commands = {command.__name__: command for command in COMMANDS}
    for line in sys.stdin:
        name, *arguments = line.split()
        print(json.dumps(commands[name](*arguments)), flush=True)


if __name__ == "__main__":
    main()
