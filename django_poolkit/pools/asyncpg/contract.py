"""The private names of asyncpg that the pool relies on, in one list, looked at as it is loaded.

Of asyncpg.Pool itself none is used but what its proxies show of the holder. What is used of a
connection is what its own pool uses (asyncpg 0.32, pool.py, `PoolConnectionHolder.release`).
"""

from __future__ import annotations

from typing import Final

import asyncpg
from asyncpg import connect_utils, transaction
from asyncpg import pool as engine

NAMES: Final = {
    asyncpg.Connection: (
        "_cancel_current_command",  # asks the server to stop what runs
        "_check_open",
        "_cleanup",
        "_drop_global_statement_cache",
        "_prepare",  # by which a statement comes from the connection's cache
        "_set_proxy",
        "_protocol",
        "_transport",
        "_top_xact",  # the outermost transaction() that is open
        "_pool_release_ctr",  # by which statements and cursors know that they are of the past
        "_listeners",
        "_log_listeners",
        "_termination_listeners",
        "_query_loggers",
        "_aborted",
        "_pool_holder",
        "_cancellations",  # requests to stop what runs that are under way
        "_addr",
        "_params",
    ),
    transaction.Transaction: ("_connection",),
    connect_utils: ("_cancel",),  # such a request, for who has lost the connection
    engine.PoolConnectionProxy: ("_con", "_holder", "_detach"),
}


def verify() -> None:
    """Refuse, by ImportError, an asyncpg that lacks one of the names."""
    for owner, names in NAMES.items():
        missing = [name for name in names if not hasattr(owner, name)]
        if missing:
            raise ImportError(
                f"this release of django_poolkit does not fit asyncpg {asyncpg.__version__}: "
                f"{owner.__name__} has no {', '.join(missing)}. Install asyncpg 0.32."
            )
