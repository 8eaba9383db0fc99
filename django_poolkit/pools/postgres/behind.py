"""What is not done behind a pooler that lends its sessions by transaction.

To hold on to the connection would not help: it leads to the pooler, and only a transaction holds
the session there. So what would be lost, or be met by somebody else, is refused before it is sent.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg.pq import TransactionStatus

from django_poolkit.pools.lease import Lease
from django_poolkit.pools.statement_kinds import Residue

if TYPE_CHECKING:
    from django_poolkit.pools.postgres.connection import PoolConnection

_IDLE: Final = TransactionStatus.IDLE

# What PgBouncer keeps for each client, as it is SET: the connection says so until it is closed.
_NAMES: Final = "timezone|application_name|client_encoding|datestyle|standard_conforming_strings"
_TRACKED: Final = re.compile(
    rf"\s*(?:set\s+(?:session\s+)?(?:time\s+zone|names|{_NAMES})\b"
    rf"|reset\s+(?:time\s+zone|{_NAMES})\b"
    rf"|select\s+(?:pg_catalog\.)?set_config\(\s*'(?:{_NAMES})'(?!.*set_config))",
    re.IGNORECASE | re.DOTALL,
)
_DRAWS: Final = re.compile(r"\b(nextval|setval|insert)\b", re.IGNORECASE)
# In place of what is refused. Of other kinds nobody knows whether they leave anything, or, as a
# BEGIN, they hold the session themselves.
_INSTEAD: Final = {
    Residue.SET: "SET LOCAL or set_config(…, true) inside of a transaction lasts as long as that; "
    "what is to hold always belongs to the role (ALTER ROLE … SET …)",
    Residue.LISTEN: "a notification can be waited for where no pooler is in between",
    Residue.PREPARE: "the option 'prepare' has statements prepared in a way that PgBouncer can "
    "keep track of",
    Residue.EXECUTE: "the option 'prepare' has statements prepared in a way that PgBouncer can "
    "keep track of",
    Residue.CURSOR_HOLD: "a cursor without HOLD lives inside of one transaction",
    Residue.TEMP_TABLE: "create it inside of a transaction, with ON COMMIT DROP",
    Residue.LOAD: "session_preload_libraries of the role loads it for each session",
    Residue.ADVISORY_LOCK: "pg_advisory_xact_lock() and its kin hold until the transaction ends",
    Residue.DISCARD: "there is no session to be reset: leave it out",
    Residue.SEQUENCE: "use RETURNING, or put both statements into one transaction",
}


def kept(residue: str, text: str | None, lease: Lease, connection: PoolConnection) -> str | None:
    """Return for what the lease is to be held, and its connection closed; None if for nothing.

    Raises psycopg's NotSupportedError for what leaves behind what would be lost.
    """
    if residue == Residue.BEGIN or text is None:
        return residue
    if residue == Residue.SET and _TRACKED.match(text) and ";" not in text.rstrip(" \n;"):
        return residue
    at_rest = connection._autocommit and connection.pgconn.transaction_status == _IDLE
    if residue == Residue.SEQUENCE and (_DRAWS.search(text) or not at_rest):
        return None
    instead = _INSTEAD.get(Residue(residue))
    if instead is not None:
        lease.ran = False
        raise refusal(f"a statement leaves session state behind ({residue})", instead)
    return None


def refuse_held_cursor() -> None:
    """Refuse a cursor of the server that is to outlive its transaction."""
    raise refusal(
        "a cursor of the server outside of a transaction needs a session",
        "iterate inside of atomic(), or have 'DISABLE_SERVER_SIDE_CURSORS' on",
    )


def refusal(what: str, instead: str) -> psycopg.NotSupportedError:
    """Return the error for what cannot be had there, with what can."""
    return psycopg.NotSupportedError(
        f"{what}, and behind ['pooler'] 'pgbouncer-transaction' the session is somebody else's "
        f"after each transaction: {instead}. Or do it by an alias that leads to the server itself."
    )
