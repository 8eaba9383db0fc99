"""What a Celery worker finds out about its pools before it starts."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from celery.concurrency import eventlet, prefork, solo, thread
from celery.exceptions import WorkerShutdown
from django.db import connections

from django_poolkit.contrib.celery import tasks, worker
from django_poolkit.http import background
from django_poolkit.pools import endings, patched
from django_poolkit.pools.postgres import greenlets

Start = Callable[..., str]


@pytest.fixture
def start(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Return a function that starts a worker whose pools have these options; it returns the log."""
    options = connections.settings["default"]["OPTIONS"]
    before = options["pool"]
    monkeypatch.setattr(worker, "_fits", False)

    def start(kind: ModuleType, concurrency: int, *, fit: bool = False, **pool: Any) -> str:
        options["pool"] = {"mode": "session", **pool}
        if fit:
            worker.fit_pools()
        facts = {"pool_cls": kind.TaskPool, "concurrency": concurrency, "max_concurrency": None}
        with caplog.at_level(logging.WARNING, "django_poolkit.celery"):
            worker.start(instance=SimpleNamespace(**facts))
        return caplog.text

    yield start
    options["pool"] = before


def size() -> int:
    """Return the `max_size` of the alias by now."""
    found: int = connections.settings["default"]["OPTIONS"]["pool"]["max_size"]
    return found


@pytest.mark.parametrize("kind", [prefork, solo])
def test_one_task_at_once_needs_one_connection(start: Start, kind: ModuleType) -> None:
    assert start(kind, 50, max_size=1) == ""


def test_threads_with_too_few_are_warned_of_once(start: Start) -> None:
    said = start(thread, 5, max_size=4)
    assert said.count("event=small_pool pool=thread concurrency=5") == 1
    assert "DATABASES['default']['OPTIONS']['pool']['max_size'] is 4" in said
    assert size() == 4


def test_as_many_as_there_are_tasks_will_do(start: Start) -> None:
    assert start(thread, 5, max_size=5) == ""


def test_in_transaction_mode_few_serve_many(start: Start) -> None:
    assert start(thread, 50, max_size=5, mode="transaction") == ""


@pytest.mark.parametrize(("kind", "fitting"), [(prefork, 2), (solo, 2), (thread, 51)])
def test_pools_are_fitted_where_that_is_asked_for(
    start: Start, kind: ModuleType, fitting: int
) -> None:
    assert start(kind, 50, fit=True, timeout=3.0) == ""
    assert size() == fitting
    assert connections.settings["default"]["OPTIONS"]["pool"]["timeout"] == 3.0


def test_what_scales_is_fitted_to_its_upper_bound() -> None:
    scaled = SimpleNamespace(pool_cls=thread.TaskPool, concurrency=2, max_concurrency=9)
    assert worker._tasks_at_once(scaled) == 9


def test_a_pool_that_cannot_be_fitted_is_refused(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(WorkerShutdown):
        start(prefork, 4, fit=True, min_size=3, max_size=8)
    assert "['max_size'] (2) is below ['min_size'] (3)" in caplog.text
    assert size() == 8


def test_eventlet_is_refused(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(WorkerShutdown):
        start(eventlet, 4)
    assert "eventlet is not supported" in caplog.text


def test_gevent_that_came_too_late_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patched, "is_patched", lambda module: True)
    reason = greenlets.why_greenlets_block("gevent")
    assert reason is not None
    assert "had been imported" in reason


def test_client_sessions_have_no_thread_where_gevent_has_taken_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background, "is_patched", lambda module: True)
    with pytest.raises(RuntimeError, match="gevent has made threads greenlets"):
        background.Background().run(lambda: pytest.fail("it was run"))


def test_a_task_bears_its_name() -> None:
    scope = tasks.TaskScope("shop.tasks.report")
    assert (scope.where(), scope.view()) == ("celery shop.tasks.report", "shop.tasks.report")


# What billiard does as a process of a worker ends, which other threads live in as well.
FAREWELL = """
import os, signal, threading
from django_poolkit.contrib.celery import worker
signal.signal(signal.SIGTERM, signal.SIG_DFL)
threading.Thread(target=threading.Event().wait, daemon=True).start()
worker.leave()
mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
os.kill(os.getpid(), signal.SIGTERM)
while signal.SIGTERM not in signal.sigpending():
    pass
os.write(1, b"said")
signal.pthread_sigmask(signal.SIG_SETMASK, mask)
os.write(1, b" too much")
"""


def test_a_process_that_ends_is_not_killed_while_it_says_so() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FAREWELL], stdout=subprocess.PIPE, timeout=60, check=False
    )
    assert (ended.stdout, ended.returncode) == (b"said", -signal.SIGTERM)


def test_the_end_of_a_process_that_was_not_told_to_end_stays_as_it_is() -> None:
    before = signal.getsignal(signal.SIGTERM)
    handler: Any = lambda number, frame: None  # noqa: E731
    signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(endings, "_functions", [])
            worker.leave()
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
