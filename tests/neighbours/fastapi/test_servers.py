"""FastAPI under a real uvicorn: every lease has a name, and comes home, whatever happens."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from django_poolkit.testing import Cluster, Node
from django_poolkit.testing.waiting import wait_until
from tests.neighbours.fastapi.serving import POOL_SIZE, Site, serving
from tests.neighbours.fastapi.site.routes import KINDS
from tests.servers.client import PATIENCE, Load


@pytest.fixture(scope="module")
def server() -> Iterator[Node]:
    """A server that only these tests use, since one restarts it."""
    with Cluster() as cluster:
        yield cluster.primary


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def site(request: pytest.FixtureRequest, server: Node) -> Iterator[Site]:
    """FastAPI alone, in session mode; with two workers in transaction mode, and Django mounted."""
    ways: dict[str, dict[str, Any]] = {
        "asyncio": {"app": "alone"},
        "uvloop": {"app": "mounted", "workers": 2, "mode": "transaction"},
    }
    with serving(
        server, f"site_{request.param}", loop=request.param, **ways[request.param]
    ) as site:
        yield site
        site.wait_quiet()
        site.stop()
        assert site.log.count("event=stopped") == site.workers, site.log
        assert site.log.count("resource=asgi:app event=closed") == site.workers
        assert not list((site.home / "c").glob("*.sock"))


in_django = pytest.mark.parametrize("site", ["uvloop"], indirect=True)


def test_endpoints_of_each_kind_write(site: Site) -> None:
    # More at once than there are connections.
    asked = [
        (kind, site.client.start(f"/write/{kind}/{number}"))
        for number in range(10)
        for kind in KINDS
    ]
    answers = [(kind, json.loads(reply.result(PATIENCE).body)) for kind, reply in asked]
    names = site.names()
    written = {names[answer["item"]] for _, answer in answers}
    assert written == {f"{kind} {number}" for kind in KINDS for number in range(10)}
    threads = {kind: {a["thread"] for k, a in answers if k == kind} for kind in KINDS}
    assert all("AnyIO" in name for kind in ("plain", "atomic") for name in threads[kind])
    assert not any("AnyIO" in name for name in threads["threaded"])
    assert threads["bridged"] == threads["psycopg"] == {"MainThread"}
    site.wait_quiet()


def test_what_fails_is_rolled_back(site: Site) -> None:
    for kind in ("plain", "aatomic", "psycopg", "sqlalchemy"):
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

    name = f"GET /hold/{kind}/{{secret}}"
    wait_until(lambda: site.wheres() == [name], PATIENCE, lambda: str(site.leases()))
    assert "s3same" not in json.dumps(site.processes())
    assert reply.result(PATIENCE).status == 200
    site.wait_quiet()


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
    assert (reply.status, json.loads(reply.body)) == (200, {"status": "pass"})


def test_a_restart_of_the_database_under_traffic(site: Site, server: Node) -> None:
    with ExitStack() as stack:
        loads = [
            stack.enter_context(Load(site.client, f"/write/{kind}/{number}", 10))
            for number, kind in enumerate(KINDS, start=1000)
        ]

        def all_write(since: float, times: int) -> bool:
            good = [[r for r in each.replies if r.status == 200] for each in loads]
            return all(sum(r.started > since for r in each) >= times for each in good)

        wait_until(lambda: all_write(0.0, 3), PATIENCE, lambda: site.log)
        server.restart()
        over = time.monotonic()
        wait_until(lambda: all_write(over, 3), PATIENCE, lambda: site.log)
    names = site.names()
    for load in loads:
        for reply in load.replies:
            if reply.status == 200:
                assert json.loads(reply.body)["item"] in names, "acknowledged, and lost"
            else:  # it was under way as the server went away
                assert reply.started < over, reply
    for pool in site.wait_quiet():
        assert pool["max_size"] == POOL_SIZE


@in_django
def test_django_in_fastapi_shares_its_pools(site: Site) -> None:
    item = site.get("/django/items/7")["item"]
    site.get("/write/plain/7")
    assert site.names()[item] == "django 7"
    # Opened once in each worker, whichever of the two wrappers is further out.
    assert site.log.count("event=started") == site.workers
    assert site.log.count("resource=pool:default event=opened") == site.workers
    for process in site.processes().values():
        assert sorted(each["name"] for each in process["pools"]) == ["asyncpg:default", "default"]


@in_django
def test_views_of_a_mounted_django_have_their_names(site: Site) -> None:
    reply = site.client.start("/django/hold?seconds=1.5")
    wait_until(lambda: site.wheres() == ["GET hold"], PATIENCE, lambda: str(site.leases()))
    assert reply.result(PATIENCE).status == 200
    site.wait_quiet()
