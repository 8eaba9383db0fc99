"""Jobs deferred by requests, and run by a worker: `python -m tests.neighbours.jobs.drive`.

Prints as JSON what became of them, and what they cost the pool.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections import Counter
from contextlib import suppress
from typing import Any

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.neighbours.jobs.settings"
django.setup()

from django.core.checks import run_checks  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection as default_connection  # noqa: E402
from django.db import transaction  # noqa: E402
from procrastinate.contrib.django.models import ProcrastinateJob  # noqa: E402

from tests.app.models import Item  # noqa: E402
from tests.neighbours.census import census  # noqa: E402
from tests.neighbours.jobs import tasks  # noqa: E402

connection: Any = default_connection
THREADS = 3
REQUESTS = 100
"""By each thread."""
JOBS = 5
"""That the worker is to run."""


def pins() -> Counter[str]:
    """Return how many leases were pinned, by reason."""
    connection.close()
    return Counter({str(why): count for why, count in connection.pool.stats().pins.items()})


def request(number: int) -> None:
    """Write, and defer a job that never runs: by itself, in a block, and in one that fails."""
    queue: Any = tasks.rename.configure(queue="never")
    queue.defer(pk=1, name="by itself")
    with transaction.atomic():
        Item.objects.filter(pk=1).update(name=f"{number}")
        queue.defer(pk=1, name="in a block")
    with suppress(RuntimeError), transaction.atomic():
        queue.defer(pk=1, name="in vain")
        raise RuntimeError
    connection.close()


def crowd(requests: int) -> None:
    """Have threads serve requests at the same time."""
    everybody = threading.Barrier(THREADS)

    def work() -> None:
        everybody.wait()
        for number in range(requests):
            request(number)

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def run_worker() -> dict[str, Any]:
    """Defer jobs for a worker, have it run them all, and return what they left behind."""
    Item.objects.all().delete()
    Item.objects.bulk_create(Item(pk=pk, name="as made") for pk in range(1, JOBS + 1))
    for pk in (1, 2):
        tasks.rename.defer(pk=pk, name=f"item {pk}")
    asyncio.run(tasks.rename_soon.defer_async(pk=3, name="item 3"))
    with transaction.atomic():
        tasks.rename.defer(pk=4, name="item 4")
    tasks.fail.defer(pk=5)
    connection.close()
    call_command("procrastinate", "worker", "--queues", "items", "--one-shot", "--concurrency", "2")
    connection.close()
    jobs = ProcrastinateJob.objects.filter(queue_name="items")
    return {
        "items": dict(Item.objects.order_by("pk").values_list("pk", "name")),
        "jobs": Counter(jobs.values_list("status", flat=True)),
    }


def main() -> None:
    """Run it all."""
    call_command("migrate", run_syncdb=True, interactive=False, verbosity=0)
    Item.objects.create(pk=1, name="0")
    connection.pool.recycle()
    connection.close()
    crowd(5)
    few, before = census(), pins()
    crowd(REQUESTS)
    after = pins()
    found: dict[str, Any] = {
        "few": few,
        "many": census(),
        "pins": after - before,
        "deferred": Counter(
            job.args["name"] for job in ProcrastinateJob.objects.filter(queue_name="never")
        ),
        "worker": run_worker(),
    }
    found["pins of the worker"] = pins() - after
    connection.close()
    said = [str(message) for message in run_checks(tags=["database"], databases=["default"])]
    print(json.dumps({**found, "said": said, "used": connection.pool.stats().used}))


if __name__ == "__main__":
    main()
