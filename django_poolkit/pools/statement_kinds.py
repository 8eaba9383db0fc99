"""What each kind of statement may leave behind on its connection, told by its first words."""

import re
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from django_poolkit.pools import sql_text


class Residue(StrEnum):
    """The kinds of session state that a statement may leave behind."""

    SET = "set"
    LISTEN = "listen"
    PREPARE = "prepare"
    EXECUTE = "execute"
    CURSOR_HOLD = "cursor_hold"
    TEMP_TABLE = "temp_table"
    LOAD = "load"
    ADVISORY_LOCK = "advisory_lock"
    BEGIN = "begin"
    CALL = "call"
    DO = "do"
    DISCARD = "discard"
    SEQUENCE = "sequence"
    FUNCTION = "function"
    """A function of the user's, or a shipped one that keeps state or runs a text it is given."""
    UNPARSED = "unparsed"
    """No statement that is known here: its text is cut off, or newer than these rules."""


class ByCalls:
    """Says of a statement that it leaves what the functions leave that it calls."""


BY_CALLS: Final = ByCalls()
"""The one there is."""
Verdict = Residue | ByCalls | None
"""What is said of a statement by its kind alone."""

_FLAGS: Final = re.ASCII | re.IGNORECASE
_KIND: Final = re.compile(r"\s*+([a-z]*+)", _FLAGS)
_VERB: Final = re.compile(r"(?:[\s(;]++|--[^\n\r]*+|/\*(?:[^*]++|\*(?!/))*+\*/)*+([a-z]++)", _FLAGS)
_LOCAL: Final = re.compile(
    r"\s++(?:local|transaction|constraints)\s++(?!to\b)(?=[a-z_\"\x80-\U0010ffff])", _FLAGS
)
_CHAIN: Final = re.compile(r"\band\s++chain\b", _FLAGS)
_TWO_PHASE: Final = re.compile(r"\s++transaction\s*+'", _FLAGS)
_HOLD: Final = re.compile(r"\bcursor\s++with\s++hold\b", _FLAGS)
_CREATED: Final = re.compile(
    r"\s++(?:or\s++replace\s++)?+(?:(?:global|local)\s++)?+([a-z]++)", _FLAGS
)
_TEMPORARY_SCHEMA: Final = re.compile(r"\bpg_temp", _FLAGS)
_DROPPED: Final = re.compile(r"\bon\s++commit\s++drop\b", _FLAGS)


def _set(statement: str, end: int) -> Verdict:
    return None if _LOCAL.match(statement, end) else Residue.SET


def _finish(statement: str, end: int) -> Verdict:
    return Residue.BEGIN if _CHAIN.search(statement, end) else None


def _prepare(statement: str, end: int) -> Verdict:
    return None if _TWO_PHASE.match(statement, end) else Residue.PREPARE


def _declare(statement: str, end: int) -> Verdict:
    return Residue.CURSOR_HOLD if _HOLD.search(statement, end) else BY_CALLS


def _create(statement: str, end: int) -> Verdict:
    created = _CREATED.match(statement, end)
    kind = created[1].lower() if created else ""
    if _TEMPORARY_SCHEMA.search(statement, end):
        return Residue.TEMP_TABLE
    if kind in ("temp", "temporary"):
        dropped = _DROPPED.search(sql_text.bare(statement))
        return BY_CALLS if dropped else Residue.TEMP_TABLE
    # The bodies and expressions of all other kinds are stored, not run.
    runs = kind in ("table", "unlogged", "materialized", "unique", "index", "")
    return BY_CALLS if runs else None


def _alter(statement: str, end: int) -> Verdict:
    kind = _KIND.match(statement, end)
    runs = kind is not None and kind[1].lower() in ("table", "materialized", "foreign", "domain")
    return BY_CALLS if runs else None


def verb_of(text: str) -> str:
    """Return the first word of a statement in capitals, `?` where it is none that is known.

    Nothing else of a text is safe to show: the rest may hold values.
    """
    word = _VERB.match(text)
    verb = word[1].lower() if word else ""
    return verb.upper() if verb in VERDICTS else "?"


_RUN: Final = ("select", "insert", "update", "delete", "merge", "with", "values", "table", "copy")
_HARMLESS: Final = (
    *("analyse", "analyze", "checkpoint", "close", "cluster", "comment", "drop", "fetch", "grant"),
    *("import", "lock", "move", "notify", "reassign", "refresh", "reindex", "release", "revoke"),
    *("savepoint", "security", "show", "truncate", "vacuum"),
)
VERDICTS: Final[dict[str, Verdict | Callable[[str, int], Verdict]]] = {
    **dict.fromkeys(_RUN, BY_CALLS),
    **dict.fromkeys(("commit", "rollback", "end", "abort"), _finish),
    **dict.fromkeys(("listen", "unlisten"), Residue.LISTEN),
    **dict.fromkeys(("begin", "start"), Residue.BEGIN),
    "set": _set,
    "reset": Residue.SET,
    "prepare": _prepare,
    "deallocate": Residue.PREPARE,
    "execute": Residue.EXECUTE,
    "declare": _declare,
    "create": _create,
    "alter": _alter,
    "load": Residue.LOAD,
    "call": Residue.CALL,
    "do": Residue.DO,
    "discard": Residue.DISCARD,
    **dict.fromkeys(_HARMLESS),
}
"""By the first word: a verdict, or what gives it from the statement and where that word ends."""
