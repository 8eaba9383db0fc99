"""What the worker does."""

from __future__ import annotations

from django.db import connection, transaction
from django.tasks import task

from tests.app.models import Item

LOCK = 4712
"""What the task `wait` waits for."""


@task
def note(name: str) -> int:
    """Write something in a block, and look."""
    with transaction.atomic():
        Item.objects.create(name=name)
    return Item.objects.filter(name=name).count()


@task
async def anote(name: str) -> int:
    """Do so in a coroutine."""
    await Item.objects.acreate(name=name)
    return await Item.objects.filter(name=name).acount()


@task
def wait() -> None:
    """Hold a lease until a lock is free."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])


@task(backend="immediate")
def look() -> list[str | None]:
    """Tell where the leases are."""
    with transaction.atomic():
        Item.objects.count()
        leases = connection.pool.leases()  # type: ignore[attr-defined]
        return [lease.where for lease in leases]
