"""uWSGI: a C program that forks, with threads that Python has not started."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import pytest

from django_poolkit.pools.postgres.naming import parse
from django_poolkit.testing import Cluster, Node
from django_poolkit.testing.waiting import wait_until
from tests.servers.client import Load
from tests.servers.conftest import Deploy
from tests.servers.project import PATIENCE, Project, create_role
from tests.servers.serving import UWSGI, Site, kill, serve

pytest.importorskip("pyuwsgi", reason="needs uWSGI, of which there is no wheel here")

MOST = 3


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A server that only these tests use, so that its sessions are theirs."""
    with Cluster() as cluster:
        create_role(cluster.primary)
        yield cluster.primary


@pytest.fixture
def project(node: Node, deploy: Deploy) -> Iterator[Project]:
    project = deploy(node, {"mode": "transaction", "max_size": MOST}, STEERING=True)
    yield project
    project.end()
    wait_until(lambda: not node.sessions(), PATIENCE, lambda: str(node.sessions()))


@pytest.fixture(params=sorted(UWSGI))
def site(request: pytest.FixtureRequest, project: Project) -> Iterator[Site]:
    with serve(project, request.param, 2) as site:
        yield site


def sessions(node: Node) -> Counter[int]:
    """Return how many connections the server has of each process."""
    names = [parse(session.application_name) for session in node.sessions()]
    return Counter(name.pid for name in names if name)


def test_each_worker_has_connections_of_its_own(site: Site, node: Node) -> None:
    """Not that of the process which they were forked from: it has queried before."""
    workers = site.workers()
    site.fill(1 if site.kind == "no threads" else MOST)
    wait_until(site.is_quiet, PATIENCE)
    truth = sessions(node)
    report = site.project.status()
    seen = {process["pid"]: process["pools"][0]["size"] for process in report["processes"]}
    assert seen == truth
    # Where the application is loaded before the fork, the first process has one, and keeps it.
    assert len(set(truth) - workers) == (site.kind == "forked")

    victim = min(workers)
    kill(victim)
    after = site.workers()
    assert len(after - workers) == 1
    assert after >= workers - {victim}
    wait_until(lambda: victim not in sessions(node), PATIENCE)


def test_no_worker_draws_what_another_draws(project: Project) -> None:
    drawn: dict[int, set[float]] = {}
    with serve(project, "forked", 2) as site:

        def both_have() -> bool:
            replies = [site.client.start("/draw/") for _ in range(8)]
            for reply in (each.result(PATIENCE) for each in replies):
                assert reply.status == 200, reply
                drawn.setdefault(reply.pid, set()).update(json.loads(reply.body)["drawn"])
            return len(drawn) == 2

        wait_until(both_have, PATIENCE)
    one, other = drawn.values()
    assert not one & other


@pytest.mark.parametrize(
    "kind", ["forked", *(pytest.param(k, marks=pytest.mark.slow) for k in ("lazy", "no threads"))]
)
def test_workers_that_are_replaced_lose_no_request(node: Node, project: Project, kind: str) -> None:
    with serve(project, kind, 2, "--max-requests", "8") as site:
        with Load(site.client, "/quick/", 10) as load:
            wait_until(lambda: len({reply.pid for reply in load.replies}) >= 4, PATIENCE)
        assert load.failed == []
        most = 1 + 2 * (1 if kind == "no threads" else MOST)
        wait_until(lambda: sessions(node).total() <= most, PATIENCE)


def test_one_that_is_told_to_stop_answers_what_it_has_begun_and_says_goodbye(
    node: Node, project: Project
) -> None:
    with serve(project, "no threads", 2) as site:
        site.workers()
        reply = site.client.start("/slow/?seconds=1.5")
        wait_until(lambda: any(p["used"] for p in project.pools().values()), PATIENCE)
        site.ask_to_stop()
        assert reply.result(PATIENCE).status == 200
    wait_until(lambda: not node.sessions(), PATIENCE)
    log = node.log_tail()
    assert "unexpected EOF" not in log
    assert "could not receive data" not in log
