"""Web workers, seen and steered from another shell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from django_poolkit.pools.postgres.naming import parse
from django_poolkit.testing import Node
from django_poolkit.testing.waiting import wait_until
from tests.servers.client import Load
from tests.servers.conftest import Deploy
from tests.servers.project import PATIENCE
from tests.servers.serving import Site, held, kill, serve

# By kind: the program, how many workers, and the mode.
SERVERS = {
    "gthread": ("gunicorn", 3, "transaction"),
    "sync": ("gunicorn", 3, "session"),
    "uvicorn": ("uvicorn", 2, "session"),
}
MOST = 4

on_gthread = pytest.mark.parametrize("site", ["gthread"], indirect=True)


@pytest.fixture(scope="module", params=sorted(SERVERS))
def site(request: pytest.FixtureRequest, database: Node, deploy: Deploy) -> Iterator[Site]:
    _, size, mode = SERVERS[request.param]
    project = deploy(database, {"mode": mode, "max_size": MOST}, STEERING=True)
    # Else one worker takes requests that another one could serve.
    fair = ("--worker-connections", str(MOST + 1)) if request.param == "gthread" else ()
    with serve(project, request.param, size, *fair) as site:
        yield site


def on_server(site: Site, database: Node) -> Counter[int]:
    """Return how many connections the server has of each worker."""
    names = [parse(session.application_name) for session in database.sessions()]
    return Counter(name.pid for name in names if name and name.service == site.project.package)


def test_another_shell_sees_each_worker_and_counts_as_the_server_does(
    site: Site, database: Node
) -> None:
    program, size, mode = SERVERS[site.kind]
    workers = site.workers()
    wait_until(site.is_quiet, PATIENCE)
    report = site.project.status()

    assert {process["pid"] for process in report["processes"]} == workers
    for process in report["processes"]:
        [pool] = process["pools"]
        assert process["command"] == program
        assert process["service"] == site.project.package
        assert pool["mode"] == mode
        assert pool["acquired"] >= 1
    [server] = report["servers"]
    counted = {share["pids"][0]: share for share in server["shares"] if share["whose"] == "process"}
    truth = on_server(site, database)
    assert set(truth) == workers
    assert {pid: share["connections"] for pid, share in counted.items()} == truth
    assert {pid: share["open"] for pid, share in counted.items()} == truth
    assert server["may_open"] == size * MOST
    assert server["max_connections"] == int(database.execute("SHOW max_connections")[0][0])


def test_a_killed_worker_is_gone_at_the_next_look_and_the_new_one_comes(site: Site) -> None:
    before = site.workers()
    victim = min(before)
    kill(victim)
    seen = {process["pid"] for process in site.project.status()["processes"]}
    assert victim not in seen
    assert before - {victim} <= seen  # the new one may be there by now
    assert not list(site.project.directory.glob(f"{victim}-*"))

    after = site.workers()
    assert len(after - before) == 1
    assert set(site.project.pools()) == after


@pytest.mark.parametrize("calls", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_looking_under_load_leaves_nothing_behind(site: Site, calls: int) -> None:
    workers = site.workers()
    site.fill(1 if site.kind == "sync" else MOST)
    before: dict[int, tuple[int, int]] = {}

    def settled() -> bool:
        nonlocal before
        last, before = before, {pid: held(pid) for pid in workers}
        return last == before

    wait_until(settled, PATIENCE, interval=0.2)
    with Load(site.client, "/quick/", 50) as load:
        for _ in range(calls):
            assert set(site.project.processes(leases=True, pins=True)) == workers
    assert load.failed == []
    assert len(load.replies) > calls / 20
    now = {}

    def nothing_more() -> bool:
        now.update({pid: held(pid) for pid in workers})
        # Threads of earlier requests may have ended.
        return all(
            have <= had for pid in workers for have, had in zip(now[pid], before[pid], strict=True)
        )

    wait_until(nothing_more, PATIENCE, lambda: f"files and threads were {before}, are {now}")


VIEWS = {"gthread": ("/slow/", "GET slow"), "uvicorn": ("/aslow/", "GET aslow")}


@pytest.mark.parametrize("site", sorted(VIEWS), indirect=True)
def test_leases_name_the_view(site: Site, database: Node) -> None:
    address, where = VIEWS[site.kind]
    slow = site.client.start(f"{address}?seconds=60")
    lease = site.project.lease(where, status="active", statement="SELECT")
    listed = site.project.manage("poolstatus", "--leases")
    assert any(lease["id"] in line and where in line for line in listed.splitlines())
    database.execute("SELECT pg_cancel_backend(%s)", (lease["backend_pid"],))
    assert slow.result(PATIENCE).status == 500


def cells(table: str) -> set[tuple[str, ...]]:
    """Return the rows of a table."""
    return {tuple(line.split()) for line in table.splitlines()}


@pytest.mark.parametrize("site", ["gthread", "uvicorn"], indirect=True)
def test_drain_and_undrain_reach_every_worker(site: Site) -> None:
    def draining() -> dict[int, bool]:
        return {pid: process["draining"] for pid, process in site.project.processes().items()}

    workers = site.workers()
    assert draining() == dict.fromkeys(workers, False)
    said = site.project.manage("poolctl", "drain", "--all")
    assert {(str(pid), "draining") for pid in workers} <= cells(said)
    assert draining() == dict.fromkeys(workers, True)
    assert site.client.get("/quick/").status == 200

    said = site.project.manage("poolctl", "undrain", "--all")
    assert {(str(pid), "ready") for pid in workers} <= cells(said)
    assert draining() == dict.fromkeys(workers, False)


HANGING = {
    "in a statement": ("/slow/?seconds=60", "GET slow", "active"),
    "in a transaction": ("/accounts/idle/?seconds=60", "GET accounts:idle", "intrans"),
}


@on_gthread
@pytest.mark.parametrize("hanging", sorted(HANGING))
def test_a_killed_lease_costs_its_own_request_and_no_other(
    site: Site, database: Node, hanging: str
) -> None:
    target, where, status = HANGING[hanging]
    site.workers()
    with Load(site.client, "/quick/", 25) as load:
        victim = site.client.start(target)
        lease = site.project.lease(where, status=status)
        site.project.manage("poolctl", "kill-lease", lease["id"])
        assert victim.result(PATIENCE).status == 500
        served = len(load.replies)
        wait_until(lambda: len(load.replies) >= served + 10, PATIENCE)
    assert load.failed == []
    wait_until(site.is_quiet, PATIENCE)
    site.fill(MOST)  # its slot is free again
    backends = "SELECT pid FROM pg_stat_activity WHERE pid = %s"
    assert not database.execute(backends, (lease["backend_pid"],))
