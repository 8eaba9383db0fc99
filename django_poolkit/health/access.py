"""Who may see more than the status word: by a token, or by the network that asks."""

from __future__ import annotations

import hmac
import ipaddress
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from django_poolkit.conf.health import HealthConfig, is_token

logger = logging.getLogger("django_poolkit.health")

# Characters of an Authorization header; of one that is longer nothing is compared.
_LONGEST: Final = 1_000

PASSED_ON: Final = ("x-forwarded-for", "forwarded", "x-real-ip", "via")
"""Headers that a proxy sets. The address of such a request is the proxy's, not the client's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request for an answer, free of the protocol that it came by."""

    method: str
    path: str
    """Behind the prefix: the name of a group, or empty."""
    accept: str = ""
    authorization: str = ""
    address: str | None = None
    """Of the other end of the socket; None for a UNIX socket's."""
    passed_on: bool = False
    """Whether a proxy has passed it on, by what it says itself."""


def may_see_details(asked: Asked, config: HealthConfig) -> bool:
    """Return whether a request is given the details, by its token or its address.

    Blocks for no longer than a callable does that supplies the tokens.
    """
    return _has_token(asked, config) or _is_near(asked, config)


def _has_token(asked: Asked, config: HealthConfig) -> bool:
    if len(asked.authorization) > _LONGEST:
        return False
    scheme, _, given = asked.authorization.partition(" ")
    given = given.strip()
    if scheme.lower() != "bearer" or not given:
        return False
    # All are compared, whichever fits, so that the time tells nothing of their number or order.
    found = [hmac.compare_digest(_bytes(given), _bytes(token)) for token in _tokens(config)]
    return any(found)


def _bytes(text: str) -> bytes:
    return text.encode(errors="backslashreplace")


def _tokens(config: HealthConfig) -> list[str]:
    found: list[str] = []
    for token in config.token:
        found += [token] if isinstance(token, str) else _brought(token)
    return found


def _brought(supplier: Callable[[], Any]) -> list[str]:
    try:
        tokens = supplier()
    except Exception as error:
        logger.error("event=token_failed error=%s", type(error).__name__)
        return []
    tokens = tokens if isinstance(tokens, (list, tuple, set, frozenset)) else [tokens]
    # Nobody has looked at these yet, and an empty one would let all in.
    good = [token for token in tokens if is_token(token)]
    if len(good) < len(tokens):
        logger.error("event=token_failed error=ValueError")
    return good


def _is_near(asked: Asked, config: HealthConfig) -> bool:
    if not config.trusted_networks or asked.passed_on or not asked.address:
        return False
    try:
        address = ipaddress.ip_address(asked.address)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped  # an IPv4 client of a socket for both
    return any(address in network for network in config.trusted_networks)
