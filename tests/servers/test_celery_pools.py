"""Celery's kinds of worker, with its own fixup for Django: leases, connections, an outage, ends."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from django_poolkit.testing import Cluster, Node
from django_poolkit.testing.waiting import wait_until
from example_project.processes import Child
from tests.celery_queue import leave_tasks
from tests.servers.conftest import Deploy
from tests.servers.project import PATIENCE, ROLE, Project, create_role

TASKS = "tests.servers.site.tasks"
CONCURRENCY = {"prefork": 2, "threads": 4, "gevent": 6}
# So that a task of ours which ends its own leases is seen: Celery's fixup ends none in so many.
REUSE = json.dumps({"CELERY_DB_REUSE_MAX": 1_000_000})


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A server that only these tests use: it is restarted, and its sessions are theirs."""
    with Cluster() as cluster:
        node = cluster.primary
        create_role(node)
        node.execute("CREATE TABLE noted (number integer PRIMARY KEY)")
        node.execute(f"GRANT ALL ON noted TO {ROLE}")
        yield node


class Worker:
    """A worker of a project."""

    def __init__(self, project: Project, *options: str, **environment: str) -> None:
        self.project = project
        words = ("celery", "-A", project.package, "worker", *options, "--loglevel", "INFO")
        self._logs = len(list(project.home.glob("logs/*")))
        # So that it can be asked where it hangs.
        environment = {"PYTHONFAULTHANDLER": "1", **environment}
        self.child: Child = project.serve(*words, **environment)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Tell it to stop, and wait until it has. Its processes are told by itself."""
        os.kill(self.child.pid, number)
        assert self.child.wait(PATIENCE) is not None, self.said()[-3000:]

    def said(self) -> str:
        """Return what it has said by now."""
        return (self.project.home / "logs" / str(self._logs)).read_text()

    def send(self, name: str, *arguments: Any, times: int = 1, **options: Any) -> list[str]:
        """Have it do a task."""
        queue = self.project.home / "queue"
        return leave_tasks(queue, f"{TASKS}.{name}", arguments, times=times, **options)

    def wait_for(self, pattern: str, times: int = 1) -> list[str]:
        """Wait until it has said something so often; return what stands in the parentheses."""

        def found() -> list[str]:
            self.child.check()
            every = re.findall(pattern, self.said())
            return every if len(every) >= times else []

        return wait_until(found, PATIENCE, self._hangs_where)

    def _hangs_where(self) -> str:
        """Return the end of what it has said, and the stacks of its processes, which end of it."""
        parent = self.child.pid
        with suppress(OSError):  # not on Linux, or it has just ended
            for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
                os.kill(int(pid), signal.SIGABRT)
        with suppress(TimeoutError):
            wait_until(lambda: "Fatal Python error: Aborted" in self.said(), 5.0)
        return self.said()[-6000:]

    def revoke(self, task: str) -> None:
        """Have a task terminated that it has begun."""
        with Celery("outside", broker="filesystem://", set_as_current=False) as celery:
            celery.conf.broker_transport_options = self.project.queue
            celery.control.revoke(task, terminate=True)

    def is_quiet(self) -> bool:
        """Tell whether it holds no connection."""
        return not any(pool["used"] or pool["waiters"] for pool in self.project.pools().values())

    def backends(self, times: int) -> set[str]:
        """Have it do so many more tasks; return by which processes, and on which connections."""
        before = len(re.findall(r"ask\[\S+\] succeeded", self.said()))
        self.send("ask", 0.01, times=times)
        every = self.wait_for(r"ask\[\S+\] succeeded in \S+: '(\d+/\d+)'", before + times)
        return set(every[before:])


def sessions(node: Node, project: Project) -> list[str]:
    """Return what the server's sessions for a project do."""
    query = "SELECT state FROM pg_stat_activity WHERE application_name LIKE %s"
    return [str(state) for [state] in node.execute(query, (f"pk:%:{project.package}",))]


@pytest.fixture(scope="module", params=CONCURRENCY)
def kind(request: pytest.FixtureRequest) -> str:
    """One of Celery's kinds of worker."""
    return str(request.param)


@contextmanager
def working(node: Node, deploy: Deploy, kind: str) -> Iterator[Worker]:
    """Have a worker of that kind. Told to stop in the end, it leaves nothing behind."""
    project = deploy(node, {"max_size": CONCURRENCY[kind]})
    options = ("--pool", kind, "--concurrency", str(CONCURRENCY[kind]))
    worker = Worker(project, *options)
    yield worker
    worker.backends(4)
    assert list(project.directory.glob("*.sock"))
    worker.stop()
    assert "Warm shutdown" in worker.said()
    assert not list(project.directory.glob("*.sock"))
    wait_until(lambda: not sessions(node, project), PATIENCE)
    assert "small_pool" not in worker.said()


@pytest.fixture(scope="module")
def worker(node: Node, deploy: Deploy, kind: str) -> Iterator[Worker]:
    """A worker that the tests share."""
    with working(node, deploy, kind) as worker:
        yield worker


def test_celerys_fixup_costs_no_connection(worker: Worker, kind: str) -> None:
    worker.backends(4 * CONCURRENCY[kind])
    seen = worker.backends(30)
    processes = {each.partition("/")[0] for each in seen}
    if kind == "prefork":
        assert len(seen) == len(processes) <= CONCURRENCY[kind]
    else:
        assert len(processes) == 1
        assert len(seen) <= CONCURRENCY[kind]
    wait_until(worker.is_quiet, PATIENCE)


