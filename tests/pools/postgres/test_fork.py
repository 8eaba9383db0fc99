"""Forks, each in a process of its own: the child starts anew, the parent notices nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

# What every script begins with. `pids` are server processes, asked of the server itself.
PRELUDE = '''
import json, multiprocessing, os, signal, sys, threading, time
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.postgres.errors import LeaseReleased, PoolClosed
from django_poolkit.testing.waiting import wait_until

params = json.loads(os.environ["POOL_PARAMS"])

def pid(lease):
    return lease.connection.execute("SELECT pg_backend_pid()").fetchone()[0]

def ask(pool, times=1):
    for _ in range(times):
        with pool.lease(10.0) as connection:
            answer = connection.execute("SELECT pg_backend_pid()").fetchone()[0]
    return answer

def fill(pool, count):
    leases = [pool.acquire() for _ in range(count)]
    pids = [pid(lease) for lease in leases]
    for lease in leases:
        lease.release()
    return pids

def fork(work, end="_exit"):
    """Run `work` in a child; return a function that waits for it and returns its answer."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        try:
            answer = {"answer": work()}
        except BaseException as error:
            answer = {"error": repr(error)}
        os.write(write, json.dumps(answer).encode())
        os.close(write)
        if end == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if end == "exit":
            sys.exit(0)  # with all that an interpreter does at its end
        os._exit(0)
    os.close(write)
    def wait():
        with os.fdopen(read) as pipe:
            said = json.loads(pipe.read())
        _, status = os.waitpid(child, 0)
        assert status == (signal.SIGKILL if end == "kill" else 0), status
        assert "error" not in said, said
        return said["answer"]
    return wait
