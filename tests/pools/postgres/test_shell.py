"""What is kept of psycopg_pool: its names, its statistics, its threads."""

from __future__ import annotations

import inspect
import threading
import time
import warnings
from unittest.mock import Mock

import psycopg_pool
import pytest
from psycopg_pool._acompat import spawn

from django_poolkit.pools.postgres import clock, shell
from django_poolkit.pools.postgres.errors import PoolClosed, PoolTimeout, TooManyWaiters
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import fill, queue_up

pytestmark = pytest.mark.core


def threads_of(pool):
    return [t for t in threading.enumerate() if t.name.startswith(f"{pool.name}-")]


def test_it_is_a_pool_of_psycopg_pool(make_pool):
    assert isinstance(make_pool(), psycopg_pool.ConnectionPool)


def test_it_has_all_that_one_has(make_pool):
    pool = make_pool()
    for name in dir(psycopg_pool.ConnectionPool):
        if not name.startswith("_"):
            assert hasattr(pool, name), name


@pytest.mark.parametrize("verb", ["getconn", "putconn", "connection", "resize", "close", "wait"])
def test_its_verbs_take_the_same_arguments(verb):
    from django_poolkit.pools.postgres import ConnectionPool

    theirs = inspect.signature(getattr(psycopg_pool.ConnectionPool, verb)).parameters
    ours = inspect.signature(getattr(ConnectionPool, verb)).parameters
    assert list(ours) == list(theirs)


class TestThreads:
    def test_one_that_an_interrupt_hid_ends_with_the_pool(self, make_pool, monkeypatch):
        pool = make_pool(max_size=2, num_workers=1)
        pool.open()

        def interrupted(*args, **kwargs):
            spawn(*args, **kwargs)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(shell, "spawn", interrupted)
            with pytest.raises(KeyboardInterrupt):
                pool.run_task(shell.Job(pool, "keep_house"))
        fill(pool, 1)
        assert len([t for t in threads_of(pool) if "worker" in t.name]) == 2
        wait_until(lambda: pool._outstanding == 0, message="a job is not done")
        pool.close()
        wait_until(lambda: threads_of(pool) == [], message="a worker goes on")

    def test_they_start_when_there_is_work(self, make_pool):
        pool = make_pool(max_size=4, num_workers=3)
        assert threads_of(pool) == []
        fill(pool, 1)
        assert [t.name for t in threads_of(pool)] == [f"{pool.name}-worker-0"]

    def test_an_idle_pool_has_none(self, make_pool, monkeypatch):
        monkeypatch.setattr(shell, "WORKER_IDLE", 0.05)
        pool = make_pool(max_size=4)
        fill(pool, 4)
        wait_until(lambda: threads_of(pool) == [], message="a worker stays")
        assert pool._workers == []
        pool.recycle()
        fill(pool, 2)  # they come back when there is work
        wait_until(lambda: threads_of(pool) == [], message="a worker stays")

    def test_workers_that_come_and_go_leave_no_job_undone(self, make_pool, monkeypatch):
        monkeypatch.setattr(shell, "WORKER_IDLE", 0.0005)
        pool = make_pool(max_size=2, num_workers=2)
        pool.open()
        done: list[int] = []
        pool.note = done.append
        for number in range(500):
            pool.run_task(shell.Job(pool, "note", number))
            time.sleep(0.0005 * (number % 3))
        wait_until(lambda: len(done) == 500, message=lambda: f"{len(done)} of 500 jobs")
        wait_until(lambda: (pool._born, pool._workers) == (0, []))

    def test_all_pools_of_a_process_share_the_one_that_waits(self, make_pool):
        pools = [make_pool(max_size=1) for _ in range(5)]
        for pool in pools:
            fill(pool, 1)
        assert len([t for t in threading.enumerate() if t.name == clock.NAME]) == 1

    def test_the_one_that_waits_ends_with_the_last_pool(self):
        mine = clock.Clock()
        pool = Mock(ended=False)
        jobs = [Mock(**{"pool.return_value": pool}) for _ in range(3)]
        for job, delay in zip(jobs, (0.02, 600.0, 0.01), strict=True):
            mine.enter(delay, job)
        thread = mine._thread
        assert thread is not None
        wait_until(lambda: jobs[0].tick.called and jobs[2].tick.called)
        assert not jobs[1].tick.called
        pool.ended = True
        mine.look()
        thread.join(10.0)
        assert not thread.is_alive()
        assert mine._thread is None
        pool.ended = False
        mine.enter(0.0, jobs[1])  # and is started again
        wait_until(lambda: jobs[1].tick.called)

    def test_no_more_than_were_asked_for(self, make_pool):
        gate = threading.Event()
        pool = make_pool(max_size=9, num_workers=2, configure=lambda c: gate.wait(10.0))
        calls = [queue_up(pool, pool.acquire) for _ in range(6)]
        wait_until(lambda: len([t for t in threads_of(pool) if "worker" in t.name]) == 2)
        gate.set()
        for call in calls:
            call.result().release()

    def test_they_do_not_keep_the_process(self, make_pool):
        pool = make_pool()
        fill(pool, 1)
        assert all(thread.daemon for thread in threads_of(pool))

    def test_none_is_left_after_close(self, make_pool):
        pool = make_pool(max_size=4, min_size=2)
        pool.open(wait=True, timeout=5.0)
        threads = threads_of(pool)
        assert threads
        pool.close()
        assert not any(thread.is_alive() for thread in threads)

    def test_a_pool_that_is_dropped_can_be_collected(self, params):
        from django_poolkit.pools.postgres import ConnectionPool

        pool = ConnectionPool(kwargs=params, max_size=1)
        fill(pool, 1)
        threads = threads_of(pool)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            del pool
            import gc

            gc.collect()
        wait_until(lambda: not any(thread.is_alive() for thread in threads), 5.0)


