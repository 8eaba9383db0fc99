"""Django REST framework on leases: they end with the request, whoever answers it, and how."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.cache import caches
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import call_command
from django.test import modify_settings, override_settings

from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing import Node
from django_poolkit.wsgi import PoolkitWSGI
from tests.app.models import Item
from tests.neighbours.restarts import PATIENCE, through_restart
from tests.request_end.drive import Answered, WsgiServer, environ

OURS = "django_poolkit.middleware.PoolkitMiddleware"
in_both_modes = pytest.mark.parametrize("pool", ["session", "transaction"], indirect=True)
Pooled = Callable[..., ConnectionPool]


class Api(WsgiServer):
    """A server in front of the API."""

    def post(self, path: str, **data: Any) -> Answered:
        """Post JSON."""
        body = json.dumps(data).encode()
        answered = Answered()
        headers: list[Any] = []
        given = environ(
            path,
            REQUEST_METHOD="POST",
            CONTENT_TYPE="application/json",
            CONTENT_LENGTH=str(len(body)),
            HTTP_ACCEPT="application/json",
            **{"wsgi.input": io.BytesIO(body)},
        )

        def start_response(status: str, fields: Any, exc_info: Any = None) -> Any:
            headers[:] = [int(status.split()[0]), fields]

        result = self.app(given, start_response)
        answered.body = b"".join(result)
        result.close()
        answered.status = headers[0]
        answered.headers = {key.lower(): value for key, value in headers[1]}
        return answered


@pytest.fixture
def api(transactional_db: None) -> Iterator[Api]:
    """The API behind our wrapper and our middleware."""
    with (
        modify_settings(INSTALLED_APPS={"append": "rest_framework"}),
        override_settings(
            ROOT_URLCONF="tests.neighbours.rest.site",
            MIDDLEWARE=[OURS],
            STATIC_URL="/static/",
            TEMPLATES=[
                {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}
            ],
            CACHES={
                "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
                "throttles": {
                    "BACKEND": "django.core.cache.backends.db.DatabaseCache",
                    "LOCATION": "throttles",
                },
            },
        ),
    ):
        from tests.neighbours.rest import site

        site.seen.clear()
        site.Once.cache = caches["throttles"]
        yield Api(PoolkitWSGI(WSGIHandler()))


def views() -> Any:
    from tests.neighbours.rest import site

    return site


# -- the end of a lease


@in_both_modes
def test_a_viewset_holds_nothing_when_it_has_answered(pool: ConnectionPool, api: Api) -> None:
    for name in ("a", "b", "c"):
        assert api.post("/items/", name=name).status == 201
        assert pool.stats().used == 0
    page = json.loads(api.get("/items/?page=2", accept="application/json").body)
    assert (page["count"], [each["name"] for each in page["results"]]) == (3, ["c"])
    assert pool.stats().used == 0
    assert api.get("/items/99/", accept="application/json").status == 404
    assert pool.stats().used == 0


@in_both_modes
def test_what_the_exception_handler_answers_is_rolled_back(
    pool: ConnectionPool, pooled: Pooled, api: Api
) -> None:
    pool = pooled(mode=pool.config.mode, entry={"ATOMIC_REQUESTS": True})
    assert api.post("/items/refuse/").status == 400
    assert views().seen == [1]  # in the transaction of the request
    assert pool.stats().used == 0
    assert not Item.objects.exists()
    assert api.post("/items/", name="kept").status == 201
    assert [item.name for item in Item.objects.all()] == ["kept"]


@in_both_modes
def test_without_a_transaction_of_the_request_a_write_stays(pool: ConnectionPool, api: Api) -> None:
    assert api.post("/items/refuse/").status == 400
    assert views().seen == [1 if pool.config.mode == "session" else 0]
    assert pool.stats().used == 0
    assert Item.objects.count() == 1


def test_a_transaction_of_a_request_that_asks_nothing_takes_no_lease(
    pooled: Pooled, api: Api
) -> None:
    pool = pooled(mode="transaction", entry={"ATOMIC_REQUESTS": True})
    assert api.get("/idle/", accept="application/json").status == 200
    assert (views().seen, pool.stats().acquired) == ([0], 0)


@in_both_modes
def test_the_browsable_api_asks_as_it_is_drawn(pool: ConnectionPool, api: Api) -> None:
    Item.objects.create(name="to be chosen")
    before = pool.stats().acquired
    answered = api.get("/choices/", accept="text/html")
    assert (answered.status, b"to be chosen" in answered.body) == (200, True)
    assert pool.stats().acquired > before
    assert pool.stats().used == 0
    assert b"to be chosen" in api.get("/items/", accept="text/html").body
    assert pool.stats().used == 0


@in_both_modes
def test_a_stream_holds_no_more_than_its_mode_asks_for(pool: ConnectionPool, api: Api) -> None:
    answered = api.get("/stream/")
    assert (answered.complete, answered.body) == (True, b"0\n0\n0\n")
    assert views().seen == [1 if pool.config.mode == "session" else 0] * 3
    assert pool.stats().used == 0


@in_both_modes
def test_a_throttle_that_counts_in_the_database(pool: ConnectionPool, api: Api) -> None:
    call_command("createcachetable", verbosity=0)
    caches["throttles"].clear()
    statuses = [api.get("/throttled/", accept="application/json").status for _ in range(2)]
    assert statuses == [200, 429]
    assert pool.stats().used == 0


@in_both_modes
def test_a_lease_tells_its_view(pool: ConnectionPool, api: Api) -> None:
    answered = api.get("/where/", accept="application/json")
    assert json.loads(answered.body) == ["GET tests.neighbours.rest.site.Where"]


# -- exhaustion


@pytest.mark.parametrize("path", ["/items/", "/items/?page=2", "/items/7/", "/throttled/"])
@pytest.mark.parametrize("accept", ["application/json", "text/html"])
def test_an_exhausted_pool_is_answered_by_ours(
    full: ConnectionPool, api: Api, path: str, accept: str
) -> None:
    answered = api.get(path, accept=accept)
    assert (answered.status, answered.headers["cache-control"]) == (503, "no-store")
    assert "retry-after" in answered.headers


def test_one_that_is_exhausted_as_the_browsable_api_is_drawn(
    full: ConnectionPool, api: Api
) -> None:
    assert api.get("/choices/", accept="application/json").status == 200
    answered = api.get("/choices/", accept="text/html")
    assert (answered.status, answered.headers["cache-control"]) == (503, "no-store")


def with_handler(name: str) -> Any:
    handler = {"EXCEPTION_HANDLER": f"tests.neighbours.rest.site.{name}"}
    return override_settings(REST_FRAMEWORK=handler)


def test_a_handler_that_answers_503_itself_is_left_alone(full: ConnectionPool, api: Api) -> None:
    with with_handler("to_503"):
        answered = api.get("/items/", accept="application/json")
    assert answered.status == 503
    assert json.loads(answered.body) == {"detail": "come back later"}


def test_one_that_answers_500_is_replaced(full: ConnectionPool, api: Api) -> None:
    with with_handler("to_500"):
        answered = api.get("/items/", accept="application/json")
    assert (answered.status, answered.headers["cache-control"]) == (503, "no-store")
    assert b"sorry" not in answered.body


@pytest.mark.parametrize("handler", ["to_503", "to_500"])
def test_a_handler_rolls_back_what_never_got_a_lease(
    pooled: Pooled, api: Api, handler: str
) -> None:
    pool = pooled(mode="transaction", entry={"ATOMIC_REQUESTS": True})
    pool.timeout = 0.05
    leases = [pool.acquire(5.0) for _ in range(2)]
    with with_handler(handler):
        assert api.post("/items/", name="in vain").status == 503
        for lease in leases:
            lease.release()
        assert api.post("/items/", name="kept").status == 201
    assert [item.name for item in Item.objects.all()] == ["kept"]


# -- a restart


class Refused(Exception):
    """Another answer than `201 Created`."""


@in_both_modes
def test_what_was_answered_is_there_after_a_restart(
    pool: ConnectionPool, api: Api, primary: Node
) -> None:
    pool.timeout = PATIENCE  # who waits for the server does so until it is up

    def write(name: str) -> None:
        if (answered := api.post("/items/", name=name)).status != 201:
            raise Refused(answered.status)

    kept = through_restart(lambda: primary.restart("immediate"), write, (Refused,))
    stored = list(Item.objects.values_list("name", flat=True))
    assert (kept.lost(stored), kept.forged(stored)) == ([], [])
    assert len(kept.refused) <= 2  # those whose statement was under way
    assert pool.stats().size <= 2
