"""Pools of asyncpg behind a web server: many requests, clients that hang up, and streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from django_poolkit.testing import Node
from django_poolkit.testing.waiting import wait_until
from tests.servers.client import Reply
from tests.servers.conftest import Deploy
from tests.servers.project import PATIENCE
from tests.servers.serving import Site, serve

MOST = 4
MANY = 200
# What no request takes, unless nobody stops it.
FOR_EVER = 3600.0


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def site(request: pytest.FixtureRequest, database: Node, deploy: Deploy) -> Iterator[Site]:
    options = {"max_size": MOST, "TIMEOUT": PATIENCE}
    project = deploy(database, {"max_size": 2}, asyncpg=options)
    with serve(project, "uvicorn", 1, "--loop", request.param) as site:
        yield site


def pool(site: Site) -> dict[str, Any]:
    """Return what the worker says of its pool of asyncpg's; nothing before it has one."""
    (process,) = site.project.processes().values()
    return next((pool for pool in process["pools"] if pool["kind"] == "asyncpg"), {})


def is_home(site: Site) -> bool:
    """Tell whether nothing of that pool is leased, and nobody waits."""
    found = pool(site)
    assert found["size"] == found["idle"] + found["used"] + found["connecting"]
    return not (found["used"] or found["waiters"] or found["connecting"])


def running(site: Site, database: Node) -> int:
    """Return how many sessions of the project run a statement of the views."""
    found = database.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE %s"
        " AND state <> 'idle' AND query LIKE '%%pg_sleep(%%'",
        (f"pk:%:{site.project.package}",),
    )
    return int(found[0][0])


async def listen(site: Site, target: str) -> None:
    """Send a request, and read its answer until cancelled; then hang up."""
    reader, writer = await asyncio.open_unix_connection(site.project.home / "s")
    try:
        writer.write(f"GET {target} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        while await reader.read(500):
            pass
    finally:
        writer.close()


def hang_up(site: Site, database: Node, target: str) -> None:
    """Have more clients than connections ask, and hang up in the middle of it."""
    clients = [site.client.submit(listen(site, target)) for _ in range(3 * MOST)]
    wait_until(lambda: running(site, database) == MOST, PATIENCE)
    wait_until(lambda: pool(site)["waiters"] == 2 * MOST, PATIENCE)
    assert not any(client.done() for client in clients)
    for client in clients:
        client.cancel()
    assert site.client.get("/raw/?seconds=0").status == 200


def test_many_requests_share_few_connections_and_all_come_home(site: Site) -> None:
    asked = [site.client.start("/raw/?seconds=0.01") for _ in range(MANY)]
    most = 0
    while not all(each.done() for each in asked):
        most = max(most, pool(site).get("size", 0))
    replies: list[Reply] = [each.result(PATIENCE) for each in asked]
    assert [reply.status for reply in replies] == [200] * MANY
    assert len({json.loads(reply.body)["backend"] for reply in replies}) <= MOST
    assert 1 <= most <= MOST
    wait_until(lambda: is_home(site), PATIENCE)


@pytest.mark.parametrize(
    "target", [f"/raw/?seconds={FOR_EVER}", "/rows/?count=1000000&seconds=0.001"]
)
def test_clients_that_hang_up_cost_no_connection_and_no_query_runs_on(
    site: Site, database: Node, target: str
) -> None:
    hang_up(site, database, target)
    wait_until(lambda: is_home(site), PATIENCE)
    wait_until(lambda: running(site, database) == 0, PATIENCE)
    assert pool(site)["size"] <= MOST


def test_a_stream_arrives_whole(site: Site) -> None:
    reply = site.client.get("/rows/?count=1000&seconds=0")
    assert reply.body.split() == [str(number) for number in range(1, 1001)]
    wait_until(lambda: is_home(site), PATIENCE)


def test_sync_code_that_makes_a_loop_for_each_call_leaves_nothing(site: Site) -> None:
    replies = [site.client.start("/nested/") for _ in range(10)]
    assert [reply.result(PATIENCE).status for reply in replies] == [200] * 10
    wait_until(lambda: is_home(site), PATIENCE)
    assert pool(site)["size"] <= MOST