class TestStatistics:
    def test_the_names_are_psycopg_pools(self, make_pool):
        pool = make_pool(max_size=2)
        fill(pool, 2)
        theirs = {
            value
            for name, value in vars(psycopg_pool.base.BasePool).items()
            if name.isupper() and name.startswith("_") and isinstance(value, str)
        }
        assert set(pool.get_stats()) == theirs

    def test_they_count(self, make_pool):
        pool = make_pool(max_size=1, max_waiting=1)
        held = pool.acquire()
        call = queue_up(pool, pool.acquire)
        with pytest.raises(TooManyWaiters):
            pool.acquire()
        stats = pool.get_stats()
        assert stats["requests_waiting"] == 1
        assert stats["requests_errors"] == 1
        held.release()
        with call.result(), pytest.raises(PoolTimeout):
            pool.acquire(timeout=0.01)
        stats = pool.get_stats()
        assert stats["pool_size"] == stats["pool_available"] == 1
        assert (stats["pool_min"], stats["pool_max"]) == (0, 1)
        assert stats["requests_num"] == 4
        assert stats["requests_queued"] == 3
        assert stats["requests_errors"] == 2
        assert stats["requests_waiting"] == 0
        assert (stats["connections_num"], stats["connections_errors"]) == (1, 0)
        assert stats["connections_ms"] > 0

    def test_popping_begins_anew(self, make_pool):
        pool = make_pool(max_size=1)
        fill(pool, 1)
        assert pool.pop_stats()["requests_num"] == 1
        assert pool.get_stats()["requests_num"] == 0
        assert pool.get_stats()["pool_size"] == 1
        pool.acquire().release()
        assert pool.pop_stats()["requests_num"] == 1
        assert pool.stats().acquired == 2

    def test_what_was_lost_is_counted(self, make_pool, primary, app):
        pool = make_pool(max_size=2, kwargs={"application_name": app})
        fill(pool, 2)
        primary.kill_backends(app)
        pool.acquire().release()
        assert pool.get_stats()["connections_lost"] == 2


class TestRefusals:
    def test_a_closed_pool(self, make_pool):
        pool = make_pool(name="orders")
        fill(pool, 1)
        pool.close()
        with pytest.raises(PoolClosed, match="pool 'orders' has been closed and cannot be opened"):
            pool.acquire()
        with pytest.raises(psycopg_pool.PoolClosed):
            pool.open()
        assert pool.closed

    def test_waiting_for_one_that_is_not_open(self, make_pool):
        with pytest.raises(PoolClosed, match="is not open yet"):
            make_pool().wait()


class TestCloseReturns:
    def test_closing_a_connection_gives_it_back(self, make_pool):
        pool = make_pool(max_size=1, close_returns=True)
        connection = pool.getconn()
        connection.close()
        assert not connection.closed
        assert (pool.stats().used, pool.stats().idle) == (0, 1)
        assert pool.getconn() is connection
        pool.putconn(connection)

    def test_without_it_it_closes(self, make_pool):
        pool = make_pool(max_size=1)
        connection = pool.getconn()
        connection.close()
        assert connection.closed
        pool.putconn(connection)
        assert pool.stats().closed == {"broken": 1}

    def test_the_pool_itself_really_closes(self, make_pool, primary, app):
        pool = make_pool(max_size=2, close_returns=True, kwargs={"application_name": app})
        fill(pool, 2)
        pool.recycle()
        wait_until(lambda: primary.sessions(app) == [])
        pool.close()
