"""Tell from a statement's text whether it may leave session state behind on its connection.

Session state is what outlives the transaction: settings, temporary tables, advisory locks, LISTEN,
prepared statements, cursors WITH HOLD. The verdict errs on the side of caution: a wrong "may" costs
a reset, a wrong "does not" shows one visitor's state to the next. So a call of a function that
PostgreSQL does not ship counts (nobody knows what it sets), unless it is listed as harmless.

What the text cannot show: what functions do that are reached without a call in the text (triggers,
column defaults, views, operators, a user's function that shadows a shipped name).

Harmless on purpose: `nextval` and `setval` (they leave only what `currval` reads), `lo_open` (its
descriptor dies with the transaction), NOTIFY, SAVEPOINT, COMMIT, and PREPARE TRANSACTION (what it
leaves, leaves the session). Not harmless on purpose: `currval` and `lastval`. They leave nothing,
but what they read is the session's own: the connection must be held from there on, and the count
by reason shows that the code needs one connection from `nextval` to here.
"""

import re
from collections.abc import Collection
from typing import Final

from django_poolkit.pools import sql_calls, sql_text
from django_poolkit.pools.builtin_functions import (
    CONTRIB,
    HARMLESS_PREFIXES,
    POSTGRESQL,
    THIRD_PARTY,
)
from django_poolkit.pools.statement_kinds import BY_CALLS, VERDICTS, ByCalls, Residue

__all__ = (
    "CACHED_LENGTH",
    "CACHE_SIZE",
    "STATEFUL_FUNCTIONS",
    "Residue",
    "StatementRules",
    "residue",
)


CACHE_SIZE: Final = 4096
"""How many verdicts are remembered, at most."""
CACHED_LENGTH: Final = 2000
"""Longer texts are judged each time: they are made from data, and seldom come again."""
# Below this a run is passed over as quickly as it is looked for.
_WORTH_SHORTENING: Final = 500

STATEFUL_FUNCTIONS: Final[dict[str, Residue]] = {
    **dict.fromkeys(("set_config", "setseed", "set_limit", "isn_weak"), Residue.SET),
    **dict.fromkeys(("currval", "lastval"), Residue.SEQUENCE),
    **dict.fromkeys(
        (
            f"pg_{verb}{kind}"
            for verb in ("advisory_lock", "try_advisory_lock", "advisory_unlock")
            for kind in ("", "_shared", "_all")
        ),
        Residue.ADVISORY_LOCK,
    ),
}
"""Shipped functions that leave session state of a kind of their own. Others that do (of dblink, of
replication slots and backups) or that run a text given to them (`query_to_xml`, `ts_stat`,
`crosstab`) are in no list, and so count as FUNCTION."""

_ANY_SCHEMA: Final = CONTRIB | THIRD_PARTY
_FLAGS: Final = re.ASCII | re.IGNORECASE

_HEAD: Final = re.compile(r"[\s(]*+([a-z_]*+)", _FLAGS)
_EXPLAIN: Final = re.compile(
    r"\s*+(?:\((?!\s*+(?:\(|select\b|values\b|with\b|table\b))[^()]*+\)"
    r"|(?:(?:analy[sz]e|verbose)\b\s*+)*+)",
    _FLAGS,
)
_PROCEDURE: Final = re.compile(r"\s*+([^\s(]++)\s*+\(", _FLAGS)
_FUNCTION: Final = re.compile(
    r"\s*+create\s++(?:or\s++replace\s++)?+(?:function|procedure)\b", _FLAGS
)
_BODY: Final = re.compile(r"\bbegin\s++atomic\b(?!\s*+end\b)", _FLAGS)
_BODY_END: Final = re.compile(r"\s*+end\b", _FLAGS)
_TEMPORARY_TARGET: Final = re.compile(
    r"\s++(?:(?:(?:local|global)\s++)?+temp(?:orary)?\b|(?:table\s++)?+\"?pg_temp)", _FLAGS
)
_TRUE: Final = re.compile(
    r"(?:true|'(?:t|true|on|yes|y|1)')(?:\s*+::\s*+bool(?:ean)?)?+",
    _FLAGS,
)


