"""The thread of one check: there when it is needed, and gone when it is not."""

from __future__ import annotations

import threading
from unittest.mock import Mock

import pytest

from django_poolkit.health.worker import Worker
from django_poolkit.testing.waiting import wait_until

pytestmark = pytest.mark.core


@pytest.fixture
def make_worker():
    made = []

    def make(farewell=lambda: None, **options):
        made.append(Worker("test", farewell, **options))
        return made[-1]

    yield make
    for worker in made:
        worker.stop(5.0)
        assert not worker.alive


def ran_in(worker):
    """Return the thread in which a job runs."""
    seen: list[threading.Thread] = []
    done = threading.Event()

    def job():
        seen.append(threading.current_thread())
        done.set()

    worker.run(job)
    assert done.wait(5.0)
    return seen[0]


def test_it_has_no_thread_before_there_is_work(make_worker):
    worker = make_worker()
    assert not worker.alive
    thread = ran_in(worker)
    assert thread.name == "poolkit-health-test"
    assert thread.daemon


def test_one_thread_does_all_of_the_work_in_turn(make_worker):
    worker = make_worker()
    assert ran_in(worker) is ran_in(worker)


def test_without_work_the_thread_ends_after_a_farewell(make_worker):
    said = []
    worker = make_worker(lambda: said.append(threading.current_thread()), idle=0.05)
    thread = ran_in(worker)
    thread.join(5.0)
    assert not thread.is_alive()
    assert said == [thread]
    assert ran_in(worker) is not thread


def test_who_comes_during_the_farewell_is_served(make_worker):
    leaving, go_on = threading.Event(), threading.Event()

    def farewell():
        leaving.set()
        go_on.wait(5.0)

    worker = make_worker(farewell, idle=0.05)
    first = ran_in(worker)
    assert leaving.wait(5.0)
    served = threading.Event()
    worker.run(served.set)
    go_on.set()
    assert served.wait(5.0)
    assert first.is_alive()


def test_it_is_stopped_after_the_job_that_it_is_at(make_worker):
    farewell = Mock()
    worker = make_worker(farewell)
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def job():
        begun.set()
        go_on.wait(5.0)
        done.set()

    worker.run(job)
    assert begun.wait(5.0)
    worker.stop(0.0)
    assert worker.alive
    go_on.set()
    wait_until(lambda: not worker.alive, message="it goes on")
    assert done.is_set()
    assert farewell.call_count == 1


def test_a_thread_that_died_is_replaced(make_worker, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    worker = make_worker()
    seen = []

    def fatal():
        seen.append(threading.current_thread())
        raise SystemExit

    worker.run(fatal)
    wait_until(lambda: seen and not worker.alive, message="it lives on")
    assert ran_in(worker) is not seen[0]


def test_where_there_is_no_thread_the_job_is_not_left_for_later(make_worker, monkeypatch):
    worker, job = make_worker(), Mock()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("no more")))
        with pytest.raises(RuntimeError):
            worker.run(job)
    ran_in(worker)
    assert job.call_count == 0
