"""What does not go through a pooler that lends its connections by transaction.

Which pooler stands in between is nowhere declared. `DISABLE_SERVER_SIDE_CURSORS` is what Django
has for transaction pooling, and 6432 the port that PgBouncer takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from django.core import checks
from django.core.checks import CheckMessage

from django_poolkit.checks.aliases import Alias, asyncpg_pools, pooled
from django_poolkit.conf.asyncpg import path_of
from django_poolkit.pools.config import SERVER_GUARDS

_PGBOUNCER: Final = "6432"


def by_transaction(alias: Alias) -> bool:
    """Tell whether an alias is set up for a pooler that lends its connections by transaction."""
    return bool(alias.settings.get("DISABLE_SERVER_SIDE_CURSORS"))


def may_be_pooler(alias: Alias) -> bool:
    """Tell whether a pooler may stand between an alias and the server."""
    return by_transaction(alias) or str(alias.settings["PORT"]) == _PGBOUNCER


def cursors() -> Iterator[CheckMessage]:
    """Look for cursors of the server where each fetch may meet another connection."""
    for alias, _ in pooled():
        if may_be_pooler(alias) and not by_transaction(alias):
            yield checks.Warning(
                f"{alias.path('PORT')} is {_PGBOUNCER}, the port of PgBouncer, and "
                f"{alias.path('DISABLE_SERVER_SIDE_CURSORS')} is off: with pool_mode = transaction "
                "iterator() outside of atomic() loses its cursor.",
                hint="Set it to True. With pool_mode = session, silence this check.",
                id="poolkit.W025",
            )


def startup_options() -> Iterator[CheckMessage]:
    """Look for settings of the session that a pooler drops or refuses."""
    for alias, config in pooled():
        if not by_transaction(alias):
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
                "as that role.",
                id="poolkit.W026",
            )


def prepared() -> Iterator[CheckMessage]:
    """Look for prepared statements that a pooler may mix up, and that nobody looks after."""
    found = {alias.name: alias for alias, _ in pooled() if by_transaction(alias)}
    places = [
        f"{alias.of_pool('prepare')} is 'pooler', which says that each client has a session of "
        "its own there"
        for alias, config in pooled()
        if alias.name in found and config.prepare == "pooler"
    ]
    places += [
        f"{path_of(name)}['statement_cache_size'] is not 0, so asyncpg prepares each statement"
        for name, config in asyncpg_pools()
        if name in found and config.connection.get("statement_cache_size") != 0
    ]
    for place in places:
        yield checks.Warning(
            f"{place}, and DISABLE_SERVER_SIDE_CURSORS is on, as for a pooler that lends its "
            "connections by transaction. One that does not keep track of prepared statements "
            "mixes them up.",
            hint="Write 'prepare': True, which tries the pooler, or False; 'statement_cache_size': "
            "0 for asyncpg. Where PgBouncer (1.22 or later) has max_prepared_statements above 0, "
            "silence this check.",
            id="poolkit.W027",
        )
