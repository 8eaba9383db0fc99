"""Requests of two tenants on a pool of two: `python -m tests.neighbours.tenants.drive`.

Prints as JSON what each request saw, what each schema has in the end, and the pool's numbers.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from typing import Any

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.neighbours.tenants.settings"
django.setup()

from django.core.management import call_command  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.db import connection as default_connection  # noqa: E402

from tests.neighbours.tenants.notes.models import Note  # noqa: E402
from tests.neighbours.tenants.shared.models import Domain, Tenant  # noqa: E402
from tests.request_end.drive import environ  # noqa: E402

connection: Any = default_connection
TENANTS = ("red", "blue")
THREADS = 8
REQUESTS = 24
"""By each thread."""


def make_tenants() -> None:
    """Migrate all schemas; each has one note, and "public" a table of the same name."""
    call_command("migrate_schemas", schema_name="public", interactive=False, verbosity=0)
    for name in TENANTS:
        tenant = Tenant(schema_name=name)
        tenant.save(verbosity=0)
        Domain.objects.create(domain=f"{name}.example", tenant=tenant)
    # Whoever is not in his tenant's schema does not fail: he sees this.
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE public.notes_note (LIKE red.notes_note INCLUDING ALL)")
        cursor.execute("INSERT INTO public.notes_note (text) VALUES ('public: astray')")
    for name in TENANTS:
        connection.set_schema(name)
        Note.objects.create(text=f"{name}: first")
    connection.set_schema_to_public()
    connection.close()


def get(app: Any, host: str) -> str:
    """Serve a request to its end, as a server does; return the body."""
    response = app(environ("/", HTTP_HOST=host), lambda status, headers: None)
    try:
        return b"".join(response).decode()
    finally:
        response.close()


def visit(app: Any, number: int, found: Counter[str]) -> None:
    """Make requests for the one and the other tenant in turn."""
    for turn in range(REQUESTS):
        tenant = TENANTS[(number + turn) % 2]
        body = get(app, f"{tenant}.example")
        if not body.startswith("{"):
            found[f"{tenant} got {body[:300]}"] += 1
            continue
        answer = json.loads(body)
        whose = sorted({text.partition(":")[0] for text in answer["seen"]})
        found[f"{answer['tenant']} saw {', '.join(whose)}"] += 1


def work() -> dict[str, Any]:
    """What a worker does that sets its tenant once, and ends a job with `close()` as Celery does.

    Returns whose notes it saw, by what it did before.
    """
    seen: dict[str, list[str]] = {}

    def look(name: str) -> None:
        texts = Note.objects.values_list("text", flat=True)
        seen[name] = sorted({text.partition(":")[0] for text in texts})

    connection.set_schema("red")
    look("at first")
    connection.close()
    look("after close()")
    connection.close()
    with connection.pinned():
        look("pinned")
    look("after pinned()")
    connection.close_if_unusable_or_obsolete()
    look("after the end of a request")
    connection.close()
    return seen


def main() -> None:
    """Run it all."""
    make_tenants()
    app = get_wsgi_application()
    found: Counter[str] = Counter()
    threads = [
        threading.Thread(target=visit, args=(app, number, found)) for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    connection.close()
    after: dict[str, Any] = {}
    for schema in (*TENANTS, "public"):
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT text FROM {schema}.notes_note")
            after[schema] = Counter(text for (text,) in cursor.fetchall())
    connection.close()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND backend_type = 'client backend'"
        )
        connections = cursor.fetchone()[0]
    connection.close()
    stats = connection.pool.stats()
    print(
        json.dumps(
            {
                "requests": found,
                "rows": after,
                "worker": work(),
                "pins": {str(reason): count for reason, count in stats.pins.items()},
                "connections": connections,
                "used": connection.pool.stats().used,
            }
        )
    )


if __name__ == "__main__":
    main()
