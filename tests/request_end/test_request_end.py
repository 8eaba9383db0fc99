"""Who may end a lease, and when: the rules between a request that is over and its threads."""

from __future__ import annotations

import contextvars
import gc
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakValueDictionary

import pytest
from django.db import connection as default_connection
from django.db import transaction

from django_poolkit.backends import request, request_end
from django_poolkit.backends.request import RequestScope
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing.waiting import wait_until
from tests.app.models import Item

pytestmark = pytest.mark.core

# Typed by django-stubs as any backend's.
connection: Any = default_connection


class Worker:
    """A thread that does one job after the other, in the context of a scope."""

    def __init__(self) -> None:
        self.executor = ThreadPoolExecutor(1)

    def do(self, scope: RequestScope, job: Callable[[], Any]) -> Any:
        """Have a job done, and return its result."""
        return self.begin(scope, job).result(10.0)

    def begin(self, scope: RequestScope, job: Callable[[], Any]) -> Any:
        def within() -> Any:
            with request.entered(scope):
                return job()

        return self.executor.submit(contextvars.Context().run, within)


@pytest.fixture
def worker(pool: ConnectionPool) -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.executor.shutdown()


@pytest.fixture
def scope(pool: ConnectionPool) -> RequestScope:
    return RequestScope(owned=True)


def take() -> Any:
    """Take a lease, by way of the ORM."""
    Item.objects.count()
    return connection._lease


def test_what_ends_in_another_context_than_it_began_in_is_no_error() -> None:
    """As a coroutine that its finalizer closes."""
    block, before = request.entered(RequestScope()), request.current()
    assert isinstance(contextvars.Context().run(block.__enter__), RequestScope)
    block.__exit__(None, None, None)
    assert request.current() is before


def test_an_error_passes_out_of_its_scope() -> None:
    with pytest.raises(RuntimeError, match="boom"), request.entered(RequestScope()) as entered:
        assert request.current() is entered
        raise RuntimeError("boom")
    assert request.current() is None


def test_a_wrapper_may_be_entered_while_it_is_asked_what_was_committed() -> None:
    scope = RequestScope()

    class Asked:
        entered: Any = None

        def may_have_committed(self) -> bool:
            self.entered = Asked()  # as a thread of gather() may do meanwhile
            scope.note_use(self.entered)
            return False

    asked: Any = Asked()
    scope.note_use(asked)
    assert not scope.may_have_committed()
    assert set(scope.wrappers) == {asked, asked.entered}


