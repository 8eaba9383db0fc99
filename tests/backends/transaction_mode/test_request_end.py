"""At the end of a request, of a thread or of a process nothing is left of what it began."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.core.signals import request_finished, request_started
from django.db import transaction
from django.http import HttpResponse
from django.test import Client, override_settings
from django.urls import path

from django_poolkit.testing.waiting import wait_until
from tests.app.models import Item
from tests.backends.transaction_mode.support import (
    PATIENCE,
    SOON,
    acquired,
    backend,
    connection,
    create,
    used,
)

pytestmark = pytest.mark.core


def without_queries(request: Any) -> HttpResponse:
    return HttpResponse("nothing asked")


def with_a_query(request: Any) -> HttpResponse:
    return HttpResponse(str(create("by the view").pk))


def that_fails(request: Any) -> HttpResponse:
    create("undone")
    raise LookupError("the view")


urlpatterns = [
    path("without/", without_queries),
    path("with/", with_a_query),
    path("fails/", that_fails),
]


# -- ATOMIC_REQUESTS


@pytest.fixture
def atomic_requests(pooled):
    """A client of a site with ATOMIC_REQUESTS, and the pool of it, which has one connection."""
    pool = pooled(max_size=1, entry={"ATOMIC_REQUESTS": True})
    create("connected")
    with override_settings(ROOT_URLCONF=__name__):
        yield Client(raise_request_exception=False), pool


def test_a_view_without_queries_needs_no_connection(atomic_requests, neighbour):
    client, pool = atomic_requests
    neighbour.begins()
    pool.timeout = SOON
    before = acquired(pool)
    assert client.get("/without/").content == b"nothing asked"
    assert (acquired(pool), pool.stats().waited) == (before, 1)
    assert client.get("/with/").status_code == 500
    neighbour.rolls_back()


def test_a_view_with_queries_is_one_transaction(atomic_requests, server, caplog):
    client, pool = atomic_requests
    assert client.get("/with/").status_code == 200
    assert client.get("/fails/").status_code == 500
    assert server.names == ["by the view", "connected"]
    assert used(pool) == 0


# -- what was left undone


@pytest.mark.parametrize("statement", [False, True], ids=["nothing done", "a row written"])
@pytest.mark.parametrize("end", ["finished", "started", "close"])
def test_autocommit_is_on_again_in_the_next_request(pooled, server, statement, end):
    pool = pooled(max_size=1)
    transaction.set_autocommit(False)
    if statement:
        create("never committed")
    if end == "finished":
        request_finished.send(sender=None)
    elif end == "started":
        request_started.send(sender=None)
    else:
        connection.close()
    assert used(pool) == 0
    assert transaction.get_autocommit()
    create("the next request's")
    assert server.names == ["the next request's"]
    assert used(pool) == 0


def test_hooks_that_wait_for_a_commit_die_with_their_request(pooled):
    pooled(max_size=1)
    ran: list[str] = []
    transaction.set_autocommit(False)
    create("never committed")
    with transaction.atomic():
        transaction.on_commit(lambda: ran.append("hook"))
    request_finished.send(sender=None)
    with transaction.atomic():
        create("the next request's")
    assert ran == []


def test_a_query_after_the_end_begins_anew(pooled):
    pool = pooled(max_size=1)
    for _ in range(3):
        create("one")
        request_finished.send(sender=None)
        assert connection._lease is None
        request_finished.send(sender=None)
        connection.close()
    assert Item.objects.count() == 3
    assert pool.stats().connects == 1
    assert used(pool) == 0


def test_close_pool_ends_no_block(pooled, server):
    pool = pooled(max_size=2)
    with transaction.atomic():
        mine = backend()
        create("one")
        connection.close_pool()
        assert backend() == mine
        create("two")
    assert server.names == ["one", "two"]
    assert used(pool) == 0
    assert backend() != mine
    wait_until(lambda: mine not in server.backends)
    connection.close()


def test_close_pool_under_many_threads_disturbs_nobody(pooled, server):
    pooled(max_size=3, timeout=PATIENCE)
    errors: list[BaseException] = []
    stop = threading.Event()

    def work() -> None:
        try:
            while not stop.is_set():
                create("a row")
                with transaction.atomic():
                    create("a row")
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        connection.close_pool()
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(server.names) % 2 == 0