class StatementRules:
    """The rules, with a project's own list of harmless functions; verdicts are cached by text.

    `harmless_functions` holds names as `function` or `schema.function`; what is listed is believed,
    also of a function of PostgreSQL's and of a procedure.

    Safe to share among threads, with a GIL or without: the cache is two dicts, of which the older
    is dropped when the younger is full. They see single gets and sets only and are never walked, so
    all that a race can lose is a remembered verdict.

    Raises:
        TypeError: `harmless_functions` is a string, or holds something else than strings.
        ValueError: a name is empty, or holds blanks or parentheses.
    """

    __slots__ = ("_harmless", "_older", "_younger")

    def __init__(self, harmless_functions: Collection[str] = ()) -> None:
        self._harmless = _names(harmless_functions)
        self._younger: dict[str, Residue | None] = {}
        self._older: dict[str, Residue | None] = {}

    @property
    def remembered(self) -> int:
        """How many verdicts are held: at most `CACHE_SIZE`, and one more a thread in a race."""
        return len(self._younger) + len(self._older)

    def residue(self, statement: str) -> Residue | None:
        """Return what `statement` may leave behind, None if nothing. Never blocks.

        Of several kinds it is the first in the text. Every str has a verdict.

        Raises:
            TypeError: `statement` is not a str.
        """
        try:
            return self._younger[statement]
        except (KeyError, TypeError):
            pass
        if not isinstance(statement, str):
            raise TypeError(
                f"session state is read from text, as str; got {type(statement).__name__}"
                " (decode bytes, call as_string(connection) on psycopg's composed SQL)"
            )
        if len(statement) > CACHED_LENGTH:
            return self._judge(statement)
        try:
            verdict = self._older[statement]
        except KeyError:
            verdict = self._judge(statement)
        younger = self._younger
        if len(younger) >= CACHE_SIZE // 2:
            self._older = younger
            self._younger = younger = {}
        younger[statement] = verdict
        return verdict

    def _judge(self, text: str) -> Residue | None:
        if len(text) > _WORTH_SHORTENING:
            text = sql_text.shortened(text)
        in_body = False
        try:
            for statement in sql_text.statements(text):
                if in_body:
                    in_body = _BODY_END.match(statement) is None
                    continue
                verdict = self._statement(statement)
                if verdict is not None:
                    return verdict
                in_body = bool(_FUNCTION.match(statement) and _BODY.search(statement))
        except sql_text.Unparsed:
            return Residue.UNPARSED
        return Residue.UNPARSED if in_body else None

    def _statement(self, statement: str) -> Residue | None:
        word, end = _head(statement)
        if word == "explain":
            # EXPLAIN ANALYZE runs the rest; without it, it is rare enough to be treated alike.
            options = _EXPLAIN.match(statement, end)
            assert options is not None  # matches the empty text
            statement = statement[options.end() :]
            word, end = _head(statement)
        if word not in VERDICTS:
            return Residue.UNPARSED if word or end < len(statement) else None
        verdict = VERDICTS[word]
        if callable(verdict):
            verdict = verdict(statement, end)
        if verdict is Residue.CALL:
            procedure = _PROCEDURE.match(statement, end)
            if procedure and procedure[1].lower() in self._harmless:
                verdict, end = BY_CALLS, procedure.end()
        return self._calls(statement, end) if isinstance(verdict, ByCalls) else verdict

    def _calls(self, statement: str, start: int) -> Residue | None:
        reader = None
        for found in sql_text.stops(statement, start):
            if found[3]:
                verdict = _into(statement, found)
            elif found[1] and found[1].lower() in sql_calls.RESERVED:
                continue
            else:
                reader = reader or sql_calls.CallReader(statement)
                verdict = self._call(statement, reader, found)
            if verdict is not None:
                return verdict
        return None

    def _call(
        self, statement: str, reader: sql_calls.CallReader, found: re.Match[str]
    ) -> Residue | None:
        schema, name = reader.name(found)
        if name in self._harmless or f"{schema}.{name}" in self._harmless:
            return None
        stateful = STATEFUL_FUNCTIONS.get(name)
        if stateful is not None:
            return None if name == "set_config" and _is_local(statement, found) else stateful
        if name in _ANY_SCHEMA or name.startswith(HARMLESS_PREFIXES):
            return None
        if schema in ("", "pg_catalog") and name in POSTGRESQL:
            return None
        if schema == "information_schema" or reader.is_syntax(found, name):
            return None
        return Residue.FUNCTION


def _into(statement: str, found: re.Match[str]) -> Residue | None:
    """SELECT INTO creates a table; INSERT INTO and MERGE INTO may name one that is called temp."""
    if not _TEMPORARY_TARGET.match(statement, found.end()):
        return None
    before, _ = sql_text.token_before(statement, found.start())
    return None if before in ("insert", "merge") else Residue.TEMP_TABLE


def _is_local(statement: str, found: re.Match[str]) -> bool:
    arguments = sql_text.arguments(statement, found.end())
    return arguments is not None and len(arguments) == 3 and bool(_TRUE.fullmatch(arguments[2]))


def _head(statement: str) -> tuple[str, int]:
    head = _HEAD.match(statement)
    assert head is not None  # matches the empty text
    return head[1].lower(), head.end()


def _names(functions: Collection[str]) -> frozenset[str]:
    if isinstance(functions, str) or not all(isinstance(name, str) for name in functions):
        raise TypeError("harmless_functions must be a collection of strings, one a function")
    for name in functions:
        if not name or re.search(r"[\s()]", name):
            raise ValueError(f"harmless_functions: {name!r} is no name of a function")
    return frozenset(functions) | {name.lower() for name in functions}


_DEFAULT: Final = StatementRules()


def residue(statement: str) -> Residue | None:
    """Return what `statement` may leave behind by the default rules, None if nothing."""
    return _DEFAULT.residue(statement)
