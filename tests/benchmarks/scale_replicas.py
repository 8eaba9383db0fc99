"""What reads cost by the number of replicas that they are spread over, on real ones.

Measured in a process of its own, by `tests.benchmarks.scale_one`: Django has one configuration.
"""

from __future__ import annotations

from time import process_time
from typing import Any

TIMES = 400
LOOKS = 20


def measure(places: list[dict[str, Any]], rounds: int) -> dict[str, Any]:
    """Read through the router from the replicas in `places`, behind the primary, which is first.

    Returns for how many microseconds the CPU is busy with a read, in a scope of its own, and with
    a look at all servers, and how many of the replicas were read.
    """
    _configure(places)
    from django.db import connections, router

    from django_poolkit import connection_pools
    from django_poolkit.routing import scope
    from django_poolkit.routing.monitor import monitor
    from tests.app.models import Item

    met: set[str] = set()

    def read() -> None:
        with scope():
            alias = router.db_for_read(Item)
            met.add(alias)
            with connections[alias].cursor() as cursor:
                cursor.execute("SELECT 1")
                cursor.fetchone()

    read()  # begins to look
    monitor.close(10.0)
    monitor.started = True  # its rounds are made here
    looks, reads = [], []
    for _ in range(rounds):
        computed = process_time()
        for _ in range(LOOKS):
            monitor.look()
        looks.append((process_time() - computed) / LOOKS * 1e6)
        for _ in range(10 * len(places)):
            read()  # all have a connection
        computed = process_time()
        for _ in range(TIMES):
            read()
        reads.append((process_time() - computed) / TIMES * 1e6)
    for pool in list(connection_pools.values()):
        pool.close()
    return {"reads": reads, "looks": looks, "met": len(met - {"default"})}


def _configure(places: list[dict[str, Any]]) -> None:
    import django
    from django.conf import settings

    names = ["default", *(f"replica{number}" for number in range(1, len(places)))]
    databases = {
        name: {
            "ENGINE": "django_poolkit.backends.postgresql",
            **place,
            "OPTIONS": {"pool": {"mode": "transaction", "max_size": 2}},
        }
        for name, place in zip(names, places, strict=True)
    }
    settings.configure(
        INSTALLED_APPS=["django_poolkit", "tests.app"],
        DATABASES=databases,
        DATABASE_ROUTERS=["django_poolkit.routing.ReadWriteRouter"],
        POOLKIT={
            "CLUSTERS": {"default": {"replicas": names[1:]}},
            "CONTROL": {"ENABLED": False},
        },
        LOGGING_CONFIG=None,
    )
    django.setup()
