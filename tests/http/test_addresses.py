"""Which addresses are the internet's, in whatever form they come."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from django_poolkit.conf.http import AddressRule
from django_poolkit.http.addresses import allowed, is_public, unwrapped

PUBLIC = AddressRule(public=True)

# IANA's registries of special purposes, without those that only a router may use.
SPECIAL = [
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/24", "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24",
    "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32",
]  # fmt: skip
SPECIAL_6 = [
    "::/128", "::1/128", "::/96", "64:ff9b:1::/48", "100::/64", "2001:db8::/32", "fc00::/7",
    "fe80::/10", "fec0::/10", "ff00::/8", "4000::/3",
]  # fmt: skip


@pytest.mark.parametrize("network", [*SPECIAL, *SPECIAL_6])
def test_special_networks_are_not_public(network: str) -> None:
    found = ip_network(network)
    for address in (found[0], found[-1], found[found.num_addresses // 2]):
        assert not allowed(PUBLIC, str(address)), address


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",  # AWS, Google, Azure, DigitalOcean and more
        "fd00:ec2::254",  # AWS
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle
        "168.63.129.16",  # Azure's platform
    ],
)
def test_what_clouds_tell_their_machines_is_not_public(address: str) -> None:
    assert not allowed(PUBLIC, address)


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "2a00::1"])
def test_the_internet_is(address: str) -> None:
    assert allowed(PUBLIC, address)


@settings(deadline=None)
@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_the_same_in_any_ipv6_form(address: IPv4Address) -> None:
    number = int(address)
    forms = [
        f"::ffff:{address}",
        str(IPv6Address(0x0064FF9B << 96 | number)),
        str(IPv6Address(0x2002 << 112 | number << 80 | 1)),
    ]
    for form in forms:
        assert unwrapped(ip_address(form)) == address
        assert allowed(PUBLIC, form) == is_public(address) == allowed(PUBLIC, str(address))


@settings(deadline=None)
@given(st.ip_addresses())
def test_public_is_never_more_than_python_calls_global(
    address: IPv4Address | IPv6Address,
) -> None:
    if is_public(address):
        assert address.is_global
        assert not address.is_private
        assert not address.is_link_local
        assert not address.is_loopback
        assert not address.is_multicast
        assert not address.is_unspecified


@settings(deadline=None)
@given(st.ip_addresses(v=4), st.integers(8, 32))
def test_a_network_allows_its_own_addresses(address: IPv4Address, length: int) -> None:
    network = IPv4Network((int(address) >> 32 - length << 32 - length, length))
    rule = AddressRule(public=False, networks=(network,))
    assert allowed(rule, str(address))
    assert allowed(rule, f"::ffff:{address}")
    outside = IPv4Address((int(address) + network.num_addresses) % 2**32)
    assert not allowed(rule, str(outside))


@settings(deadline=None)
@given(st.ip_addresses(v=4))
def test_an_address_in_another_form_is_none(address: IPv4Address) -> None:
    rule = AddressRule(public=True, networks=(ip_network("0.0.0.0/0"), ip_network("::/0")))
    assert allowed(rule, str(address))
    first, *others = str(address).split(".")
    for form in (
        str(int(address)),
        hex(int(address)),
        oct(int(address)),
        ".".join([f"0{int(first):o}", *others]),
        ".".join([hex(int(first)), *others]),
        ".".join([first, str(int(address) & 0xFFFFFF)]),
        f"{address}.",
        f" {address}",
    ):
        assert not allowed(rule, form)


@settings(deadline=None)
@given(st.text(max_size=40))
def test_no_text_makes_it_fail(text: str) -> None:
    assert allowed(PUBLIC, text) in (True, False)


def test_a_zone_does_not_hide_what_an_address_is() -> None:
    assert not allowed(PUBLIC, "fe80::1%eth0")
    rule = AddressRule(public=False, networks=(ip_network("fe80::/10"),))
    assert allowed(rule, "fe80::1%eth0")
