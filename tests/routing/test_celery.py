"""Celery: a real worker, whose one thread runs one task after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, signals
from celery.contrib.testing.worker import start_worker
from django.db import connections, transaction

from django_poolkit.contrib import celery as poolkit_celery
from django_poolkit.routing import scope, scopes
from tests.app.models import Item
from tests.routing.conftest import alias_of, seen

PATIENCE = 30.0
SIGNALS = (signals.before_task_publish, signals.task_prerun, signals.task_postrun)


@pytest.fixture(scope="module", autouse=True)
def root_level() -> Iterator[None]:
    """A worker sets the level of the root logger: other tests read what is logged."""
    before = logging.getLogger().level
    yield
    logging.getLogger().setLevel(before)


@pytest.fixture(scope="module")
def installed() -> Iterator[None]:
    """Celery's signals, connected with ours for these tests."""
    before = [list(signal.receivers or ()) for signal in SIGNALS]
    poolkit_celery.install()
    poolkit_celery.install()
    yield
    for signal, receivers in zip(SIGNALS, before, strict=True):
        signal.receivers = receivers
        signal.sender_receivers_cache.clear()


def app_with_tasks(**conf: Any) -> Any:
    """Return an app whose broker is in this process."""
    app: Any = Celery("tests", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(
        worker_hijack_root_logger=False,
        worker_log_color=False,
        broker_transport_options={"polling_interval": 0.01},
        **conf,
    )

    task: Callable[..., Callable[[Any], Any]] = app.task

    @task(name="looks", shared=False)
    def looks() -> list[str]:
        found = [alias_of(), *sorted(seen())]
        connections.close_all()
        return found

    @task(name="writes", shared=False)
    def writes(then: str = "") -> list[str]:
        before = alias_of()
        Item.objects.create(name="by a task")
        if then:
            app.send_task(then)
        found = [before, alias_of()]
        connections.close_all()
        return found

    @task(name="fails", shared=False)
    def fails() -> None:
        Item.objects.create(name="by a task")
        connections.close_all()
        raise RuntimeError

    @task(name="again", shared=False, bind=True, max_retries=1, default_retry_delay=0)
    def again(this: Any) -> list[str]:
        if not this.request.retries:
            connections.close_all()
            raise this.retry(countdown=0)
        found = [alias_of(), *sorted(seen())]
        connections.close_all()
        return found

    return app


@pytest.fixture(scope="module")
def app() -> Iterator[Any]:
    """One for all of these tests."""
    with app_with_tasks() as app:
        yield app


@pytest.fixture(scope="module")
def started(installed: None, app: Any) -> Iterator[None]:
    """A worker of one thread."""
    with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=PATIENCE):
        yield


@pytest.fixture
def worker(paused: Any, started: None, app: Any) -> Any:
    """That worker's app, and replicas that get nothing new."""
    return app


def result_of(sent: Any) -> Any:
    return sent.get(timeout=PATIENCE, interval=0.01)


def test_a_task_sees_what_was_committed_before_it_was_sent(worker):
    with scope():
        with transaction.atomic():
            Item.objects.create(name="new")
            sent: list[Any] = []
            transaction.on_commit(lambda: sent.append(worker.send_task("looks")))
        assert result_of(sent[0]) == ["default", "new", "old"]


def test_one_that_was_sent_by_who_has_written_nothing_reads_a_replica(worker):
    with scope():
        assert result_of(worker.send_task("looks")) == ["replica", "old"]


@pytest.mark.parametrize("first", ["writes", "fails"])
def test_a_task_leaves_nothing_to_the_next_in_its_thread(worker, first):
    result = worker.send_task(first)
    result.get(timeout=PATIENCE, interval=0.01, propagate=False)
    assert result_of(worker.send_task("looks")) == ["replica", "old"]
    assert result_of(worker.send_task("writes")) == ["replica", "default"]
    assert result_of(worker.send_task("looks")) == ["replica", "old"]


def test_neither_does_what_was_brought_to_it(worker):
    with scope():
        Item.objects.create(name="new")
        sent = worker.send_task("looks")
    assert result_of(sent)[0] == "default"
    assert result_of(worker.send_task("looks")) == ["replica", "old"]


def test_a_task_that_is_tried_again_still_sees_it(worker):
    with scope():
        Item.objects.create(name="new")
        sent = worker.send_task("again")
    assert result_of(sent) == ["default", "new", "old"]


def test_a_task_of_a_task_sees_what_that_wrote(worker):
    found: list[Any] = []

    def keep(sender: Any = None, retval: Any = None, **kwargs: Any) -> None:
        if sender.name == "looks":
            found.append(retval)

    signals.task_postrun.connect(keep)
    try:
        result_of(worker.send_task("writes", ["looks"]))
        result_of(worker.send_task("writes"))  # behind it in the queue
    finally:
        signals.task_postrun.disconnect(keep)
    assert found == [["default", "by a task", "old"]]


def test_a_forged_token_is_none(worker):
    headers = {poolkit_celery.HEADER: "'; DROP TABLE app_item; --"}
    assert result_of(worker.send_task("looks", headers=headers)) == ["replica", "old"]


def test_an_eager_task_is_a_part_of_what_calls_it(paused, installed):
    with app_with_tasks(task_always_eager=True) as app:
        with scope() as here:
            Item.objects.create(name="new")
            assert app.tasks["looks"].delay().get() == ["default", "new", "old"]
            assert scopes.current() is here
            assert not here.over
        assert scopes.current() is None
        assert app.tasks["writes"].delay().get() == ["replica", "default"]
        assert scopes.current() is None
