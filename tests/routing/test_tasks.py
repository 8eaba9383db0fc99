"""django.tasks: the token goes with the arguments of a task, and its function never sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from django.db import connections, transaction

from django_poolkit.routing import scope, scopes
from tests.app.models import Item
from tests.routing.conftest import alias_of, looped, seen

pytest.importorskip("django.tasks", reason="django.tasks is new in Django 6.0")

from django.tasks import Task, task
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.backends.immediate import ImmediateBackend

from django_poolkit.contrib.tasks import KEYWORD, CarriesFloors, CarryingTask

pytestmark = pytest.mark.core


class Immediate(CarriesFloors, ImmediateBackend):
    pass


class Stored(BaseTaskBackend):
    """Keeps what is enqueued, with its arguments as JSON, for `run()`."""

    supports_async_task = True
    stored: ClassVar[list[tuple[Task[..., Any], str]]] = []

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        self.validate_task(task)
        self.stored.append((task, json.dumps([args, kwargs])))


class Queue(CarriesFloors, Stored):
    pass


@pytest.fixture(autouse=True)
def backends(paused: Any, settings: Any) -> Iterator[None]:
    settings.TASKS = {
        "default": {"BACKEND": f"{__name__}.Queue"},
        "immediate": {"BACKEND": f"{__name__}.Immediate"},
        "plain": {"BACKEND": f"{__name__}.Stored"},
    }
    Stored.stored.clear()
    yield
    connections.close_all()


def looks(*args: Any, **kwargs: Any) -> dict[str, Any]:
    return {"args": args, "kwargs": kwargs, "alias": alias_of(), "seen": sorted(seen())}


async def async_looks(**kwargs: Any) -> dict[str, Any]:
    from asgiref.sync import sync_to_async

    return {"kwargs": kwargs, "alias": await sync_to_async(alias_of)()}


def looks_with_context(context: Any, **kwargs: Any) -> tuple[Any, str]:
    return kwargs, alias_of()


def newest() -> tuple[Task[..., Any], list[Any], dict[str, Any]]:
    found, text = Stored.stored[-1]
    args, kwargs = json.loads(text)
    return found, args, kwargs


def run() -> Any:
    """Do what a worker does with the newest of the queue."""
    found, args, kwargs = newest()
    return found.call(*args, **kwargs)


def test_a_task_sees_what_was_committed_before_it_was_enqueued(backends):
    with scope(), transaction.atomic():
        Item.objects.create(name="new")
        transaction.on_commit(lambda: task(looks).enqueue(1, color="red"))
    assert run() == {
        "args": (1,), "kwargs": {"color": "red"}, "alias": "default", "seen": ["new", "old"],
    }  # fmt: skip
    assert scopes.current() is None


def test_one_of_who_has_written_nothing_reads_a_replica(backends):
    with scope():
        task(looks).enqueue()
    assert newest()[1:] == ([], {})
    assert run()["alias"] == "replica"


def test_a_task_leaves_nothing_to_the_next(backends):
    with scope():
        Item.objects.create(name="new")
        task(looks).enqueue()
    assert run()["alias"] == "default"
    task(looks).enqueue()
    assert run()["alias"] == "replica"


@looped
async def test_the_same_for_coroutines(backends):
    async with scope():
        await Item.objects.acreate(name="new")
        await task(async_looks).aenqueue(color="red")
    enqueued, args, kwargs = newest()
    assert set(kwargs) == {"color", KEYWORD}
    found = await enqueued.acall(*args, **kwargs)
    assert found == {"kwargs": {"color": "red"}, "alias": "default"}
    assert scopes.current() is None


def test_a_task_that_runs_at_once_is_a_part_of_what_enqueues_it(backends):
    with scope() as here:
        assert task(looks, backend="immediate").enqueue().return_value["alias"] == "replica"
        Item.objects.create(name="new")
        done = task(looks, backend="immediate").enqueue(color="red").return_value
        assert (done["alias"], done["kwargs"]) == ("default", {"color": "red"})
        assert scopes.current() is here
        assert not here.over


def test_what_takes_its_context_gets_it(backends):
    with scope():
        Item.objects.create(name="new")
        made: Any = task
        given = made(looks_with_context, backend="immediate", takes_context=True).enqueue(a=1)
    assert given.return_value == [{"a": 1}, "default"]


def test_a_task_of_another_make_gets_no_token(backends):
    # Its function would be given it.
    plain = task(looks, backend="plain")
    assert type(plain) is Task
    with scope():
        Item.objects.create(name="new")
        plain.using(backend="default").enqueue()
    assert run()["kwargs"] == {}


def test_tasks_keep_their_kind(backends):
    assert isinstance(task(looks), CarryingTask)
    assert isinstance(task(looks).using(queue_name="default"), CarryingTask)
    assert not hasattr(task(looks), "__dict__")
