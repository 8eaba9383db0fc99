"""Forks of a process that serves: the child serves its own, the parent's goes on.

Each in a process of its own, which shows all warnings and may say nothing on standard error.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PRELUDE = '''
import json, os, signal, sys, threading, time
from pathlib import Path
from django_poolkit.conf.control import ControlConfig
from django_poolkit.control import directory, server
from django_poolkit.control.client import ask_all
from django_poolkit.testing.waiting import wait_until

place = Path(sys.argv[1])
config = ControlConfig(directory=place, steering=True, service="tests")
gate = threading.Event()

def slow(arguments):
    assert gate.wait(10.0)
    return who(arguments)

def who(arguments):
    return {"pid": os.getpid(), "parent": os.getppid()}

def start():
    server.ensure_started(config, {"who": who, "slow": slow}, ())

def serving():
    """Who answers, and whether each is the one its name says."""
    answers = ask_all(config, "who", {})
    assert all(answer.error is None for answer in answers), answers
    assert all(answer.result["pid"] == answer.pid for answer in answers), answers
    return [answer.pid for answer in answers]

def sockets():
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            pass
    return {link for link in links if link.startswith("socket:")}

def fork(work, end="_exit"):
    """Run `work` in a child; return its process id and a function that waits for its answer."""
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
        if end == "exit":
            sys.exit(0)
        os._exit(0)
    os.close(write)
    def wait():
        with os.fdopen(read) as pipe:
            said = json.loads(pipe.read())
        _, status = os.waitpid(child, 0)
        assert status == 0, status
        assert "error" not in said, said
        return said["answer"]
    return child, wait
'''


@pytest.fixture
def run(place):
    def run(script):
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, "-W", "always", "-W", "ignore::DeprecationWarning", "-c",
              PRELUDE + textwrap.dedent(script), str(place)],
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
        # Nothing is left of the parent or of any child that ended as it should.
        return [path.name for path in place.iterdir()]

    return run


@pytest.mark.parametrize("end", ["_exit", "exit"])
def test_the_child_serves_its_own_and_the_parent_goes_on(run, end):
    left = run(
        f"""
        start()
        me = os.getpid()

        def child():
            assert server.running() is None
            assert serving() == [me]
            start()
            assert serving() == sorted([me, os.getpid()])
            assert threading.active_count() == 2
            return os.getpid()

        pid, wait = fork(child, {end!r})
        for _ in range(50):
            assert me in serving()
        assert wait() == pid
        assert serving() == [me]
        print("ok")
        """
    )
    assert left == []


def test_a_child_that_opens_no_pool_is_not_seen_and_takes_nothing_along(run):
    left = run(
        """
        start()
        me = os.getpid()

        def child():
            assert serving() == [me]
            return sorted(sockets() & before)

        before = sockets()
        _, wait = fork(child, "exit")
        assert len(before) == 3
        assert wait() == []
        assert serving() == [me]
        print("ok")
        """
    )
    assert left == []


def test_when_the_parent_is_killed_its_socket_is_dead_though_a_child_lives(run):
    run(
        """
        def middle():
            start()
            def child():
                time.sleep(60)
            pid, _ = fork(child)
            return pid

        read, write = os.pipe()
        parent = os.fork()
        if not parent:
            grandchild = middle()
            os.write(write, str(grandchild).encode())
            signal.pause()
        grandchild = int(os.read(read, 20))
        assert serving() == [parent]
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        os.kill(grandchild, 0)  # it lives
        assert serving() == []
        assert list(place.iterdir()) == []
        os.kill(grandchild, signal.SIGKILL)
        print("ok")
        """
    )


def test_who_is_being_served_is_served_by_the_parent(run):
    """And sees the end of the line when the parent hangs up, though the child lives on."""
    left = run(
        """
        start()
        me = os.getpid()
        answers = []
        asking = threading.Thread(
            target=lambda: answers.extend(ask_all(config, "slow", {}, timeout=20.0))
        )
        asking.start()
        wait_until(lambda: len(server.running()._visits._visits) == 1)

        def child():
            return len(sockets())

        _, wait = fork(child)
        assert wait() == 1  # of the client that asks in this very process
        gate.set()
        asking.join()
        assert [answer.result["pid"] for answer in answers] == [me]
        print("ok")
        """
    )
    assert left == []


def test_forks_while_others_ask_and_start(run):
    """Whatever a thread of the parent holds at that moment."""
    left = run(
        """
        start()
        me = os.getpid()
        stop = threading.Event()

        def keep_asking():
            while not stop.is_set():
                assert me in serving()

        asking = [threading.Thread(target=keep_asking) for _ in range(3)]
        for thread in asking:
            thread.start()

        def child():
            start()
            answers = ask_all(config, "who", {}, pids={os.getpid()})
            return [answer.result["pid"] for answer in answers]

        for _ in range(12):
            pid, wait = fork(child, "exit")
            assert wait() == [pid]
        stop.set()
        for thread in asking:
            thread.join()
        assert serving() == [me]
        print("ok")
        """
    )
    assert left == []


def test_a_fork_while_another_thread_starts_the_server(run):
    left = run(
        """
        inside, leave = threading.Event(), threading.Event()
        publish = directory.publish

        def held(path, listener):
            done = publish(path, listener)
            if threading.current_thread() is not threading.main_thread():
                inside.set()
                assert leave.wait(10.0)
            return done

        directory.publish = held
        starting = threading.Thread(target=start)
        starting.start()
        assert inside.wait(10.0)

        def child():
            start()  # whose lock the parent's thread holds
            return len([pid for pid in serving_own()])

        def serving_own():
            answers = ask_all(config, "who", {}, pids={os.getpid()})
            return [answer.result["pid"] for answer in answers]

        _, wait = fork(child, "exit")
        assert wait() == 1
        leave.set()
        starting.join()
        assert serving() == [os.getpid()]
        print("ok")
        """
    )
    assert left == []


def test_children_of_children(run):
    left = run(
        """
        start()
        me = os.getpid()

        def child():
            start()
            _, wait = fork(grandchild)
            seen = wait()
            assert serving() == sorted([me, os.getpid()])
            return [os.getpid(), *seen]

        def grandchild():
            start()
            assert len(serving()) == 3
            return [os.getpid()]

        _, wait = fork(child, "exit")
        assert len(set(wait())) == 2
        assert serving() == [me]
        print("ok")
        """
    )
    assert left == []
