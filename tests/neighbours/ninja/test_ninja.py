"""django-ninja on leases: synchronous operations and asynchronous ones, and who answers errors."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIHandler
from django.db import connection
from django.test import override_settings
from uvicorn import Config, Server

from django_poolkit.asgi import Poolkit
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing import Node
from django_poolkit.testing.waiting import wait_until
from tests.app.models import Item
from tests.neighbours.ninja import site
from tests.neighbours.restarts import PATIENCE, through_restart

OURS = "django_poolkit.middleware.PoolkitMiddleware"
in_both_modes = pytest.mark.parametrize("pool", ["session", "transaction"], indirect=True)
both_kinds = pytest.mark.parametrize("kind", ["", "a"], ids=["sync", "async"])


class Answer:
    """What a server said."""

    def __init__(self, connection: HTTPConnection) -> None:
        response = connection.getresponse()
        self.status = response.status
        self.headers = {key.lower(): value for key, value in response.getheaders()}
        self.body = response.read()

    def json(self) -> Any:
        """Return the body's value."""
        return json.loads(self.body)


Ask = Callable[..., Answer]


@pytest.fixture
def ask(transactional_db: None) -> Iterator[Ask]:
    """Return a function that asks uvicorn, which has our wrapper and our middleware, for a path."""
    site.seen.clear()
    with override_settings(ROOT_URLCONF=site.__name__, MIDDLEWARE=[OURS]):
        server = Server(
            # Without its lifespan: at its end no pool of this process may be made any more.
            Config(Poolkit(ASGIHandler()), port=0, lifespan="off", log_level="critical")
        )
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            wait_until(lambda: server.started, PATIENCE)
            port = server.servers[0].sockets[0].getsockname()[1]

            def ask(path: str, **data: Any) -> Answer:
                client = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
                try:
                    if data:
                        client.request("POST", path, json.dumps(data))
                    else:
                        client.request("GET", path)
                    return Answer(client)
                finally:
                    client.close()

            yield ask
        finally:
            server.should_exit = True
            thread.join()


def home(pool: ConnectionPool) -> bool:
    """Wait until a request that has been answered holds nothing: that comes last."""
    return wait_until(lambda: pool.stats().used == 0, PATIENCE, lambda: str(pool.leases()))


# -- the end of a lease


@in_both_modes
@both_kinds
def test_an_operation_holds_nothing_when_it_has_answered(
    pool: ConnectionPool, ask: Ask, kind: str
) -> None:
    for name in ("a", "b"):
        assert ask(f"/api/{kind}items", name=name).status == 201
        assert home(pool)
    assert ask("/api/items").json() == [{"name": "a"}, {"name": "b"}]
    assert ask("/api/aitems").json() == {"count": 2}
    assert home(pool)


@in_both_modes
def test_an_exception_handler_that_asks_the_database(pool: ConnectionPool, ask: Ask) -> None:
    answered = ask("/api/refuse", nothing=None)
    assert (answered.status, answered.json(), site.seen) == (418, {"items": 0}, [1])
    assert home(pool)


@in_both_modes
def test_an_error_that_is_an_answer(pool: ConnectionPool, ask: Ask) -> None:
    assert ask("/api/arefuse", nothing=None).status == 418
    assert home(pool)
    assert Item.objects.count() == 1


@in_both_modes
@both_kinds
# Under ASGI Django makes the whole of a synchronous one before it sends any.
@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume synchronous:Warning")
def test_a_stream_holds_no_more_than_its_mode_asks_for(
    pool: ConnectionPool, ask: Ask, kind: str
) -> None:
    assert ask(f"/api/{kind}stream").body == b"0\n0\n0\n"
    assert home(pool)
    assert site.seen == [1 if pool.config.mode == "session" else 0] * 3


@in_both_modes
@both_kinds
def test_a_lease_tells_its_operation(pool: ConnectionPool, ask: Ask, kind: str) -> None:
    assert ask(f"/api/{kind}where").json() == [f"GET plain:{kind}where"]
    assert home(pool)


# -- exhaustion


@both_kinds
@pytest.mark.parametrize("debug", [False, True])
def test_an_exhausted_pool_is_answered_by_ours(
    full: ConnectionPool, ask: Ask, kind: str, debug: bool
) -> None:
    with override_settings(DEBUG=debug):  # in which ninja answers with a traceback
        answered = ask(f"/api/{kind}items")
    assert (answered.status, answered.headers["cache-control"]) == (503, "no-store")
    assert "retry-after" in answered.headers
    assert b"Traceback" not in answered.body


@both_kinds
def test_a_handler_that_answers_503_itself_is_left_alone(
    full: ConnectionPool, ask: Ask, kind: str
) -> None:
    answered = ask(f"/handled/{kind}items")
    assert (answered.status, answered.json()) == (503, {"error": "come back later"})


@pytest.mark.parametrize("path", ["/handled/behind", "/handled/lazy"])
def test_one_that_answers_500_is_replaced(full: ConnectionPool, ask: Ask, path: str) -> None:
    answered = ask(path)
    assert (answered.status, answered.headers["cache-control"]) == (503, "no-store")
    assert b"sorry" not in answered.body


# -- a restart


class Refused(Exception):
    """Another answer than `201 Created`."""


@in_both_modes
@both_kinds
def test_what_was_answered_is_there_after_a_restart(
    pool: ConnectionPool, ask: Ask, primary: Node, kind: str
) -> None:
    pool.timeout = PATIENCE  # who waits for the server does so until it is up

    def write(name: str) -> None:
        if (answered := ask(f"/api/{kind}items", name=name)).status != 201:
            raise Refused(answered.status)

    kept = through_restart(
        lambda: primary.restart("immediate"), write, (Refused, HTTPException, OSError)
    )
    stored = list(Item.objects.values_list("name", flat=True))
    connection.close()
    assert (kept.lost(stored), kept.forged(stored)) == ([], [])
    assert len(kept.refused) <= 2  # those whose statement was under way
    assert home(pool)
    assert pool.stats().size <= 2
