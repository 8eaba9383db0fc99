"""Plain requests with instruments: `python -m tests.neighbours.instruments.drive`.

Prints as JSON how many statements each of them has recorded, and what it cost the pool.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import django
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import include, path

TABLE = "app_item"

given: dict[str, Any] = json.loads(os.environ["INSTRUMENTS"])
names: list[str] = given["instruments"]
requests: int = given["requests"]
counts: dict[str, Callable[[], float]] = {}
"""How many statements each has recorded."""


def sentry() -> None:
    """Have Sentry's Django integration make spans of statements, and send nothing."""
    import sentry_sdk
    from sentry_sdk.integrations.django import DjangoIntegration

    recorded = 0

    def keep(event: Any, hint: Any) -> None:
        nonlocal recorded
        texts = [span.get("description") or "" for span in event["spans"]]
        recorded += sum(TABLE in text for text in texts)

    sentry_sdk.init(
        dsn="http://public@127.0.0.1:9/1",
        traces_sample_rate=1.0,
        before_send_transaction=keep,
        integrations=[DjangoIntegration()],
    )
    counts["sentry"] = lambda: recorded


def opentelemetry() -> None:
    """Have OpenTelemetry's instrumentation of psycopg export spans of statements."""
    from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import (
        SimpleSpanProcessor,
        SpanExporter,
        SpanExportResult,
    )

    recorded = 0

    class Counting(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            nonlocal recorded
            recorded += sum(TABLE in str(span.attributes.get("db.statement", "")) for span in spans)
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Counting()))
    PsycopgInstrumentor().instrument(tracer_provider=provider, skip_dep_check=True)
    counts["opentelemetry"] = lambda: recorded


def prometheus() -> None:
    """Have django-prometheus count: its engine does it, which `given` names."""
    from prometheus_client import REGISTRY

    labels = {"alias": "default", "vendor": "postgresql"}
    counts["prometheus"] = lambda: (
        REGISTRY.get_sample_value("django_db_execute_total", labels) or 0.0
    )


def toolbar() -> None:
    """Have debug toolbar's panel of statements store them."""

    def recorded() -> int:
        from debug_toolbar.store import get_store

        store: Any = get_store()
        queries = [
            query["sql"]
            for request_id in store.request_ids()
            for query in store.panel(request_id, "SQLPanel").get("queries", ())
        ]
        return sum(TABLE in sql for sql in queries)

    counts["toolbar"] = recorded


WITH_TOOLBAR = "toolbar" in names
settings.configure(
    DEBUG=WITH_TOOLBAR,
    SECRET_KEY="tests only",
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    INTERNAL_IPS=["127.0.0.1"],
    USE_TZ=True,
    DATABASES={"default": given["database"]},
    INSTALLED_APPS=[
        "django.contrib.staticfiles",
        *(["debug_toolbar"] if WITH_TOOLBAR else []),
        *(["django_prometheus"] if "prometheus" in names else []),
        "django_poolkit",
        "tests.app",
    ],
    MIDDLEWARE=["debug_toolbar.middleware.DebugToolbarMiddleware"] if WITH_TOOLBAR else [],
    DEBUG_TOOLBAR_PANELS=["debug_toolbar.panels.sql.SQLPanel"],
    DEBUG_TOOLBAR_CONFIG={"RESULTS_CACHE_SIZE": 2 * requests},
    STATIC_URL="static/",
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
)
for install in (sentry, opentelemetry, prometheus, toolbar):
    if install.__name__ in names:
        install()
django.setup()

from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.db import connection as default_connection  # noqa: E402
from django.db import transaction  # noqa: E402

from tests.app.models import Item  # noqa: E402
from tests.neighbours.census import census  # noqa: E402
from tests.request_end.drive import environ  # noqa: E402

connection: Any = default_connection


def view(request: HttpRequest) -> HttpResponse:
    """A plain request: it reads, and writes in a block."""
    Item.objects.get(pk=1)
    with transaction.atomic():
        Item.objects.filter(pk=1).update(name="again")
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT name FROM {TABLE} WHERE id = %s", [1])
    for item in Item.objects.filter(pk=1).iterator(1):
        item.save()
    return HttpResponse("<html><body>done</body></html>")


urlpatterns: list[Any] = [path("", view)]
if WITH_TOOLBAR:
    urlpatterns.append(path("__debug__/", include("debug_toolbar.urls")))


def serve(app: Callable[..., Any], times: int) -> None:
    """Serve requests to their end, as a server does."""
    for _ in range(times):
        response = app(environ("/", REMOTE_ADDR="127.0.0.1"), lambda status, headers: None)
        assert b"done" in b"".join(response)
        response.close()


def main() -> None:
    """Run it all."""
    with connection.schema_editor() as editor:
        editor.create_model(Item)
    Item.objects.create(pk=1, name="the one")
    connection.close()
    app = get_wsgi_application()
    serve(app, 10)  # what is made once is made by now
    few, before = census(), {name: count() for name, count in counts.items()}
    serve(app, requests)
    recorded = {name: count() - before[name] for name, count in counts.items()}
    many = census()
    pool = getattr(connection, "pool", None)
    stats = pool.stats() if pool else None
    print(
        json.dumps(
            {
                "recorded": recorded,
                "few": few,
                "many": many,
                "pins": {str(why): n for why, n in stats.pins.items()} if stats else None,
                "used": stats.used if stats else None,
                "acquired": stats.acquired if stats else None,
            }
        )
    )


if __name__ == "__main__":
    main()