'''


@pytest.fixture
def run(params, primary, app):
    def run(script):
        names = params | {"application_name": app}
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        script = PRELUDE + textwrap.dedent(script)
        done = subprocess.run(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script],
            env=os.environ | {"POOL_PARAMS": json.dumps(names), "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == "ok\n", done.stdout + done.stderr
        # Nothing is left of the parent or of any child.
        assert primary.sessions(app) == []

    return run


@pytest.mark.core
@pytest.mark.parametrize("end", ["_exit", "exit", "kill"])
def test_both_go_on_however_the_child_ends(run, end):
    run(
        f"""
        pool = ConnectionPool(kwargs=params, max_size=4)
        idle = fill(pool, 3)
        lease = pool.acquire()
        mine = pid(lease)
        before = pool.stats()

        def child():
            assert pool.stats().size == 0
            assert pool.stats().acquired == 0
            own = ask(pool, 200)
            assert own not in idle, "the parent's backend"
            assert pool.stats().connects == 1
            return own

        wait = fork(child, {end!r})
        for _ in range(200):  # at the same time, on the same sockets if it went wrong
            assert pid(lease) == mine
        wait()
        assert pid(lease) == mine
        lease.release()
        assert {{ask(pool) for _ in range(5)}} <= set(idle)
        leases = [pool.acquire() for _ in range(3)]
        assert sorted(pid(each) for each in leases) == sorted(idle)
        assert pool.stats().connects == before.connects
        assert pool.stats().closed == {{}}
        pool.close()
        print("ok")
        """
    )


@pytest.mark.core
def test_a_lease_of_the_parent_is_refused_in_the_child(run):
    run(
        """
        pool = ConnectionPool(kwargs=params, max_size=2)
        lease = pool.acquire()
        connection = pool.getconn()
        cursor = lease.connection.execute("SELECT generate_series(1, 3)")
        raw = lease.connection

        def refused(use):
            try:
                use()
            except LeaseReleased:
                return True

        def child():
            assert lease.released and lease.connection is None
            assert refused(lease.release) and refused(lease.discard)
            assert refused(lambda: raw.execute("SELECT 1"))
            assert refused(lambda: connection.cursor())
            assert refused(cursor.fetchone) and refused(lambda: cursor.execute("SELECT 1"))
            cursor.close()
            ask(pool)

        fork(child)()
        assert cursor.fetchall() == [(1,), (2,), (3,)]
        lease.release()
        pool.putconn(connection)
        pool.close()
        print("ok")
        """
    )


@pytest.mark.core
def test_with_a_waiter_in_the_queue_and_a_worker_in_a_connect(run):
    run(
        """
        parent, gate, at = os.getpid(), threading.Event(), threading.Event()

        def configure(connection):
            if os.getpid() == parent and held:
                at.set()
                assert gate.wait(30.0)

        held = []
        pool = ConnectionPool(kwargs=params, max_size=2, configure=configure, timeout=30.0)
        held.append(pool.acquire())
        served = []

        def wait_in_line():
            lease = pool.acquire()
            served.append(pid(lease))
            lease.release()

        waiters = [threading.Thread(target=wait_in_line) for _ in range(3)]
        for waiter in waiters:
            waiter.start()
        assert at.wait(30.0)
        wait_until(lambda: pool.stats().waiters == 3)

        def child():
            stats = pool.stats()
            assert (stats.waiters, stats.connecting, stats.size) == (0, 0, 0)
            return ask(pool, 20)

        own = fork(child, "exit")()
        assert own != pid(held[0])
        assert pool.stats().waiters == 3
        gate.set()
        for waiter in waiters:
            waiter.join(10.0)
        assert len(served) == 3 and own not in served
        held[0].release()
        assert pool.stats().size == 2
        pool.close()
        print("ok")
        """
    )


@pytest.mark.core
def test_while_another_thread_is_inside_the_pool(run):
    """Its locks are held for ever by a thread that the child does not have."""
    run(
        """
        pool = ConnectionPool(kwargs=params, max_size=2)
        mine = ask(pool)
        inside, leave = threading.Event(), threading.Event()

        def hold():
            with pool._lock, pool._jobs_lock, pool._sched._lock:
                inside.set()
                leave.wait(30.0)

        holder = threading.Thread(target=hold)
        holder.start()
        assert inside.wait(10.0)
        wait = fork(lambda: ask(pool, 5))
        own = wait()
        leave.set()
        holder.join()
        assert ask(pool) == mine != own
        pool.close()
        print("ok")
        """
    )


def test_children_of_children_and_many_at_once(run):
    run(
        """
        pool = ConnectionPool(kwargs=params, max_size=2)
        mine = ask(pool)

        def child():
            own = ask(pool)
            grand = fork(lambda: ask(pool, 10))()
            assert ask(pool) == own
            return [own, grand]

        waits = [fork(child) for _ in range(4)]
        seen = [mine] + [backend for wait in waits for backend in wait()]
        assert len(seen) == len(set(seen)) == 9, seen
        assert ask(pool) == mine
        pool.close()
        print("ok")
        """
    )


def test_workers_of_multiprocessing(run):
    run(
        """
        pool = ConnectionPool(kwargs=params, max_size=2)

        def work(number):
            return os.getpid(), ask(pool, 20)

        if __name__ == "__main__":
            mine = ask(pool)
            with multiprocessing.get_context("fork").Pool(3, maxtasksperchild=4) as workers:
                answers = workers.map(work, range(24), chunksize=2)
                workers.close()
                workers.join()
            backends = {}
            for process, backend in answers:
                backends.setdefault(process, set()).add(backend)
            assert all(len(of_one) == 1 for of_one in backends.values()), backends
            assert mine not in set().union(*backends.values())
            assert ask(pool) == mine
            pool.close()
            print("ok")
        """
    )


@pytest.mark.core
def test_what_was_closed_or_never_open_is_so_in_the_child(run):
    run(
        """
        closed, fresh = ConnectionPool(kwargs=params), ConnectionPool(kwargs=params)
        ask(closed)
        closed.close()

        def child():
            try:
                closed.acquire()
            except PoolClosed:
                pass
            else:
                raise AssertionError("it is open again")
            assert fresh.stats().connects == 0
            return ask(fresh)

        fork(child)()
        assert fresh.stats().connects == 0
        fresh.close()
        print("ok")
        """
    )


@pytest.mark.core
def test_the_child_closes_its_own_and_nothing_else(run):
    """An explicit close() in the child must not reach the sessions of the parent."""
    run(
        """
        pool = ConnectionPool(kwargs=params, max_size=3)
        idle = fill(pool, 2)
        lease = pool.acquire()
        mine = pid(lease)

        def child():
            ask(pool)
            pool.recycle()
            pool.check()
            pool.resize(0, 1)
            pool.close()

        fork(child, "exit")()
        assert pid(lease) == mine
        lease.release()
        leases = [pool.acquire() for _ in range(2)]
        assert sorted(pid(each) for each in leases) == sorted(idle)
        assert pool.stats().closed == {}
        pool.close()
        print("ok")
        """
    )


@pytest.mark.core
def test_a_lost_lease_of_the_parent_is_the_parents(run):
    run(
        """
        import gc, warnings
        warnings.simplefilter("ignore")
        pool = ConnectionPool(kwargs=params, max_size=1)
        circle = [pool.acquire()]
        circle.append(circle)
        backend = pid(circle[0])
        del circle

        def child():
            gc.collect()
            return ask(pool)

        assert fork(child, "exit")() != backend
        gc.collect()
        assert ask(pool) == backend
        assert pool.stats().leaks == 1
        pool.close()
        print("ok")
        """
    )
