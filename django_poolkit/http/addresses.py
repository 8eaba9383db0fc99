"""Which addresses may be connected to. The standard library only."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from django_poolkit.conf.http import AddressRule

# What is sent to a translator's prefix (RFC 6052) or to 6to4 ends up at the IPv4 address inside.
_NAT64: Final = IPv6Network("64:ff9b::/96")
_SIXTOFOUR: Final = IPv6Network("2002::/16")
# All that has been given out so far; what Python's tables call global is more (RFC 4291, 2.4).
_UNICAST: Final = IPv6Network("2000::/3")
_PLATFORMS: Final = (
    # Azure's machines find their platform there, by an address that is public.
    IPv4Network("168.63.129.16/32"),
    # Oracle's are told of themselves there. To some Pythons most of it is global.
    IPv4Network("192.0.0.0/24"),
)

Address = IPv4Address | IPv6Address


def allowed(rule: AddressRule, host: str) -> bool:
    """Return whether `host`, an address as text, may be connected to.

    Anything that is not an address in its usual form is not: a number, an octal or a shortened
    one would be completed by the system's own rules.
    """
    try:
        address = unwrapped(ip_address(host))
    except ValueError:
        return False
    return any(address in network for network in rule.networks) or (
        rule.public and is_public(address)
    )


def unwrapped(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, if it stands for one."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
        if address in _SIXTOFOUR:
            return IPv4Address(int(address) >> 80 & 0xFFFFFFFF)
    return address


def is_public(address: Address) -> bool:
    """Return whether an address is one of the internet, for a single host, and nobody's own."""
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not any(address in network for network in _PLATFORMS)
        and (address.version == 4 or address in _UNICAST)
    )
