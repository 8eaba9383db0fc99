"""What grows without a bound, and what is never renewed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from django.core import checks
from django.core.checks import CheckMessage

from django_poolkit.checks.aliases import aliases, asyncpg_pools, pooled
from django_poolkit.conf import site
from django_poolkit.conf.asyncpg import path_of

_STOCK: Final = 97
"""What PostgreSQL gives to others than superusers where nobody has configured it: 100 less 3."""
_DAY: Final = 86_400.0


def unpooled() -> Iterator[CheckMessage]:
    """Look for aliases that have a connection for each thread."""
    for alias in aliases():
        if alias.pool is None:
            yield checks.Warning(
                f"{alias.path('OPTIONS', 'pool')} is off: nothing bounds the connections of a "
                "process to this database, which has one for each of its threads.",
                hint="Remove the option, and the alias is pooled: max_size connections a process.",
                id="poolkit.W012",
            )


def oversized() -> Iterator[CheckMessage]:
    """Look for pools that are larger than a whole server usually is."""
    sizes = [(alias.of_pool("max_size"), config.max_size) for alias, config in pooled()]
    sizes += [(f"{path_of(n)}['max_size']", config.max_size) for n, config in asyncpg_pools()]
    for path, size in sizes:
        if size > _STOCK:
            yield checks.Warning(
                f"{path} is {size}, for each process: a PostgreSQL that nobody has configured "
                f"gives {_STOCK} connections to all of them together.",
                hint="It is no bound then. A database works on few statements at once, by the "
                "number of its cores: begin with 10, and measure what waits.",
                id="poolkit.W013",
            )


def unrenewed() -> Iterator[CheckMessage]:
    """Look for connections that live for ever, or nearly so."""
    ages = [(alias.of_pool("max_lifetime"), config.max_lifetime) for alias, config in pooled()]
    ages += [
        (f"{path_of(n)}['MAX_LIFETIME']", config.max_lifetime) for n, config in asyncpg_pools()
    ]
    for path, age in ages:
        if age > _DAY:
            yield checks.Warning(
                f"{path} is {age:g} s, which is more than a day: connections are hardly ever "
                "replaced.",
                hint="A server process keeps the memory that it once needed, and what it has "
                "cached of the catalogue; a connection stays where the name once led. Use an "
                "hour (3600, the default), or less than any firewall or proxy in between allows.",
                id="poolkit.W014",
            )


def waiters() -> Iterator[CheckMessage]:
    """Look for pools for which any number may queue, where no threads bound the number."""
    if site.asgi_application() is None:
        return
    counts = [(alias.of_pool("max_waiting"), config.max_waiting) for alias, config in pooled()]
    counts += [
        (f"{path_of(n)}['MAX_WAITING']", config.max_waiting) for n, config in asyncpg_pools()
    ]
    for path, count in counts:
        if not count:
            yield checks.Info(
                f"{path} is 0: under ASGI any number of requests may queue for a connection, "
                "each until its timeout.",
                hint="Set it to how many a process can serve within the timeout, and the others "
                "are told at once, by a 503.",
                id="poolkit.I004",
            )
