"""Jobs that keep out of each other's way: `python -m tests.neighbours.locks.drive`.

Prints as JSON what the locks did, what is left of them, and what they cost the pool.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from typing import Any

import django
from django.conf import settings

given: dict[str, Any] = json.loads(os.environ["LOCKS"])
settings.configure(
    SECRET_KEY="tests only",
    USE_TZ=True,
    DATABASES={"default": given["database"]},
    INSTALLED_APPS=["pgactivity", "pglock", "django_poolkit", "tests.app"],
)
django.setup()

import pglock  # noqa: E402
from django.db import connection as default_connection  # noqa: E402
from django.db import transaction  # noqa: E402

from tests.app.models import Item  # noqa: E402
from tests.neighbours.census import census  # noqa: E402

connection: Any = default_connection
THREADS = 3
ROUNDS = 100
"""By each thread."""


def pins() -> Counter[str]:
    """Return how many leases were pinned, by reason."""
    connection.close()
    return Counter({str(why): count for why, count in connection.pool.stats().pins.items()})


def held() -> int:
    """Return how many advisory locks the server knows of in this database."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
            " WHERE l.locktype = 'advisory' AND d.datname = current_database()"
        )
        number: int = cursor.fetchone()[0]
    return number


def by_session() -> None:
    """Add one, holding a lock of the session: between reading and writing is a query."""
    with pglock.advisory("counter"):
        item = Item.objects.get(pk=1)
        Item.objects.count()
        Item.objects.filter(pk=1).update(name=str(int(item.name) + 1))
    connection.close()


def by_transaction() -> None:
    """Add one, holding a lock of the transaction."""
    with pglock.advisory("counter", xact=True):
        item = Item.objects.get(pk=2)
        Item.objects.count()
        Item.objects.filter(pk=2).update(name=str(int(item.name) + 1))
    connection.close()


def crowd(rounds: int) -> None:
    """Have threads do both in turn, at the same time."""
    everybody = threading.Barrier(THREADS)

    def work() -> None:
        everybody.wait()
        for _ in range(rounds):
            by_session()
            by_transaction()

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def alone() -> dict[str, Any]:
    """Use each verb once; return what it pinned, and what it said."""
    found: dict[str, Any] = {}
    before = pins()

    def note_pins(name: str) -> None:
        nonlocal before
        after = pins()
        found[name] = sorted((after - before).elements())
        before = after

    with transaction.atomic():
        pglock.advisory("other", xact=True).acquire()
        found["held in the block"] = held()
    note_pins("a lock of a transaction")
    with transaction.atomic():
        pglock.model("app.Item")
    note_pins("a lock of a table")
    with pglock.advisory("other", timeout=0) as acquired:
        found["acquired"] = acquired
        found["from elsewhere"] = from_elsewhere()
        found["held in the session"] = held()
    note_pins("a lock of a session")
    with pglock.timeout(7), connection.cursor() as cursor:
        cursor.execute("SHOW lock_timeout")
        found["timeout"] = cursor.fetchone()[0]
    note_pins("a timeout")
    with connection.cursor() as cursor:
        cursor.execute("SHOW lock_timeout")
        found["timeout after it"] = cursor.fetchone()[0]
    return found


def from_elsewhere() -> bool:
    """Try for the same lock in another thread, so on another connection."""
    said: list[bool] = []

    def attempt() -> None:
        with pglock.advisory("other", timeout=0) as acquired:
            said.append(acquired)
        connection.close()

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return said[0]


def main() -> None:
    """Run it all."""
    with connection.schema_editor() as editor:
        editor.create_model(Item)
    Item.objects.bulk_create([Item(pk=1, name="0"), Item(pk=2, name="0")])
    connection.pool.recycle()
    connection.close()
    crowd(5)
    few, before = census(), pins()
    crowd(ROUNDS)
    after = pins()
    found = {
        "few": few,
        "many": census(),
        "pins": after - before,
        "alone": alone(),
        "counted": {item.pk: int(item.name) for item in Item.objects.all()},
        "held": held(),
    }
    connection.close()
    print(json.dumps({**found, "used": connection.pool.stats().used}))


if __name__ == "__main__":
    main()
