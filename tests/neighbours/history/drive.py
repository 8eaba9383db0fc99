"""Visitors whose writes have a history: `python -m tests.neighbours.history.drive`.

Prints as JSON whose context each event has, and what it cost the pool.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from typing import Any

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.neighbours.history.settings"
django.setup()

import pghistory  # noqa: E402
import pgtrigger  # noqa: E402
from django.core.checks import run_checks  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.db import connection as default_connection  # noqa: E402
from django.db import transaction  # noqa: E402

from tests.neighbours.census import census  # noqa: E402
from tests.neighbours.history.models import Note  # noqa: E402
from tests.request_end.drive import environ  # noqa: E402

connection: Any = default_connection
THREADS = 4
REQUESTS = 75
"""By each thread."""


def serve(app: Any, path: str) -> None:
    """Serve a request to its end, as a server does."""
    response = app(environ(path, REQUEST_METHOD="POST"), lambda status, headers: None)
    body = b"".join(response)
    assert body.startswith(b"{"), body[:2000]
    response.close()


def crowd(app: Any, requests: int) -> None:
    """Have each visitor write under a name of its own, and look, all at the same time."""
    everybody = threading.Barrier(THREADS)

    def visit(number: int) -> None:
        everybody.wait()
        for _ in range(requests):
            serve(app, f"/write/visitor{number}/")
            serve(app, "/look/")

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def contexts() -> dict[str, int]:
    """Count the events by whose note it was, and whose context they have."""
    found: Counter[str] = Counter()
    event: Any = Note._meta.get_field("events").related_model
    for text, metadata in event.objects.values_list("text", "pgh_context__metadata"):
        visitor = (metadata or {}).get("visitor", "nobody")
        found[f"{text.partition(':')[0]} by {visitor}"] += 1
    return found


def pins() -> Counter[str]:
    """Return how many leases were pinned, by reason."""
    connection.close()
    return Counter({str(why): count for why, count in connection.pool.stats().pins.items()})


def by_hand() -> dict[str, Any]:
    """Do what else these packages offer; return for each what has pinned."""
    found: dict[str, Any] = {}
    before = pins()

    def note_pins(name: str) -> None:
        nonlocal before
        after = pins()
        found[name] = sorted((after - before).elements())
        before = after

    with pgtrigger.ignore("history.Note:insert_insert"):
        Note.objects.create(text="ignored: outside a block")
    note_pins("ignore()")
    with pgtrigger.ignore("history.Note:insert_insert"), transaction.atomic():
        Note.objects.create(text="ignored: around a block")
    note_pins("ignore() around a block")
    with transaction.atomic(), pgtrigger.ignore("history.Note:insert_insert"):
        Note.objects.create(text="ignored: in a block")
    note_pins("ignore() in a block")
    with pgtrigger.schema("public"):
        Note.objects.count()
    note_pins("schema()")
    with transaction.atomic():
        note = Note.objects.create(text="by hand: made")
        pghistory.create_event(note, label="insert")
    note_pins("create_event() in a block")
    note.refresh_from_db()
    pghistory.create_event(note, label="insert")
    note_pins("create_event()")
    return found


def main() -> None:
    """Run it all."""
    call_command("migrate", run_syncdb=True, interactive=False, verbosity=0)
    call_command("pgtrigger", "install")
    app = get_wsgi_application()
    connection.pool.recycle()
    connection.close()
    crowd(app, 5)
    few, before, resets = census(), pins(), connection.pool.stats().resets
    crowd(app, REQUESTS)
    after = pins()
    many = census()
    stats = connection.pool.stats()
    found = {
        "few": few,
        "many": many,
        "pins": after - before,
        "resets": stats.resets - resets,
        "acquired": stats.acquired,
        "by_hand": by_hand(),
        "events": contexts(),
    }
    connection.close()
    said = [str(message) for message in run_checks(tags=["database"], databases=["default"])]
    print(json.dumps({**found, "said": said, "used": connection.pool.stats().used}))


if __name__ == "__main__":
    main()
