"""A restart under who defers jobs and who runs them: `python -m tests.neighbours.jobs.restart`.

Jobs are deferred by Django's connections, and by procrastinate's own connector on the same pool.
Prints as JSON what became of them.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import Any

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.neighbours.jobs.settings"
django.setup()

import procrastinate  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import DatabaseError  # noqa: E402
from django.db import connection as default_connection  # noqa: E402
from procrastinate.contrib.django.models import ProcrastinateJob  # noqa: E402
from procrastinate.exceptions import ConnectorException  # noqa: E402

from django_poolkit import connection_pools  # noqa: E402
from django_poolkit.testing.waiting import wait_until  # noqa: E402
from tests.app.models import Item  # noqa: E402
from tests.neighbours.jobs import tasks  # noqa: E402
from tests.neighbours.restarts import through_restart  # noqa: E402
from tests.neighbours.services import PATIENCE, Service, serving  # noqa: E402
from tests.neighbours.support import ask_for_restart  # noqa: E402

connection: Any = default_connection
COMMAND = ("procrastinate", "worker", "--queues", "notes", "--concurrency", "2",
           "--fetch-job-polling-interval", "0.5")  # fmt: skip
WAITING = ("todo", "doing")

# What code without Django has: a connector of its own, on a pool that it is given.
plain = procrastinate.App(connector=procrastinate.SyncPsycopgConnector())


def write(name: str) -> None:
    """Defer a job: every other writer by Django's connection."""
    kind: Any = (tasks.note, tasks.note_soon)[name.endswith(("1", "3", "5", "7", "9"))]
    if int(name[len("writer ")]) % 2:
        plain.configure_task(kind.name, queue="notes").defer(name=name)
        return
    try:
        kind.defer(name=name)
    finally:
        connection.close()


def jobs() -> list[tuple[str, str]]:
    """Return name and status of each job."""
    found = ProcrastinateJob.objects.filter(queue_name="notes").values_list("args", "status")
    listed = [(args["name"], status) for args, status in found]
    connection.close()
    return listed


def finish(worker: Service) -> Counter[str]:
    """Wait until nothing is to be done; return how many jobs are in which state."""

    def finished() -> bool:
        worker.check()
        states = Counter(status for _, status in jobs())
        return states["todo"] == 0 and (worker.ended != [] or states["doing"] == 0)

    wait_until(finished, PATIENCE, lambda: str(Counter(status for _, status in jobs())))
    return Counter(status for _, status in jobs())


def main() -> None:
    """Run it all."""
    call_command("migrate", run_syncdb=True, interactive=False, verbosity=0)
    connection.close()
    plain.open(connection_pools["default"])
    with serving(*COMMAND) as worker:
        kept = through_restart(ask_for_restart, write, (DatabaseError, ConnectorException))
        states = finish(worker)
        found: dict[str, Any] = {"states": states, "ended": len(worker.ended)}
        status = worker.status()
        pool = status["pools"][0] if status else {}
        found["worker"] = {key: pool.get(key) for key in ("used", "waiters", "leaks")}
    every = jobs()
    found["lost"] = kept.lost([name for name, _ in every])
    found["forged"] = kept.forged([name for name, _ in every])
    written = Counter(Item.objects.values_list("name", flat=True))
    found["not done"] = [
        name for name, state in every if state == "succeeded" and not written[name]
    ]
    connection.close()
    plain.close()  # which leaves the pool alone, for it was given
    stats = connection.pool.stats()
    found["pool"] = {"used": stats.used, "waiters": stats.waiters, "leaks": stats.leaks}
    found["size"] = stats.size
    found["closed"] = connection.pool.closed
    print(json.dumps(found))


if __name__ == "__main__":
    main()
