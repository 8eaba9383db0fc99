"""A pool of two connections that gives up soon, and applications in front of it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import django
import pytest
from asgiref.sync import SyncToAsync
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.db import connection
from django.test import override_settings

from django_poolkit.asgi import Poolkit
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing.waiting import wait_until
from django_poolkit.wsgi import PoolkitWSGI
from tests.request_end import views
from tests.request_end.drive import AsgiServer, WsgiServer

OURS = "django_poolkit.middleware.PoolkitMiddleware"
INNER = "tests.request_end.inner"
# Django before 6.1 leaves the body of a cancelled or failed ASGI request to the collector.
UNCLOSED = "ignore:Unclosed file <tempfile.SpooledTemporaryFile:ResourceWarning"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates"}]


@pytest.fixture
def pool(transactional_db: None) -> Iterator[ConnectionPool]:
    """The pool of the default alias, of two connections; at the end all of them are home."""
    connection.close()
    # Where sync_to_async() runs what it is given, if nobody lends it a thread: one for the run,
    # which may have a lease of another test's, of a pool that is gone.
    SyncToAsync.single_thread_executor.submit(lambda: connection.close()).result()
    pool = connection.pool  # type: ignore[attr-defined]
    timeout, size, leaks = pool.timeout, pool.max_size, pool.stats().leaks
    pool.resize(0, 2)
    pool.timeout = 0.05
    views.reached.clear()
    views.done.clear()
    views.seen.clear()
    yield pool
    free()
    if django.VERSION < (6, 1):
        gc.collect()
    try:
        connection.close()
        wait_until(lambda: pool.stats().used == 0, 5.0, lambda: f"a lease is lost: {pool.leases()}")
        assert pool.stats().leaks == leaks
    finally:
        pool.resize(0, size)
        pool.timeout = timeout


def free() -> None:
    """Release what has been hogged."""
    while views.hogged:
        views.hogged.pop().release()


@pytest.fixture
def full(pool: ConnectionPool) -> ConnectionPool:
    """The same pool, exhausted."""
    views.hog(pool)
    return pool


@pytest.fixture
def serve() -> Iterator[Callable[..., Any]]:
    """Return a function that puts a server before Django: by `way`, with other middleware."""
    overrides = []

    def serve(way: str, *inner: str, outer: str = "", **settings: Any) -> Any:
        middleware = [f"{INNER}.{name}" for name in inner]
        if "middleware" in way:
            middleware.insert(0, OURS)
        if outer:
            middleware.insert(0, f"{INNER}.{outer}")
        override = override_settings(
            ROOT_URLCONF="tests.request_end.urls",
            MIDDLEWARE=middleware,
            TEMPLATES=TEMPLATES,
            **settings,
        )
        override.enable()
        overrides.append(override)
        wrap = "wrapper" in way
        if way.startswith("wsgi"):
            return WsgiServer(PoolkitWSGI(WSGIHandler()) if wrap else WSGIHandler())
        return AsgiServer(Poolkit(ASGIHandler()) if wrap else ASGIHandler())

    yield serve
    for override in reversed(overrides):
        override.disable()