def test_threads_that_are_first_at_once_enter_into_one_set(
    scope: RequestScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrapper:
        def may_have_committed(self) -> bool:
            return False

    wrappers: list[Any] = [Wrapper() for _ in range(8)]
    together = threading.Barrier(len(wrappers))

    class Together(WeakValueDictionary[Any, Any]):
        """Made by all of them, before one of them has entered it."""

        def __init__(self) -> None:
            together.wait(10.0)
            super().__init__()

    monkeypatch.setattr(request, "WeakValueDictionary", Together)
    scope.forget_use(wrappers[0])
    assert len(scope.wrappers) == 0
    with ThreadPoolExecutor(len(wrappers)) as executor:
        list(executor.map(scope.note_use, wrappers))
    assert set(scope.wrappers) == set(wrappers)
    scope.forget_use(wrappers[0])
    assert not scope.may_have_committed()
    del wrappers[1:]
    gc.collect()
    assert len(scope.wrappers) == 0


def test_a_lease_that_was_given_back_by_itself_is_nobodys(
    scope: RequestScope, pool: ConnectionPool
) -> None:
    with request.entered(scope):
        take()
        assert len(scope.leases) == 1
        connection.close()
    assert not scope.leases
    request_end.finish(scope)
    assert pool.stats().used == 0


def test_the_lease_of_a_thread_at_rest(
    scope: RequestScope, worker: Worker, pool: ConnectionPool
) -> None:
    lease = worker.do(scope, take)
    request_end.finish(scope)
    wait_until(lambda: lease.released, 5.0)
    # And the thread notices: it takes another one.
    other = RequestScope(owned=True)
    assert worker.do(other, take) is not lease
    request_end.finish(other)
    wait_until(lambda: pool.stats().used == 0, 5.0)


def test_the_lease_of_a_thread_at_work(
    scope: RequestScope, worker: Worker, pool: ConnectionPool
) -> None:
    taken, go_on = threading.Event(), threading.Event()

    def job() -> Any:
        lease = take()
        taken.set()
        go_on.wait(10.0)
        return take() is lease

    result = worker.begin(scope, job)
    assert taken.wait(10.0)
    request_end.finish(scope)
    request_end._end_where_possible(scope)
    assert pool.stats().used == 1
    go_on.set()
    assert result.result(10.0), "taken from under a job at work"
    wait_until(lambda: pool.stats().used == 0, 5.0)


def test_a_job_that_goes_on_with_the_lease_of_an_earlier_one(
    scope: RequestScope, worker: Worker, pool: ConnectionPool
) -> None:
    """A task that outlives its request uses its thread again: that job counts from then on."""
    scope.over = True
    entered = [threading.Event(), threading.Event()]
    go_on = [threading.Event(), threading.Event()]

    def job(number: int) -> Any:
        lease = take()
        entered[number].set()
        go_on[number].wait(10.0)
        return lease, take()

    with _unwatched():
        first = worker.begin(scope, lambda: job(0))
        assert entered[0].wait(10.0)
        request_end._end_where_possible(scope)  # meets it at its first job
        second = worker.begin(scope, lambda: job(1))
        go_on[0].set()
        assert entered[1].wait(10.0)
        request_end._end_where_possible(scope)  # meets it at its second
        assert pool.stats().used == 1
        go_on[1].set()
        assert len({*first.result(10.0), *second.result(10.0)}) == 1
    request_end.finish(scope)
    wait_until(lambda: pool.stats().used == 0, 5.0)


class _unwatched:  # noqa: N801 - reads as a verb
    """Keep the watching thread away, for tests that look by themselves."""

    def __enter__(self) -> None:
        self._add = request_end._watch.add
        request_end._watch.add = lambda scope: None  # type: ignore[method-assign]

    def __exit__(self, *exc_info: object) -> None:
        request_end._watch.add = self._add  # type: ignore[method-assign]


def test_the_lease_of_a_thread_that_has_ended(scope: RequestScope, pool: ConnectionPool) -> None:
    def job() -> None:
        with request.entered(scope):
            transaction.set_autocommit(False)
            scope.over = True
            take()
            connection.in_atomic_block = True

    with _unwatched():
        thread = threading.Thread(target=job)
        thread.start()
        thread.join()
        # Identifiers of threads are used again: somebody else is at work under this one.
        thread._ident = threading.get_ident()  # type: ignore[attr-defined]
        with pool.lease():
            assert pool.stats().used == 2, "taken for a leak"
        request_end._end_where_possible(scope)
        assert pool.stats().used == 0


def test_a_thread_of_a_kind_unknown_keeps_its_lease(
    scope: RequestScope, pool: ConnectionPool
) -> None:
    """It waits in a queue of its own: whether that is for a job nobody knows."""
    jobs: queue.Queue[bool] = queue.Queue()
    taken = threading.Event()

    def loop() -> None:
        with request.entered(scope):
            take()
        taken.set()
        while jobs.get():
            pass

    thread = threading.Thread(target=loop)
    thread.start()
    assert taken.wait(10.0)
    request_end.finish(scope)
    request_end._end_where_possible(scope)
    assert pool.stats().used == 1
    jobs.put(False)
    thread.join()
    wait_until(lambda: pool.stats().used == 0, 5.0)


def test_a_thread_at_rest_in_the_middle_of_a_transaction(
    scope: RequestScope, worker: Worker, pool: ConnectionPool
) -> None:
    """A task that outlives its request may hold a block open from one job to the next."""
    scope.over = True
    block = transaction.atomic()
    with _unwatched():
        worker.do(scope, block.__enter__)
        lease = worker.do(scope, take)
        request_end._end_where_possible(scope)
        assert not lease.released
        worker.do(scope, lambda: Item.objects.create(name="late"))
        worker.do(scope, lambda: block.__exit__(None, None, None))
        request_end._end_where_possible(scope)
        wait_until(lambda: lease.released, 5.0)
    assert Item.objects.get().name == "late"


def test_a_request_that_is_over_holds_no_transaction_open(
    scope: RequestScope, worker: Worker, pool: ConnectionPool
) -> None:
    worker.do(scope, transaction.atomic().__enter__)
    worker.do(scope, lambda: Item.objects.create(name="never committed"))
    request_end.finish(scope)
    wait_until(lambda: pool.stats().used == 0, 5.0)
    assert not Item.objects.exists()


def test_another_request_takes_no_lease_over(scope: RequestScope, pool: ConnectionPool) -> None:
    with request.entered(scope):
        lease = take()
    scope.over = True
    other = RequestScope(owned=True)
    with request.entered(other):
        assert take() is not lease
    assert lease.released
    assert not scope.leases
    request_end.finish(other)


def test_nobody_ends_a_lease_twice(scope: RequestScope, pool: ConnectionPool) -> None:
    """Between a claim and the release that follows, the thread may come back."""
    with request.entered(scope):
        lease = take()
        scope.over = True
        assert scope.claim(lease)
        assert take() is not lease
        assert not lease.released
        assert pool.stats().used == 2
        lease.release()
    request_end.finish(scope)
    assert pool.stats().used == 0


def test_close_leaves_a_claimed_lease_to_who_has_claimed_it(
    scope: RequestScope, pool: ConnectionPool
) -> None:
    with request.entered(scope):
        lease = take()
        assert scope.claim(lease)
        connection.close()
    assert not lease.released
    lease.release()


def test_a_close_that_fails_loses_no_lease(
    scope: RequestScope, pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("boom")

    with request.entered(scope):
        take()
    with monkeypatch.context() as patch:
        patch.setattr(connection, "close", fail, raising=False)
        request_end.finish(scope)
    assert pool.stats().used == 0


def test_a_connection_shared_between_threads_is_left_alone(
    scope: RequestScope, pool: ConnectionPool
) -> None:
    connection.inc_thread_sharing()
    try:
        with request.entered(scope):
            lease = take()
            request_end.finish(scope)
            assert take() is lease
    finally:
        connection.dec_thread_sharing()
        connection.close()


def test_what_another_requests_lease_wrote_counts(pool: ConnectionPool) -> None:
    """Two requests on one thread share its connection, and what it has committed."""
    first, second = RequestScope(owned=True), RequestScope(owned=True)
    with request.entered(first):
        take()
    with request.entered(second):
        Item.objects.create(name="two")
        assert second.may_have_committed()
    request_end.finish(first)
    assert first.may_have_committed()


def test_what_was_written_counts_when_the_lease_has_ended(
    scope: RequestScope, pool: ConnectionPool
) -> None:
    with request.entered(scope):
        Item.objects.create(name="one")
        connection.close()
        assert scope.may_have_committed()
