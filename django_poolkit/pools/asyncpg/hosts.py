"""A connect to the first of several hosts that is fit for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import asyncpg


async def dial(connect: Callable[..., Awaitable[Any]], arguments: Mapping[str, Any]) -> Any:
    """Connect; where there are several hosts, one after the other, each within `timeout`.

    As libpq does it. asyncpg has one deadline for all (0.32, connection.py, `connect()`): behind a
    host that is silent, as one that was switched off, it never comes to the next. Raises what
    `connect` does for the host that failed last.
    """
    hosts = arguments.get("host")
    ports = arguments.get("port")
    if not isinstance(hosts, (list, tuple)) or len(hosts) < 2:
        return await connect(**arguments)
    if not isinstance(ports, (list, tuple)):
        ports = [ports] * len(hosts)
    if len(ports) != len(hosts):
        return await connect(**arguments)  # which says what is wrong
    wanted = arguments.get("target_session_attrs")
    # Of those, too, libpq asks each host first whether it is one, and takes any after that.
    rounds = ("standby", "any") if wanted == "prefer-standby" else (wanted,)
    failed: Exception | None = None
    for attributes in rounds:
        for host, port in zip(hosts, ports, strict=True):
            one = {**arguments, "host": host, "port": port, "target_session_attrs": attributes}
            try:
                return await connect(**one)
            except asyncpg.TargetServerAttributeNotMatched as error:
                failed = failed or error
            except (OSError, asyncpg.CannotConnectNowError) as error:
                failed = error
    assert failed is not None
    raise failed
