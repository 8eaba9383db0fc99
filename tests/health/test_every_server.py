"""Every server that Django runs under answers for health, and tells who it is that asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from django_poolkit.testing import Node
from tests.health.serving import KUBELET, OTHERS, TOKEN, Server

LOOPBACK = ["127.0.0.0/8", "10.0.0.0/8"]


@pytest.fixture(scope="module", params=sorted(OTHERS))
def site(request: pytest.FixtureRequest, primary: Node) -> Iterator[Server]:
    entry: dict[str, Any] = {
        "ENGINE": "django_poolkit.backends.postgresql",
        **primary.django_settings("postgres"),
        "OPTIONS": {"pool": {"max_size": 2}},
    }
    # A machine that is busy takes its time.
    health = {"TRUSTED_NETWORKS": LOOPBACK, "TIMEOUT": 20.0}
    server = Server(request.param, {"default": entry}, health)
    try:
        server.wait_up()
        yield server
    finally:
        server.close()


def test_it_answers(site: Server) -> None:
    for group in ("live", "startup", "ready", "db", "db/default", ""):
        reply = site.ask(f"/health/{group}", **{**KUBELET, "X-Forwarded-For": "192.0.2.1"})
        assert (reply.status, reply.data) == (200, {"status": "pass"}), group
        assert reply.headers["content-type"] == "application/json"
    assert site.details("db")["checks"]["db:default"]["status"] == "pass"
    assert site.probe("nonsense").status == 404
    assert site.ask("/health/live", "POST", **KUBELET, **{"Content-Length": "0"}).status == 405
    head = site.ask("/health/ready", "HEAD", **KUBELET)
    assert (head.status, head.body) == (200, b"")
    # While the site itself sends such a client elsewhere.
    assert site.ask("/process/", Host="shop.example").status == 301


def test_only_the_address_of_a_socket_counts(site: Server) -> None:
    def sees(**headers: str) -> bool:
        return "checks" in site.ask("/health/live", **KUBELET, **headers).data

    over_tcp = site.port is not None
    assert sees() == over_tcp
    # Some servers take such a header for the address.
    for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded"):
        value = "for=10.1.2.3" if name == "Forwarded" else "10.1.2.3"
        assert not sees(**{name: value}), name
    assert sees(**{"X-Forwarded-For": "192.0.2.1", "Authorization": f"Bearer {TOKEN}"})
