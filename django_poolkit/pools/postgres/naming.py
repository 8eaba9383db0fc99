"""The names by which a server's `pg_stat_activity` tells whose a connection is."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import socket
from typing import Final, NamedTuple

# PostgreSQL cuts names off at NAMEDATALEN - 1 bytes.
LONGEST: Final = 63
_NAME: Final = re.compile(r"pk:(\d{1,10}):([0-9a-f]{8}):(.*)", re.DOTALL)


class Owner(NamedTuple):
    """Whose a connection is."""

    pid: int
    host: str
    """8 hexadecimal digits: equal for the processes of one host, and no name of it."""
    service: str


def application_name(service: str) -> str:
    """Return the `application_name` of this process's connections, `pk:<pid>:<host>:<service>`.

    Made anew for each connection, since a fork changes it.
    """
    return f"pk:{os.getpid()}:{host_mark()}:{service}".encode()[:LONGEST].decode(errors="ignore")


def parse(name: str) -> Owner | None:
    """Return whose connection it is, None where it has been named otherwise."""
    found = _NAME.fullmatch(name)
    return None if found is None else Owner(int(found[1]), found[2], found[3])


@functools.cache
def host_mark() -> str:
    """Return 8 hexadecimal digits that stand for this host, or for this container."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
