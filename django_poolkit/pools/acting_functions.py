"""Functions that PostgreSQL and its extensions ship, and that do more than answer.

They draw numbers, write large objects, send notifications, end sessions, or steer the server. They
leave no session state behind, and a statement that calls one must not be made twice.
"""

from __future__ import annotations

import re
from typing import Final

# By families; a name that is too many is a read that is not made again. Those that leave session
# state behind, or run a text that they are given, are told apart as such (`session_state`).
_NAMES: Final = (
    r"nextval|setval|lo_\w+|loread|lowrite|binary_upgrade_\w+|brin_\w+|gin_clean_pending_list"
    r"|txid_current|pg_current_xact_id|pg_nextoid|pg_notify|pg_promote|pg_sync_\w+"
    r"|pg_(?:backup|cancel|clear|copy|create|drop|export|extension|file|import|log|logical|reload"
    r"|replication|restore|rotate|stop|switch|terminate|truncate)_\w+"
    r"|pg_(?:prewarm|wal_replay_(?:pause|resume)|stat_(?:reset|clear|force)\w*"
    r"|stat_statements_reset)|autoprewarm_\w+|dblink\w*|postgres_fdw_disconnect\w*"
    r"|procrastinate_\w+|addgeometrycolumn|dropgeometry\w+|populate_geometry_columns"
    r"|updategeometrysrid|postgis_extensions_upgrade"
)
_CALL: Final = re.compile(
    rf"\b(?:{_NAMES})\b\"?(?:\s|--[^\n]*\n|/\*.*?\*/)*\(", re.IGNORECASE | re.DOTALL
)


def acts(text: str) -> bool:
    """Return whether a statement calls one of them, as far as its text shows. Never blocks."""
    return _CALL.search(text) is not None
