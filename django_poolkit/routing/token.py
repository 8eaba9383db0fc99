"""Tokens: floors as a text that a visitor, or a message of a queue, carries to what comes next.

A token is signed, so that nobody makes one, and masked, so that nobody reads one: a position says
how busy a database is, its system identifier which one it is, and a cluster what it is called. The
mask is a stream cipher: each is added to the output of SHAKE-256 over a key of its own and 16
random bytes, which is as good as random to who has not got the key (FIPS 202; a sponge needs no
HMAC to be keyed by a prefix). Two tokens share a mask only if they share those bytes. What is
masked is then signed, and nothing is unmasked whose signature is wrong. Its length shows the
number of clusters, and its time when it was made. That is enough for what it has to hide, and for
what it can do: who gives back another's token reads the primary for a while.
"""

from __future__ import annotations

import secrets
import struct
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from hashlib import blake2b, shake_256
from typing import Final

from django.core.signing import BadSignature, TimestampSigner, b64_decode, b64_encode
from django.utils.crypto import salted_hmac

from django_poolkit.conf.routing import routing_config
from django_poolkit.routing.floors import Floor, Position, later
from django_poolkit.routing.topology import clusters

LONGEST: Final = 512
"""Characters of a token, at most."""
MOST: Final = 8
"""Floors in a token, at most. Those of more clusters become one time pin of all clusters."""

_SALT: Final = "django_poolkit.routing.token"
_MASK_SALT: Final = "django_poolkit.routing.token.mask"
_VERSION: Final = 1
_NONCE: Final = 16
# Of one cluster: the digest of its name, whether there is a position, the time at which it
# expires; system, timeline and lsn. Of one length, whether there is a position or not.
_ENTRY: Final = struct.Struct(">8s?dQIQ")
_EVERY: Final = bytes(8)


def seal(floors: Mapping[str, Floor]) -> str:
    """Return floors by cluster as a token. It is safe in a cookie, a header or a URL."""
    signer = TimestampSigner(sep=".", salt=_SALT)
    nonce = secrets.token_bytes(_NONCE)
    payload = bytes([_VERSION]) + b"".join(_entries(floors))
    masked = nonce + _mask(payload, signer.key, nonce)
    return signer.sign(b64_encode(masked).decode("ascii"))


def unseal(text: str) -> dict[str, Floor]:
    """Return the floors of a token, by cluster.

    Without those that have expired, and those of clusters that are not known or have no replica;
    empty for whatever is no token of ours. None of them lasts longer than `MAX_AGE` from now.
    """
    if len(text) > LONGEST or not text.isascii():
        return {}
    payload = _payload(text)
    if payload is None or payload[:1] != bytes([_VERSION]) or (len(payload) - 1) % _ENTRY.size:
        return {}
    return _floors(payload[1:])


def _entries(floors: Mapping[str, Floor]) -> Iterator[bytes]:
    if len(floors) > MOST:
        expires = max(floor.expires for floor in floors.values())
        yield _ENTRY.pack(_EVERY, False, expires, 0, 0, 0)
        return
    for name, floor in floors.items():
        at = floor.position
        numbers = (0, 0, 0) if at is None else (at.system, at.timeline, at.lsn)
        yield _ENTRY.pack(_digest(name), at is not None, floor.expires, *numbers)


def _payload(text: str) -> bytes | None:
    """Return what a token says, None where its signature is wrong or too old."""
    first = TimestampSigner(sep=".", salt=_SALT)
    # The stamp has whole seconds.
    oldest = timedelta(seconds=routing_config().max_age + 1.0)
    for key in (first.key, *first.fallback_keys):
        signer = TimestampSigner(key=key, sep=".", salt=_SALT, fallback_keys=[])
        try:
            masked = b64_decode(signer.unsign(text, max_age=oldest).encode("ascii"))
        except (BadSignature, ValueError):
            continue
        return _mask(masked[_NONCE:], key, masked[:_NONCE])
    return None


def _floors(payload: bytes) -> dict[str, Floor]:
    names = {_digest(each.name): [each.name] for each in clusters().values() if each.replicas}
    names[_EVERY] = [each.name for each in clusters().values() if each.replicas]
    found: dict[str, Floor] = {}
    now = time.time()
    for digest, has_position, expires, *numbers in _ENTRY.iter_unpack(payload):
        if not expires > now:
            continue
        floor = Floor(
            Position(*numbers) if has_position else None,
            min(expires, now + routing_config().max_age),
        )
        merge(found, dict.fromkeys(names.get(digest, ()), floor))
    return found


def merge(into: dict[str, Floor], *others: Mapping[str, Floor]) -> None:
    """Have floors by cluster fulfil others as well."""
    for other in others:
        for name, floor in other.items():
            into[name] = later(into.get(name), floor) or floor


def _digest(name: str) -> bytes:
    return blake2b(name.encode(), digest_size=8).digest()


def _mask(text: bytes, key: str | bytes, nonce: bytes) -> bytes:
    """Mask a text, or unmask it."""
    secret = salted_hmac(_MASK_SALT, b"", key, algorithm="sha256").digest()
    stream = shake_256(secret + nonce).digest(len(text))
    return bytes(one ^ other for one, other in zip(text, stream, strict=True))
