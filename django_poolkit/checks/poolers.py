"""What does not go through a pooler that lends its connections by transaction.

Which pooler stands in between says `pooler`. Where it does not, `DISABLE_SERVER_SIDE_CURSORS` is
what Django has for transaction pooling, and 6432 the port that PgBouncer takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from django.core import checks
from django.core.checks import CheckMessage

from django_poolkit.checks.aliases import Alias, asyncpg_pools, pooled
from django_poolkit.conf.asyncpg import path_of
from django_poolkit.pools.config import SERVER_GUARDS
from django_poolkit.pools.poolers import traits

_PGBOUNCER: Final = "6432"
_STARTUP: Final = re.compile(r"(?:-c\s*|--)([A-Za-z_][\w.-]*)\s*=")


def declared(alias: Alias) -> str | None:
    """Return the pooler that stands in between as its settings say, None where they do not."""
    return alias.pool.pooler if alias.pool is not None else None


def by_transaction(alias: Alias) -> bool:
    """Tell whether an alias is set up for a pooler that lends its connections by transaction."""
    if (pooler := declared(alias)) is not None:
        return traits(pooler).shares
    return bool(alias.settings.get("DISABLE_SERVER_SIDE_CURSORS"))


def may_be_pooler(alias: Alias) -> bool:
    """Tell whether a pooler may stand between an alias and the server."""
    if declared(alias) is not None or by_transaction(alias):
        return True
    return str(alias.settings["PORT"]) == _PGBOUNCER


def cursors() -> Iterator[CheckMessage]:
    """Look for a pooler that is not declared, and loses what nobody refuses."""
    for alias, _ in pooled():
        if declared(alias) is None and may_be_pooler(alias) and not by_transaction(alias):
            yield checks.Warning(
                f"{alias.path('PORT')} is {_PGBOUNCER}, the port of PgBouncer, and "
                f"{alias.of_pool('pooler')} does not say which pooler stands in between: with "
                "pool_mode = transaction iterator() outside of atomic() loses its cursor.",
                hint="Write 'pgbouncer-transaction' or 'pgbouncer-session' there, by its "
                "pool_mode; or silence this check.",
                id="poolkit.W025",
            )


def startup_options() -> Iterator[CheckMessage]:
    """Look for settings of the session that a pooler drops or refuses."""
    for alias, config in pooled():
        if not by_transaction(alias):
            continue
        if declared(alias) is not None:
            # The others are looked at in each connect, and refused where they would not hold.
            yield from _of_the_string(alias)
            continue
        paths = [alias.of_pool(key) for key in SERVER_GUARDS if key in (config.guards or {})]
        paths += [alias.path("OPTIONS", "assume_role")] * bool(alias.options.get("assume_role"))
        if paths:
            yield checks.Warning(
                f"{', '.join(paths)}: settings of the session, and "
                f"{alias.path('DISABLE_SERVER_SIDE_CURSORS')} is on, as for a pooler that lends "
                "its connections by transaction. It drops or refuses start-up options, and what "
                "is SET stays with whichever connection it met.",
                hint="Give them to the role: ALTER ROLE … SET …; instead of assume_role connect "
                f"as that role. Declare the pooler by {alias.of_pool('pooler')}: then each connect "
                "looks whether they are in force.",
                id="poolkit.W026",
            )


def _of_the_string(alias: Alias) -> Iterator[CheckMessage]:
    """Look for settings in a start-up string of the user's own, which nobody looks at later."""
    known = traits(declared(alias))
    names = _STARTUP.findall(str(alias.options.get("options") or ""))
    lost = [name for name in names if not known.takes_at_start(name.replace("-", "_"))]
    if lost:
        yield checks.Warning(
            f"{alias.path('OPTIONS', 'options')} has {', '.join(lost)}, and "
            f"{alias.of_pool('pooler')} is {declared(alias)!r}, which refuses that, or drops it "
            "without a word.",
            hint="Give it to the role: ALTER ROLE … SET …",
            id="poolkit.W039",
        )


def prepared() -> Iterator[CheckMessage]:
    """Look for prepared statements that a pooler may mix up, and that nobody looks after."""
    found = {alias.name: alias for alias, _ in pooled() if by_transaction(alias)}
    for name, place in _preparing(found):
        yield checks.Warning(
            f"{place}, and {_said(found[name])}. One that does not keep track of prepared "
            "statements mixes them up.",
            hint="Write 'prepare': True, which tries the pooler, or False; 'statement_cache_size': "
            "0 for asyncpg. Where PgBouncer (1.22 or later) has max_prepared_statements above 0, "
            "silence this check.",
            id="poolkit.W027",
        )


def _preparing(found: Mapping[str, Alias]) -> Iterator[tuple[str, str]]:
    """Yield the aliases behind such poolers that prepare statements, and in which words."""
    for alias, config in pooled():
        if alias.name in found and config.prepare == "pooler":
            said = "says that each client has a session of its own there"
            yield alias.name, f"{alias.of_pool('prepare')} is 'pooler', which {said}"
    for name, beside in asyncpg_pools():
        if name in found and beside.connection.get("statement_cache_size") != 0:
            place = f"{path_of(name)}['statement_cache_size']"
            yield name, f"{place} is not 0, so asyncpg prepares each statement"


def _said(alias: Alias) -> str:
    """Return how an alias says that such a pooler stands in between."""
    if (pooler := declared(alias)) is not None:
        return (
            f"{alias.of_pool('pooler')} is {pooler!r}, which lends its connections by transaction"
        )
    return (
        "DISABLE_SERVER_SIDE_CURSORS is on, as for a pooler that lends its connections by "
        "transaction"
    )