def test_a_lease_ends_with_its_task_whatever_becomes_of_that(
    node: Node, deploy: Deploy, kind: str
) -> None:
    # One of its own, since its processes are killed.
    with working(node, deploy, kind) as worker:
        _whatever_becomes_of_tasks(worker, node, kind)


def _whatever_becomes_of_tasks(worker: Worker, node: Node, kind: str) -> None:
    worker.send("fail")
    worker.send("again")
    worker.send("leave")
    worker.wait_for(r"fail\[\S+\] raised unexpected: RuntimeError")
    worker.wait_for(r"again\[\S+\] succeeded")
    worker.wait_for(r"leave\[\S+\] succeeded")
    if kind == "prefork":
        worker.send("slow", 600.0, soft_time_limit=0.5)
        worker.wait_for("SoftTimeLimitExceeded")
        wait_until(lambda: "active" not in sessions(node, worker.project), PATIENCE)
        # What comes next kills the process, which cannot cancel anything.
        node.set("client_connection_check_interval", "200ms")
    if kind != "threads":
        worker.send("slow", 600.0, time_limit=0.5)
        worker.wait_for(r"Hard time limit \(0.5s\) exceeded")
        if kind == "prefork":
            worker.wait_for(r"exited with 'signal 9 \(SIGKILL\)'")
        wait_until(worker.is_quiet, PATIENCE)
        [task] = worker.send("slow", 600.0)
        where = f"celery {TASKS}.slow"
        worker.project.lease(where, statement="SELECT", status="active")
        worker.revoke(task)
        worker.wait_for(f"Terminating {task}")
    wait_until(worker.is_quiet, PATIENCE)
    # Nor does the server go on with what nobody waits for.
    wait_until(lambda: "active" not in sessions(node, worker.project), PATIENCE)
    node.reset("client_connection_check_interval")
    assert worker.backends(4)


def test_tasks_go_on_after_the_server_was_restarted(worker: Worker, node: Node) -> None:
    worker.backends(4)
    begun = set(worker.project.processes())
    numbers = range(200)
    for number in numbers[:100]:
        worker.send("note", number)
    worker.wait_for(r"note\[\S+\] succeeded", 20)
    node.restart()
    for number in numbers[100:]:
        worker.send("note", number)
    worker.wait_for(r"note\[\S+\] succeeded", len(numbers))
    wait_until(worker.is_quiet, PATIENCE)
    rows = {number for [number] in node.execute("SELECT number FROM noted")}
    acknowledged = {int(each) for each in re.findall(r"'noted (\d+)'", worker.said())}
    assert acknowledged == rows == set(numbers)
    assert begun <= set(worker.project.processes())
    node.execute("TRUNCATE noted")


def test_a_greenlet_that_waits_lets_the_others_run(node: Node, deploy: Deploy) -> None:
    project = deploy(node, {"max_size": 2, "timeout": PATIENCE})
    worker = Worker(project, "--pool", "gevent", "--concurrency", "6")
    worker.send("slow", 600.0, times=4)

    def full() -> bool:
        return {(each["used"], each["waiters"]) for each in project.pools().values()} == {(2, 2)}

    wait_until(full, PATIENCE, lambda: worker.said()[-3000:])
    worker.send("beat")
    worker.wait_for(r"beat\[\S+\] succeeded")
    assert full()
    # A cold end, with tasks that hold connections and others that wait for one.
    worker.stop(signal.SIGQUIT)
    wait_until(lambda: not sessions(node, project), PATIENCE)
    assert "event=small_pool pool=gevent concurrency=6" in worker.said()


def test_a_worker_says_that_its_pool_is_small(node: Node, deploy: Deploy) -> None:
    project = deploy(node, {"max_size": 2})
    options = ("--pool", "threads", "--concurrency", "3", "--without-mingle")
    worker = Worker(project, *options)
    [said] = worker.wait_for(r"WARNING\S* .*(event=small_pool .*)")
    assert "['OPTIONS']['pool']['max_size'] is 2" in said
    worker.stop()

    fitted = Worker(project, *options, FIT="1")
    fitted.backends(1)
    assert [pool["max_size"] for pool in project.pools().values()] == [4]
    assert "small_pool" not in fitted.said()
    fitted.stop()


@pytest.mark.parametrize(
    ("conf", "size", "why"),
    [
        ({"worker_pool": "gevent"}, {}, "gevent has not replaced what waits"),
        ({"worker_pool": "prefork"}, {"min_size": 3}, "['max_size'] (2) is below ['min_size'] (3)"),
    ],
    ids=["unpatched", "unfitting"],
)
def test_a_worker_that_cannot_be_served_does_not_start(
    node: Node, deploy: Deploy, conf: dict[str, str], size: dict[str, int], why: str
) -> None:
    project = deploy(node, size)
    worker = Worker(project, CELERY=json.dumps(conf), FIT="1")
    assert worker.child.wait(PATIENCE)
    assert why in worker.said()
    assert "Traceback" not in worker.said()


@pytest.mark.parametrize("kind", ["prefork", "threads"])
def test_our_own_receivers_end_the_leases(node: Node, deploy: Deploy, kind: str) -> None:
    project = deploy(node, {"max_size": 2})
    worker = Worker(project, "--pool", kind, "--concurrency", "2", CELERY=REUSE)
    worker.backends(3)
    wait_until(worker.is_quiet, PATIENCE)
    worker.stop()
