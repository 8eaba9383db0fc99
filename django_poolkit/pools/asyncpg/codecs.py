"""The types of values, where they are to be those that Django's fields give."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any, Final

import asyncpg

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=timezone.utc)  # noqa: UP017 - Django's own spelling
_INFINITY: Final = 2**63 - 1


async def agree_with_django(
    connection: asyncpg.Connection[Any], zone: tzinfo | None, naive_zone: tzinfo | None = None
) -> None:
    """Have a connection give the values that Django's fields give.

    JSON as Python values, addresses as texts, times in `zone`, and naive, as they are in
    `naive_zone`, where that is None. Costs no round trip.
    """
    for name in ("json", "jsonb"):
        await connection.set_type_codec(
            name, schema="pg_catalog", encoder=json.dumps, decoder=json.loads
        )
    for name in ("inet", "cidr"):
        await connection.set_type_codec(name, schema="pg_catalog", encoder=str, decoder=str)
    if zone is timezone.utc:  # noqa: UP017
        return  # which is asyncpg's own way
    read_in = zone or naive_zone

    def decode(value: tuple[int]) -> datetime:
        if value[0] == _INFINITY:
            return datetime.max if zone is None else datetime.max.replace(tzinfo=zone)
        if value[0] == -_INFINITY - 1:
            return datetime.min if zone is None else datetime.min.replace(tzinfo=zone)
        found = (_EPOCH + timedelta(microseconds=value[0])).astimezone(read_in)
        return found if zone is not None else found.replace(tzinfo=None)

    def encode(value: datetime) -> tuple[int]:
        if value.tzinfo is None:
            value = value.replace(tzinfo=read_in)
        return ((value - _EPOCH) // timedelta(microseconds=1),)

    await connection.set_type_codec(
        "timestamptz", schema="pg_catalog", format="tuple", encoder=encode, decoder=decode
    )
