"""Tasks in the database, and `db_worker`: `python -m tests.neighbours.tasks.drive`.

Prints as JSON what became of them, and of the leases that the worker took.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import Any

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.neighbours.tasks.settings"
django.setup()

from django.conf import settings  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import OperationalError, transaction  # noqa: E402
from django.db import connection as default_connection  # noqa: E402
from django_tasks_db.models import DBTaskResult  # noqa: E402

from django_poolkit.testing.waiting import wait_until  # noqa: E402
from tests.app.models import Item  # noqa: E402
from tests.neighbours.restarts import through_restart  # noqa: E402
from tests.neighbours.services import PATIENCE, Service, serving  # noqa: E402
from tests.neighbours.support import ask_for_restart, locked  # noqa: E402
from tests.neighbours.tasks import tasks  # noqa: E402

connection: Any = default_connection
TASKS = 10
COMMAND = ("db_worker", "--interval", "0.2", "--no-startup-delay", "-v", "0")


def states() -> Counter[str]:
    """Return how many tasks are in which state, holding nothing afterwards."""
    found = Counter(DBTaskResult.objects.values_list("status", flat=True))
    connection.close()
    return found


def finish(worker: Service) -> Counter[str]:
    """Wait until nothing is to be done; return the states."""

    def finished() -> bool:
        worker.check()
        return states()["READY"] == 0 and (worker.ended != [] or states()["RUNNING"] == 0)

    wait_until(finished, PATIENCE, lambda: str(states()), interval=0.05)
    return states()


def idle(worker: Service) -> bool:
    """Return whether the worker comes to hold nothing, and not only for a moment."""
    zeros = 0

    def many() -> bool:
        nonlocal zeros
        status = worker.status()
        zeros = zeros + 1 if status and status["pools"][0]["used"] == 0 else 0
        return zeros == 5

    return wait_until(many, PATIENCE)


def named(worker: Service) -> str:
    """Return where a task's lease is; the server is restarted under it."""
    with locked(settings.DATABASES["default"], tasks.LOCK) as waiters:
        tasks.wait.enqueue()
        connection.close()

        def waiting() -> list[Any]:
            # Not any that is active: the worker looks for work in between. Who waits goes on to.
            backends = waiters()
            status = worker.status() or {"leases": []}
            return [each for each in status["leases"] if each["backend_pid"] in backends]

        (lease,) = wait_until(waiting, PATIENCE)
        ask_for_restart()
    return str(lease["where"])


def run() -> dict[str, Any]:
    """Run it all."""
    connection.close()
    found: dict[str, Any] = {"at once": tasks.look.enqueue().return_value}
    connection.close()
    with serving(*COMMAND) as worker:
        with transaction.atomic():
            for number in range(TASKS):
                (tasks.note if number % 2 else tasks.anote).enqueue(f"task {number}")
        connection.close()
        found["first"] = finish(worker)
        found["results"] = Counter(
            DBTaskResult.objects.successful().values_list("return_value", flat=True)
        )
        found["idle"] = idle(worker)
        found["where"] = named(worker)
        found["after"] = finish(worker)
        found["ended by a restart within a task"] = list(worker.ended)

        def write(name: str) -> None:
            try:
                tasks.note.enqueue(name)
            finally:
                connection.close()

        kept = through_restart(ask_for_restart, write, (OperationalError,))
        found["in the end"] = finish(worker)
        found["ended"] = len(worker.ended)
        every = {each: each.args_kwargs["args"] for each in DBTaskResult.objects.all()}
        found["lost"] = kept.lost([args[0] for args in every.values() if args])
        done = [args[0] for each, args in every.items() if args and each.status == "SUCCESSFUL"]
        items = Counter(Item.objects.values_list("name", flat=True))
        found["done more or less than once"] = [name for name in done if items[name] != 1]
        connection.close()
        found["idle in the end"] = idle(worker)
        pool = (worker.status() or {})["pools"][0]
        found["pool"] = {key: pool[key] for key in ("used", "waiters", "leaks")}
        found["size"] = pool["size"]
        found["code"] = worker.stop()
    return found


if __name__ == "__main__":
    call_command("migrate", run_syncdb=True, interactive=False, verbosity=0)
    print(json.dumps(run()))
