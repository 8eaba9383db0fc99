"""The site of `tests.benchmarks.web`: the pages of TechEmpower's rules, in sync and in async views.

Told by the environment what its database is. It needs Django and the contestant, and nothing of
this checkout but, for ours, the kit.
"""

from __future__ import annotations

import json
import os
import random
from typing import Any

import django
from django.conf import settings

ROWS = 10_000
QUERIES = 20
UPDATES = 5
FORTUNES = 12
MORE = "Additional fortune added at request time."
KIT = json.loads(os.environ.get("WEB_POOLKIT", "null"))
DATABASE = json.loads(os.environ["WEB_DATABASE"])
VIEWS = os.environ.get("WEB_VIEWS", __name__)
"""`web_raw` has the same pages without an ORM."""
APP = os.environ.get("WEB_APP", "django_poolkit" if KIT is not None else "")

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": DATABASE},
    INSTALLED_APPS=[APP] if APP else [],
    LOGGING_CONFIG=None,
    POOLKIT=KIT or {},
    ROOT_URLCONF=VIEWS,
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
    USE_TZ=True,
)
django.setup()

# Only now: these read settings as they are loaded.
from django.db import models  # noqa: E402
from django.http import HttpRequest, HttpResponse, JsonResponse  # noqa: E402
from django.template import engines  # noqa: E402
from django.urls import path  # noqa: E402

BASES: tuple[type, ...] = (models.Model,)
MANAGER = "_default_manager"
if APP == "django_async_backend":  # which has a manager of its own
    from django_async_backend.db.models.base import AsyncModelMixin

    BASES, MANAGER = (AsyncModelMixin, models.Model), "async_objects"


class World(*BASES):  # type: ignore[misc]
    """What the pages read and write."""

    number = models.IntegerField()

    class Meta:
        app_label = "web"
        db_table = "world"


class Fortune(*BASES):  # type: ignore[misc]
    """A line of the page of fortunes."""

    message = models.CharField(max_length=2_048)

    class Meta:
        app_label = "web"
        db_table = "fortune"


PAGE = engines["django"].from_string(
    "<!DOCTYPE html><html><head><title>Fortunes</title></head><body><table>"
    "<tr><th>id</th><th>message</th></tr>{% for each in fortunes %}"
    "<tr><td>{{ each.id }}</td><td>{{ each.message }}</td></tr>{% endfor %}"
    "</table></body></html>"
)
worlds = getattr(World, MANAGER)
fortunes_of_all = getattr(Fortune, MANAGER)


def key() -> int:
    """Return one of the rows."""
    return random.randint(1, ROWS)


def shown(world: World) -> dict[str, int]:
    """Return a row as the pages have it."""
    return {"id": world.pk, "randomNumber": world.number}


def page_of(found: list[Fortune]) -> HttpResponse:
    """Return the page of fortunes: one more, sorted, escaped."""
    found.append(Fortune(pk=0, message=MORE))
    found.sort(key=lambda each: each.message)
    return HttpResponse(PAGE.render({"fortunes": found}))


def changed(found: list[World]) -> list[World]:
    """Give each row another number."""
    for world in found:
        world.number = key()
    return sorted(found, key=lambda world: world.pk)  # or two of these would lock each other out


# -- sync


def plaintext(request: HttpRequest) -> HttpResponse:
    """Answer without the database."""
    return HttpResponse("Hello, World!", content_type="text/plain")


def db(request: HttpRequest) -> JsonResponse:
    """Answer with one row."""
    return JsonResponse(shown(worlds.get(pk=key())))


def queries(request: HttpRequest) -> JsonResponse:
    """Answer with rows that were asked for one by one."""
    return JsonResponse([shown(worlds.get(pk=key())) for _ in range(QUERIES)], safe=False)


def fortunes(request: HttpRequest) -> HttpResponse:
    """Answer with a page of all rows."""
    return page_of(list(fortunes_of_all.all()))


def updates(request: HttpRequest) -> JsonResponse:
    """Read rows one by one, and write them all."""
    found = changed([worlds.get(pk=number) for number in random.sample(range(1, ROWS), UPDATES)])
    worlds.bulk_update(found, ["number"])
    return JsonResponse([shown(world) for world in found], safe=False)


# -- async


async def aplaintext(request: HttpRequest) -> HttpResponse:
    """Do the same on the event loop."""
    return plaintext(request)


async def adb(request: HttpRequest) -> JsonResponse:
    """Do the same on the event loop."""
    return JsonResponse(shown(await worlds.aget(pk=key())))


async def aqueries(request: HttpRequest) -> JsonResponse:
    """Do the same on the event loop."""
    return JsonResponse([shown(await worlds.aget(pk=key())) for _ in range(QUERIES)], safe=False)


async def afortunes(request: HttpRequest) -> HttpResponse:
    """Do the same on the event loop."""
    return page_of([each async for each in fortunes_of_all.all()])


async def aupdates(request: HttpRequest) -> JsonResponse:
    """Do the same on the event loop."""
    chosen = random.sample(range(1, ROWS), UPDATES)
    found = changed([await worlds.aget(pk=number) for number in chosen])
    await worlds.abulk_update(found, ["number"])
    return JsonResponse([shown(world) for world in found], safe=False)


def process(request: HttpRequest) -> HttpResponse:
    """Say which process this is."""
    return HttpResponse(str(os.getpid()))


def pages_of(views: dict[str, Any]) -> list[Any]:
    """Return where the pages are, of a module's views: an `a` stands before the async ones.

    What does without the database is the same for all modules.
    """
    pages = ("db", "queries", "fortunes", "updates")
    return [
        path("", process),
        path("sync/plaintext/", plaintext),
        path("async/plaintext/", aplaintext),
        *(path(f"sync/{page}/", views[page]) for page in pages),
        *(path(f"async/{page}/", views[f"a{page}"]) for page in pages),
    ]


urlpatterns = pages_of(globals())


def __getattr__(name: str) -> Any:
    """Make the application that a server asks for, `wsgi` or `asgi`; the kit's own for ours."""
    package = "django.core" if KIT is None else "django_poolkit"
    if name == "wsgi":
        module = __import__(f"{package}.wsgi", fromlist=["get_wsgi_application"])
        return module.get_wsgi_application()
    if name == "asgi":
        module = __import__(f"{package}.asgi", fromlist=["get_asgi_application"])
        return module.get_asgi_application()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
