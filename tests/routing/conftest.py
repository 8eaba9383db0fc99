"""A primary with two replicas, and Django's `default` and `replica` aliases led to them."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from asgiref.sync import SyncToAsync, sync_to_async
from django.apps import apps
from django.core.management.base import BaseCommand
from django.db import connections, router
from django.db.models import Model
from django.db.models.signals import pre_save

from django_poolkit import registry
from django_poolkit.backends import ports
from django_poolkit.routing import ReadWriteRouter, carry, joining, scope, scopes, writes
from django_poolkit.routing.monitor import monitor
from django_poolkit.testing import Cluster, Node
from tests.app.models import Item
from tests.routing.offline import Offline, offline_cluster

OURS = "django_poolkit.backends.postgresql"


@pytest.fixture(scope="session")
def servers() -> Iterator[Cluster]:
    """A primary and two replicas of this package's own, with the tables of all apps."""
    with Cluster(replicas=2) as cluster:
        yield cluster


def in_thread(work: Callable[[], Any]) -> Any:
    """Run something in a thread that has not written before; return its result."""

    def run() -> Any:
        try:
            return work()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def entry(node: Node, **more: Any) -> dict[str, Any]:
    """Return what `DATABASES` says of an alias that leads to a node."""
    return {
        **connections.settings["default"],
        **node.django_settings(),
        "ENGINE": OURS,
        "OPTIONS": {"pool": {"max_size": 8, "mode": "transaction"}},
        "TEST": {**connections.settings["default"]["TEST"]},
        **more,
    }


@pytest.fixture(scope="session")
def tables(servers: Cluster, django_db_blocker: Any) -> None:
    """Make the tables of all apps."""
    with (
        django_db_blocker.unblock(),
        LedTo(default=entry(servers.primary)),
        connections["default"].schema_editor() as editor,
    ):
        for model in apps.get_models():
            editor.create_model(model)
    for node in servers.replicas:
        servers.primary.wait_caught_up(node)


class LedTo:
    """A block in which `DATABASES` is something else."""

    def __init__(self, **entries: dict[str, Any]) -> None:
        self._entries = entries

    def __enter__(self) -> None:
        self._before = dict(connections.settings)
        _forget_wrappers()
        _replace(self._entries)

    def __exit__(self, *error: object) -> None:
        _forget_wrappers()
        _replace(self._before)


def _forget_wrappers() -> None:
    _forget_here()
    # Where sync_to_async() runs what it is given, if nobody lends it a thread: one for the run.
    SyncToAsync.single_thread_executor.submit(_forget_here).result()
    registry.pools.close_all()


def _forget_here() -> None:
    # A wrapper keeps the settings that it was made with.
    for wrapper in connections.all(initialized_only=True):
        wrapper.close()
        del connections[wrapper.alias]


def _replace(entries: dict[str, dict[str, Any]]) -> None:
    connections.settings.clear()
    connections.settings.update(entries)


@pytest.fixture
def routed(
    servers: Cluster,
    tables: None,
    settings: Any,
    django_db_blocker: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Cluster]:
    """The servers, as the cluster `default`: `default` writes, `replica` is the first replica."""
    monkeypatch.setattr(router, "routers", [ReadWriteRouter()])
    monkeypatch.setattr(ports, "note_write", joining.note_write)
    monkeypatch.setattr(ports, "note_lock", joining.note_lock)
    monkeypatch.setattr(ports, "note_lone_write", writes.note_lone_write)
    monkeypatch.setattr(ports, "ask_commit", writes.ask_commit)
    monkeypatch.setattr(ports, "note_commit", writes.note_commit)
    monkeypatch.setattr(writes, "_silent", frozenset())
    # A test that changes INSTALLED_APPS has the app get ready, and connect the rest of it.
    monkeypatch.setattr(ports, "choose_host", None)
    monkeypatch.setattr(ports, "keeps_host", None)
    for name in ("note_refusal", "reroutes", "another_alias", "note_broken"):
        monkeypatch.setattr(ports, name, None)
    for name in ("explain", "note_standby", "note_pool", "repeats"):
        monkeypatch.setattr(ports, name, None)
    monkeypatch.setattr(BaseCommand, "execute", BaseCommand.execute)
    # What is seen of servers must not depend on when somebody looks, as a thread may that a test
    # elsewhere has begun.
    monitor.close(10.0)
    monkeypatch.setattr(monitor, "start", lambda: None)
    scopes._pins.set({})  # what an earlier test has written here
    settings.POOLKIT = {**settings.POOLKIT, "CLUSTERS": {"default": {"replicas": ["replica"]}}}
    primary, replica = servers.primary, servers.replicas[0]
    with ExitStack() as stack:
        stack.enter_context(django_db_blocker.unblock())
        stack.enter_context(LedTo(default=entry(primary), replica=entry(replica)))
        yield servers
        pre_save.disconnect(dispatch_uid="django_poolkit.stale_write")
        for node in servers.replicas:
            node.resume_replay()
        empty(primary)
        for node in servers.replicas:
            primary.wait_caught_up(node)


def empty(primary: Node) -> None:
    """Remove the rows of all tables."""
    tables = ", ".join(f'"{model._meta.db_table}"' for model in apps.get_models())
    primary.execute(f"TRUNCATE {tables} RESTART IDENTITY CASCADE")


@pytest.fixture
def paused(routed: Cluster) -> Cluster:
    """The servers, with an item `old` everywhere, and no replica that gets anything new."""
    routed.primary.execute("INSERT INTO app_item (name, created) VALUES ('old', now())")
    for node in routed.replicas:
        routed.primary.wait_caught_up(node)
        node.pause_replay()
    return routed


@pytest.fixture
def offline(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Offline]:
    """A cluster that is only settings, for what is decided without a server."""
    yield from offline_cluster(settings, monkeypatch)


def looped(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test in a loop of its own, and close what its threads have opened."""

    async def ran(*args: Any, **kwargs: Any) -> None:
        try:
            await test(*args, **kwargs)
        finally:
            await sync_to_async(connections.close_all)()

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(ran(*args, **kwargs))

    return run


def alias_of(model: type[Model] = Item, **hints: Any) -> str:
    """Return where the router has a model read."""
    return router.db_for_read(model, **hints)


def seen() -> set[str]:
    """Return the names of the items that a plain query finds."""
    return set(Item.objects.values_list("name", flat=True))


def written() -> str:
    """Write something, and return what a job that is asked for then would be given."""
    with scope():
        Item.objects.create(name="new")
        token = carry()
    assert token is not None
    return token
