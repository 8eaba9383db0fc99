"""Who sees more than the status word: who has a token, and who asks from a trusted network."""

from __future__ import annotations

import hmac
import logging
from ipaddress import ip_network
from typing import Any

import pytest

from django_poolkit.conf.health import HealthConfig
from django_poolkit.health.access import Asked, may_see_details

pytestmark = pytest.mark.core

TOKEN = "correct-horse-battery"
OTHER = "staple-horse-battery"
NETWORKS = tuple(map(ip_network, ("10.1.0.0/16", "192.0.2.7/32", "fd00::/8")))
NONE = HealthConfig()


def asked(**facts: Any) -> Asked:
    return Asked(**{"method": "GET", "path": "db", **facts})


def with_header(value: str) -> Asked:
    return asked(authorization=value)


@pytest.mark.parametrize("address", [None, "", "127.0.0.1", "::1", "10.1.2.3"])
@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Bearer x", f"Bearer {TOKEN}"])
def test_without_settings_nobody_sees_details(address: str | None, header: str) -> None:
    assert not may_see_details(asked(address=address, authorization=header), NONE)


# -- tokens


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer {TOKEN}", True),
        (f"Bearer  {TOKEN} ", True),
        (f"Bearer {OTHER}", True),
        (f"Bearer {TOKEN}x", False),
        (f"Bearer {TOKEN[:-1]}", False),
        (f"Bearer {TOKEN.upper()}", False),
        (f"Bearer {TOKEN},{TOKEN}", False),
        (f"Bearer {TOKEN},Bearer {TOKEN}", False),
        (f"Basic {TOKEN}", False),
        (TOKEN, False),
        ("Bearer", False),
        ("", False),
        ("Bearer \xff\xfe\x00", False),
        ("Bearer \ud800", False),
    ],
)
def test_a_token_is_one_of_those_in_the_settings(header: str, allowed: bool) -> None:
    assert may_see_details(with_header(header), HealthConfig(token=(OTHER, TOKEN))) == allowed


def test_a_long_header_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[Any] = []
    monkeypatch.setattr(hmac, "compare_digest", lambda *pair: compared.append(pair))
    may_see_details(with_header("Bearer " + "x" * 5_000), HealthConfig(token=(TOKEN,)))
    assert not compared


def test_every_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []
    compare = hmac.compare_digest

    def spy(given: bytes, token: bytes) -> bool:
        compared.append(token)
        return compare(given, token)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    config = HealthConfig(token=(TOKEN, OTHER, lambda: "a-third-horse-battery"))
    assert may_see_details(with_header(f"Bearer {TOKEN}"), config)
    assert compared == [TOKEN.encode(), OTHER.encode(), b"a-third-horse-battery"]


@pytest.mark.parametrize("brought", [TOKEN, [TOKEN], (OTHER, TOKEN), {TOKEN}])
def test_a_function_brings_tokens(brought: Any) -> None:
    config = HealthConfig(token=(lambda: brought,))
    assert may_see_details(with_header(f"Bearer {TOKEN}"), config)
    assert not may_see_details(with_header("Bearer something-else-altogether"), config)


@pytest.mark.parametrize("brought", ["", "short", None, 7, [""], ["", "short"], b"x" * 20])
@pytest.mark.parametrize("header", ["Bearer ", "Bearer short", "Bearer None", "Bearer 7"])
def test_a_function_that_brings_none_lets_nobody_in(
    brought: Any, header: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert not may_see_details(with_header(header + " "), HealthConfig(token=(lambda: brought,)))


def test_a_function_that_fails_lets_nobody_in(caplog: pytest.LogCaptureFixture) -> None:
    def fails() -> str:
        raise OSError("secret place")

    config = HealthConfig(token=(fails, TOKEN))
    with caplog.at_level(logging.ERROR, "django_poolkit.health"):
        assert may_see_details(with_header(f"Bearer {TOKEN}"), config)
        assert not may_see_details(with_header(f"Bearer {OTHER}"), config)
    assert caplog.messages == ["event=token_failed error=OSError"] * 2


# -- networks


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("10.1.2.3", True),
        ("192.0.2.7", True),
        ("::ffff:10.1.2.3", True),
        ("fd12::1", True),
        ("fd12::1%eth0", True),
        ("10.2.0.1", False),
        ("192.0.2.8", False),
        ("::ffff:10.2.0.1", False),
        ("fe80::1", False),
        ("127.0.0.1", False),
        ("10.1.2.3, 8.8.8.8", False),
        ("10.1.2.3:80", False),
        ("/run/site.sock", False),
        ("", False),
        (None, False),
    ],
)
def test_a_network_is_trusted_by_the_address_of_the_socket(
    address: str | None, allowed: bool
) -> None:
    config = HealthConfig(trusted_networks=NETWORKS)
    assert may_see_details(asked(address=address), config) == allowed


def test_what_a_proxy_has_passed_on_is_not_trusted_by_address() -> None:
    # The address is the proxy's, which stands in the trusted network for all the world.
    config = HealthConfig(trusted_networks=NETWORKS, token=(TOKEN,))
    assert not may_see_details(asked(address="10.1.2.3", passed_on=True), config)
    known = asked(address="10.1.2.3", passed_on=True, authorization=f"Bearer {TOKEN}")
    assert may_see_details(known, config)
