"""PostgreSQL is restarted under load, and no request fails."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from django_poolkit.testing import Cluster, Node
from django_poolkit.testing.waiting import wait_until
from tests.servers.client import Load
from tests.servers.conftest import Deploy
from tests.servers.project import PATIENCE, create_role
from tests.servers.serving import Site, kill, serve

RATE = 50
# Long enough that a restart without a pause would cut several.
TARGET = "/slow/?seconds=0.05"


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A server that only these tests use."""
    with Cluster() as cluster:
        create_role(cluster.primary)
        yield cluster.primary


@pytest.fixture(scope="module")
def site(node: Node, deploy: Deploy) -> Iterator[Site]:
    # Who waits during a pause does so for as long as the pool's timeout.
    pool = {"mode": "transaction", "max_size": 4, "timeout": PATIENCE}
    project = deploy(node, pool, STEERING=True)
    with serve(project, "gthread", 3, "--preload") as site:
        yield site


def states(site: Site) -> dict[int, str]:
    return {pid: pool["state"] for pid, pool in site.project.pools().items()}


def test_a_restart_in_a_pause_fails_no_request(site: Site, node: Node) -> None:
    workers = site.workers()
    was = node.pid
    with Load(site.client, TARGET, RATE) as load:
        wait_until(lambda: len(load.replies) >= RATE, PATIENCE)
        site.project.manage("poolctl", "pause", "--all", "--for", "120", "--wait", "60")
        paused = time.monotonic()
        assert states(site) == dict.fromkeys(workers, "paused")
        assert node.sessions() == []
        node.restart()
        over = time.monotonic()
        site.project.manage("poolctl", "resume", "--all")
        resumed = time.monotonic()
        wait_until(lambda: any(r.started > resumed for r in load.replies), PATIENCE)

    assert node.pid != was
    assert load.failed == []
    waited = [reply for reply in load.replies if paused < reply.started < over]
    assert len(waited) > RATE * (over - paused) / 2
    assert all(reply.started + reply.seconds > over for reply in waited)


def test_a_worker_that_is_born_in_a_pause_is_paused(site: Site) -> None:
    before = site.workers()
    site.project.manage("poolctl", "pause", "--all", "--for", "120")
    victim = min(before)
    kill(victim)
    requests = []

    def born() -> set[int]:
        requests.append(site.client.start("/quick/"))
        return set(states(site)) - before

    [new] = wait_until(born, PATIENCE, lambda: str(states(site)), interval=0.1)
    assert states(site) == dict.fromkeys({*before, new} - {victim}, "paused")
    assert not any(request.done() for request in requests)

    site.project.manage("poolctl", "resume", "--all")
    assert {request.result(PATIENCE).status for request in requests} == {200}
    assert set(states(site).values()) == {"open"}


def test_the_status_of_pools_without_their_server(site: Site, node: Node) -> None:
    workers = site.workers()
    node.stop()
    try:
        report = site.project.status(code=2)
        assert {process["pid"] for process in report["processes"]} == workers
        [unreachable] = [p for p in report["problems"] if p["code"] == 2]
        assert "cannot be reached" in unreachable["text"]
    finally:
        node.start()
    wait_until(lambda: site.client.get("/quick/").status == 200, PATIENCE)
