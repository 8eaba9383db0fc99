"""Workers that are replaced after so many requests or tasks, and servers that are told to stop."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from django_poolkit.testing import Cluster, Node
from django_poolkit.testing.waiting import wait_until
from tests.celery_queue import leave_tasks
from tests.servers.client import Load
from tests.servers.conftest import Deploy
from tests.servers.project import PATIENCE, Project, create_role
from tests.servers.serving import serve

TASKS = 24
DONE = re.compile(r"tests\.servers\.site\.tasks\.slow\[\S+\] succeeded in \S+: (\d+)")


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A server that only these tests use, so that its sessions are theirs."""
    with Cluster() as cluster:
        create_role(cluster.primary)
        yield cluster.primary


def sessions(node: Node, project: Project) -> list[str]:
    """Return the names of the project's connections that the server has."""
    names = [session.application_name for session in node.sessions()]
    return [name for name in names if name.endswith(project.package)]


def test_celery_workers_that_are_replaced_leave_no_connection(node: Node, deploy: Deploy) -> None:
    project = deploy(node, {"max_size": 2})
    options = ("--pool", "prefork", "--concurrency", "2", "--max-tasks-per-child", "3")
    worker = project.serve(
        "celery", "-A", project.package, "worker", *options, "--loglevel", "INFO"
    )

    def finished() -> list[str]:
        worker.check()
        text = (project.home / "logs" / "0").read_text()
        assert "raised unexpected" not in text, text[-3000:]
        return DONE.findall(text)

    leave_tasks(project.home / "queue", "tests.servers.site.tasks.slow", [0.01], times=TASKS)
    wait_until(lambda: len(finished()) == TASKS, PATIENCE, worker.tail)
    # 24 tasks, 3 for each life of a process.
    assert len(set(finished())) >= TASKS // 3
    # Of the two that live now, one each at most.
    wait_until(lambda: len(sessions(node, project)) <= 2, PATIENCE)
    worker.stop(patience=PATIENCE)
    wait_until(lambda: not sessions(node, project), PATIENCE)


@pytest.mark.parametrize("kind", [pytest.param("sync", marks=pytest.mark.slow), "gthread"])
def test_web_workers_that_are_replaced_lose_no_request(
    node: Node, deploy: Deploy, kind: str
) -> None:
    project = deploy(node, {"max_size": 4})
    with serve(project, kind, 2, "--max-requests", "20") as site:
        first = site.workers()
        with Load(site.client, "/quick/", 40) as load:
            wait_until(lambda: len(load.replies) >= 110, PATIENCE)
        assert load.failed == []
        pids = {reply.pid for reply in load.replies}
        assert len(pids | first) >= 4
        most = 2 * (4 if kind == "gthread" else 1)
        wait_until(lambda: len(sessions(node, project)) <= most, PATIENCE)
    project.end()
    wait_until(lambda: not sessions(node, project), PATIENCE)


def test_a_server_that_is_told_to_stop_answers_what_it_has_begun(
    node: Node, deploy: Deploy
) -> None:
    project = deploy(node, {"max_size": 4})
    with serve(project, "gthread", 1, "--graceful-timeout", "30") as site:
        [worker] = site.workers()
        replies = [site.client.start("/slow/?seconds=1.5") for _ in range(3)]
        wait_until(lambda: project.pools()[worker]["used"] == 3, PATIENCE)
        began = time.monotonic()
        site.ask_to_stop()
        assert [reply.result(PATIENCE).status for reply in replies] == [200] * 3
        assert time.monotonic() - began < 30.0
    # They said goodbye: the server has not had to find out.
    wait_until(lambda: not sessions(node, project), PATIENCE)
    log = node.log_tail()
    assert "unexpected EOF" not in log
    assert "could not receive data" not in log
