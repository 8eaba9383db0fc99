"""FastAPI under a real uvicorn: every lease has a name, and comes home, whatever happens."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from django_poolkit.testing import Cluster, Node
from django_poolkit.testing.waiting import wait_until
from tests.neighbours.fastapi.serving import POOL_SIZE, Site, serving
from tests.servers.client import PATIENCE, Load

KINDS = (
    "plain", "atomic", "threaded", "bridged", "methods", "aatomic", "psycopg", "asyncpg",
    "sqlalchemy",
)  # fmt: skip


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def site(request: pytest.FixtureRequest, primary: Node) -> Iterator[Site]:
    """FastAPI alone: one worker in session mode, or two on uvloop in transaction mode."""
    options: dict[str, Any] = {"asyncio": {}, "uvloop": {"workers": 2, "mode": "transaction"}}
    chosen = options[request.param]
    with serving(primary, "fastapi", loop=request.param, **chosen) as site:
        yield site


def ask_all_workers(site: Site, target: str) -> None:
    """Ask until each worker has answered."""
    seen: set[int] = set()

    def all_seen() -> bool:
        seen.add(site.get(target)["pid"])
        return len(seen) == site.workers

    wait_until(all_seen, PATIENCE, lambda: f"only {seen}")


def test_endpoints_of_each_kind_write(site: Site) -> None:
    # More at once than there are connections.
    asked = [
        (kind, site.client.start(f"/write/{kind}/{number}"))
        for number in range(10)
        for kind in KINDS
    ]
    answers = [(kind, json.loads(reply.result(PATIENCE).body)) for kind, reply in asked]
    names = site.names()
    for kind, answer in answers:
        assert names[answer["item"]].startswith(f"{kind} ")
    ours = [name for name in names.values() if name.split()[0] in KINDS]
    assert len(ours) == len(set(ours)) == len(asked)
    threads = {kind: {a["thread"] for k, a in answers if k == kind} for kind in KINDS}
    assert all("AnyIO" in name for kind in ("plain", "atomic") for name in threads[kind])
    assert not any("AnyIO" in name for name in threads["threaded"])
    assert threads["bridged"] == threads["psycopg"] == {"MainThread"}
    site.wait_quiet()


def test_what_fails_is_rolled_back(site: Site) -> None:
    for kind in ("plain", "aatomic", "psycopg"):
        assert site.client.get(f"/fail/{kind}").status == 418
    site.wait_quiet()
    assert "lost" not in site.names().values()


def test_no_answer_is_sent_before_its_commit(site: Site) -> None:
    reply = site.client.get("/refused")
    assert reply.status == 500
    assert "well done" not in reply.body
    site.wait_quiet()


@pytest.mark.parametrize("kind", ["plain", "methods", "psycopg", "asyncpg"])
def test_leases_are_called_by_their_route(site: Site, kind: str) -> None:
    reply = site.client.start(f"/hold/{kind}/s3same?seconds=1.5")

    def found() -> list[dict[str, Any]]:
        return site.leases()

    [lease] = wait_until(found, PATIENCE, lambda: site.log)
    assert lease["where"] == f"GET /hold/{kind}/{{secret}}"
    assert "s3same" not in json.dumps(site.processes())
    assert reply.result(PATIENCE).status == 200
    site.wait_quiet()


def test_poolstatus_shows_them(site: Site) -> None:
    # What it prints comes from the same answers, so once is enough.
    ask_all_workers(site, "/write/plain/1")
    assert len(site.processes()) == site.workers
    for process in site.processes().values():
        assert {pool["name"] for pool in process["pools"]} >= {"default"}


@pytest.mark.parametrize("kind", ["plain", "methods", "psycopg", "asyncpg"])
def test_a_client_that_hangs_up(site: Site, kind: str) -> None:
    drop(site, f"/hold/{kind}/x?seconds=0.5")
    site.wait_quiet()


def test_a_client_that_leaves_a_stream(site: Site) -> None:
    drop(site, "/stream")
    site.wait_quiet()


def drop(site: Site, target: str) -> None:
    """Go away as soon as the request has a lease."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(site.path))
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        wait_until(site.leases, PATIENCE, lambda: site.log)


