"""Readiness where a project asks for more: its database, a resource, and a pool that is stuck."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from django_poolkit.testing import Node
from django_poolkit.testing.faults import TCPProxy
from django_poolkit.testing.waiting import wait_until
from tests.health.serving import PATIENCE, Server

POOL_SIZE = 2
STUCK_AFTER = 1.0
RESOURCES = ["tests.health.site.resources.broker"]


@pytest.fixture(scope="module")
def proxy(primary: Node) -> Iterator[TCPProxy]:
    with TCPProxy(primary.host, primary.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def site(primary: Node, proxy: TCPProxy) -> Iterator[Server]:
    entry: dict[str, Any] = {
        "ENGINE": "django_poolkit.backends.postgresql",
        **primary.django_settings("postgres"),
        "HOST": proxy.host,
        "PORT": str(proxy.port),
        "OPTIONS": {"pool": {"max_size": POOL_SIZE, "timeout": PATIENCE}},
    }
    health = {"GROUPS": {"ready": ["db:default"]}, "STUCK_AFTER": STUCK_AFTER}
    lifespan = {"POOLS": "lazy", "RESOURCES": RESOURCES}
    server = Server("uvicorn", {"default": entry}, health, LIFESPAN=lifespan)
    try:
        server.wait_up()
        yield server
        assert "s3same" not in server.log
    finally:
        server.close()


def test_an_optional_resource_warns_until_it_is_open(site: Server) -> None:
    broker = site.home / "broker"
    if not broker.exists():
        reply = site.probe("ready")
        assert (reply.status, reply.data) == (200, {"status": "warn"})
        found = site.check("ready", "resource:broker")
        assert (found["status"], found["reason"]) in [("warn", "unknown"), ("warn", "starting")]
        assert "s3same" not in str(site.details("ready"))
    # The process must not be without those that are required, and of these there is none.
    assert site.probe("startup").data == {"status": "pass"}
    broker.touch()
    wait_until(lambda: site.probe("ready").data == {"status": "pass"}, PATIENCE)
    assert site.check("ready", "resource:broker")["status"] == "pass"


def test_a_database_that_readiness_was_told_to_ask(site: Server, proxy: TCPProxy) -> None:
    site.wait_for("ready", 200)
    proxy.refuse()
    proxy.drop()
    try:
        site.wait_for("ready", 503, "unreachable")
        assert site.probe("live").status == 200
        assert site.probe("startup").status == 200
    finally:
        proxy.accept()
    site.wait_for("ready", 200)


def test_a_pool_that_stands_still(site: Server) -> None:
    site.wait_for("ready", 200)
    replies = [site.start("/hold/?seconds=5") for _ in range(POOL_SIZE + 1)]
    site.wait_for("db/default", 200, "saturated")  # at first it is merely busy
    site.wait_for("db/default", 503, "stuck")
    found = site.check("db/default", "db:default")
    assert (found["pool"]["used"], found["pool"]["waiters"]) == (POOL_SIZE, 1)
    assert site.probe("live").status == 200
    assert {reply.result(PATIENCE).status for reply in replies} == {200}
    site.wait_for("ready", 200)
