"""Plain requests with four instruments at once: `python -m tests.neighbours.instruments.drive`.

Prints as JSON how many statements each of them has recorded, and what it cost the pool.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import django
import sentry_sdk
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sentry_sdk.integrations.django import DjangoIntegration

REQUESTS = 100
TABLE = "app_item"

given: dict[str, Any] = json.loads(os.environ["INSTRUMENTS"])
settings.configure(
    DEBUG=True,
    SECRET_KEY="tests only",
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    INTERNAL_IPS=["127.0.0.1"],
    USE_TZ=True,
    DATABASES={"default": given["database"]},
    INSTALLED_APPS=[
        "django.contrib.staticfiles",
        "debug_toolbar",
        "django_prometheus",
        "django_poolkit",
        "tests.app",
    ],
    MIDDLEWARE=["debug_toolbar.middleware.DebugToolbarMiddleware"],
    DEBUG_TOOLBAR_PANELS=["debug_toolbar.panels.sql.SQLPanel"],
    DEBUG_TOOLBAR_CONFIG={"RESULTS_CACHE_SIZE": 2 * REQUESTS},
    STATIC_URL="static/",
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
)

spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
PsycopgInstrumentor().instrument(tracer_provider=provider, skip_dep_check=True)
events: list[dict[str, Any]] = []


def keep(event: Any, hint: Any) -> None:
    """Take an event down, and send nothing."""
    events.append(event)


sentry_sdk.init(
    dsn="http://public@127.0.0.1:9/1",
    traces_sample_rate=1.0,
    before_send_transaction=keep,
    integrations=[DjangoIntegration()],
)
django.setup()

from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.db import connection as default_connection  # noqa: E402
from django.db import transaction  # noqa: E402
from prometheus_client import REGISTRY  # noqa: E402

from tests.app.models import Item  # noqa: E402
from tests.request_end.drive import environ  # noqa: E402

connection: Any = default_connection
depths: set[int] = set()


def view(request: HttpRequest) -> HttpResponse:
    """A plain request: it reads, and writes in a block."""
    Item.objects.get(pk=1)
    with transaction.atomic():
        Item.objects.filter(pk=1).update(name="again")
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT name FROM {TABLE} WHERE id = %s", [1])
        depths.add(len(type(cursor.cursor).__mro__))
    for item in Item.objects.filter(pk=1).iterator(1):
        item.save()
    return HttpResponse("<html><body>done</body></html>")


urlpatterns = [path("", view), path("__debug__/", include("debug_toolbar.urls"))]


def serve(app: Callable[..., Any]) -> None:
    """Serve a request to its end, as a server does."""
    response = app(environ("/", REMOTE_ADDR="127.0.0.1"), lambda status, headers: None)
    assert b"done" in b"".join(response)
    response.close()


def by_toolbar() -> int:
    """Return how many statements the toolbar's store has."""
    from debug_toolbar.store import get_store

    store: Any = get_store()
    queries = [
        query["sql"]
        for request_id in store.request_ids()
        for query in store.panel(request_id, "SQLPanel").get("queries", ())
    ]
    return sum(TABLE in sql for sql in queries)


def by_prometheus() -> float:
    """Return how many statements django-prometheus has counted."""
    labels = {"alias": "default", "vendor": "postgresql"}
    return REGISTRY.get_sample_value("django_db_execute_total", labels) or 0.0


def by_sentry() -> int:
    """Return how many spans of statements went to Sentry."""
    descriptions = [span.get("description") or "" for event in events for span in event["spans"]]
    return sum(TABLE in text for text in descriptions)


def by_opentelemetry() -> int:
    """Return how many spans of statements were exported."""
    texts = [
        str((span.attributes or {}).get("db.statement", "")) for span in spans.get_finished_spans()
    ]
    return sum(TABLE in text for text in texts)


def main() -> None:
    """Run it all."""
    with connection.schema_editor() as editor:
        editor.create_model(Item)
    Item.objects.create(pk=1, name="the one")
    connection.close()
    spans.clear()
    events.clear()
    before = by_prometheus()
    app = get_wsgi_application()
    for _ in range(REQUESTS):
        serve(app)
    pool = getattr(connection, "pool", None)
    print(
        json.dumps(
            {
                "toolbar": by_toolbar(),
                "sentry": by_sentry(),
                "opentelemetry": by_opentelemetry(),
                "prometheus": by_prometheus() - before,
                "depths": len(depths),
                "pins": {str(why): n for why, n in pool.stats().pins.items()} if pool else None,
                "used": pool.stats().used if pool else None,
                "acquired": pool.stats().acquired if pool else None,
            }
        )
    )


if __name__ == "__main__":
    main()