def test_what_runs_after_the_answer_gives_back_as_well(site: Site) -> None:
    site.get("/background")
    wait_until(lambda: "in the background" in site.names().values(), PATIENCE, lambda: site.log)
    site.wait_quiet()


def test_no_session_state_goes_on_to_the_next(site: Site) -> None:
    found = [site.get(target) for target in ("/session/set", "/session/look") * 5]
    threads = {each["thread"] for each in found}
    assert len(threads) == 1 or site.workers > 1, "the worker thread of the first is used again"
    assert {each["work_mem"] for each in found[::2]} == {"77MB"}
    assert "77MB" not in {each["work_mem"] for each in found[1::2]}


def test_the_state_of_both_lifespans(site: Site) -> None:
    reply = site.client.get("/state")
    assert json.loads(reply.body) == ["asyncpg:default", "own", "pool:default"]


def test_health_is_answered_before_the_application(site: Site) -> None:
    reply = site.client.get("/health/db")
    assert (reply.status, json.loads(reply.body)["status"]) == (200, "pass")


@pytest.fixture(scope="module")
def own_server() -> Iterator[Node]:
    """A server that only these tests use."""
    with Cluster() as cluster:
        yield cluster.primary


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_restart_of_the_database_under_traffic(own_server: Node, loop: str) -> None:
    with serving(own_server, "fastapi", loop=loop, mode="transaction") as site:
        numbers = itertools.count()
        loads = []
        for kind in KINDS:
            load = Load(site.client, f"/write/{kind}/0", 10)
            load._target = f"/write/{kind}/{next(numbers)}"
            loads.append(load)
        for load in loads:
            load.__enter__()
        try:
            wait_until(lambda: all(len(each.replies) > 3 for each in loads), PATIENCE)
            own_server.restart()
            over = time.monotonic()
            wait_until(
                lambda: all(
                    any(r.started > over and r.status == 200 for r in each.replies)
                    for each in loads
                ),
                PATIENCE,
                lambda: f"{[each.replies[-1] for each in loads]}\n{site.log}",
            )
        finally:
            for load in loads:
                load.__exit__(None, None, None)
        names = site.names()
        for load in loads:
            for reply in load.replies:
                if reply.status == 200:
                    assert json.loads(reply.body)["item"] in names, "acknowledged, and lost"
                else:
                    assert reply.started < over, reply
        for pool in site.wait_quiet():
            assert pool["max_size"] == POOL_SIZE
        site.get("/write/plain/1")


def test_it_stops_in_order(primary: Node) -> None:
    with serving(primary, "fastapi", loop="asyncio") as site:
        site.get("/write/plain/1")
        assert primary.sessions(dbname="fastapi")
        assert site.stop() == -signal.SIGTERM
        assert "resource=asgi:app event=closed" in site.log
        assert site.log.rstrip().endswith("event=stopped") or "event=stopped" in site.log
        assert not list((site.home / "c").glob("*.sock"))
        assert os.path.exists(site.home)


# -- Django mounted in it


@pytest.fixture(scope="module")
def mounted(primary: Node) -> Iterator[Site]:
    """FastAPI with Django mounted in it."""
    with serving(primary, "mounted", "mounted", loop="asyncio") as site:
        yield site


def test_django_in_fastapi_shares_its_pools(mounted: Site) -> None:
    item = mounted.get("/django/items/7")["item"]
    mounted.get("/write/plain/7")
    assert mounted.names()[item] == "django 7"
    assert mounted.log.count("event=started") == 1
    assert mounted.log.count("resource=pool:default event=opened") == 1
    [process] = mounted.processes().values()
    assert sorted(pool["name"] for pool in process["pools"]) == ["asyncpg:default", "default"]
    mounted.wait_quiet()


def test_views_of_a_mounted_django_have_their_names(mounted: Site) -> None:
    reply = mounted.client.start("/django/hold?seconds=1.5")
    [lease] = wait_until(mounted.leases, PATIENCE, lambda: mounted.log)
    assert lease["where"] == "GET hold"
    assert reply.result(PATIENCE).status == 200
    mounted.wait_quiet()
