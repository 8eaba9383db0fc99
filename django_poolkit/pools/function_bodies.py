"""Tell from the body of a function what it may leave behind in its session, and what it calls.

Read are SQL and PL/pgSQL. PL/pgSQL is taken apart just far enough to find its statements, which
are then judged by the rules for any statement. An expression is judged by what it calls.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from django_poolkit.pools import sql_calls, sql_text
from django_poolkit.pools.session_state import StatementRules
from django_poolkit.pools.statement_kinds import VERDICTS, Residue

__all__ = ("LANGUAGES", "Body", "read")

LANGUAGES: Final = ("sql", "plpgsql")
"""Those that can be read."""

_FLAGS: Final = re.ASCII | re.IGNORECASE
# Behind these a statement of PL/pgSQL begins. They come in SQL, too, where what follows is judged
# as an expression.
_OPENING: Final = re.compile(
    r"(?:^\s*+|\b)(begin\s++atomic|begin|declare|then|else|loop)\b|>>", _FLAGS
)
_VERB: Final = re.compile(
    r"\s*+(?:(?:perform|return\s++query|return\s++next|return|if|elsif|elseif|while|assert|case"
    r"|when|exit\s++when|continue\s++when)\b\s*+)++",
    _FLAGS,
)
_ASSIGNED: Final = re.compile(r"\s*+[\w.$\"\x80-\U0010ffff]++(?:\s*+\[[^\]]*+\])*+\s*+:?=", _FLAGS)
_WORD: Final = re.compile(r"[\s(]*+([a-z_]*+)", _FLAGS)
_PROCEDURE: Final = re.compile(r"\s*+call\b", _FLAGS)
_TEXT: Final = re.compile(r"\s*+execute\s*+(?:format\s*+)?\(?\s*+(?:e?'((?:[^']|'')*+)')?", _FLAGS)
# In PL/pgSQL a variable stands there, whatever it is called.
_TARGET: Final = re.compile(r"\binto\s++(?:strict\s++)?temp(?:orary)?\b", _FLAGS)
# What no function can do to its session, or what leaves nothing; what the words mean elsewhere.
_PASSED: Final = frozenset((Residue.BEGIN, Residue.SEQUENCE, Residue.FUNCTION, Residue.CALL))
_CANNOT_TELL: Final = frozenset((Residue.UNPARSED, Residue.DO, Residue.EXECUTE))


@dataclass(frozen=True, slots=True)
class Body:
    """What is to be seen in the body of a function."""

    leaves: frozenset[Residue] = frozenset()
    """What it may leave behind."""
    calls: frozenset[str] = frozenset()
    """Functions that it calls, as `name` or `schema.name`; those PostgreSQL ships are left out."""
    unclear: bool = False
    """Whether it runs a text that it makes, which cannot be read here."""


class _Rules(StatementRules):
    """Passes over the calls of functions whose own body tells what they leave, and notes them."""

    __slots__ = ("called",)

    def __init__(self) -> None:
        super().__init__()
        self.called: set[str] = set()

    def _call(
        self, statement: str, reader: sql_calls.CallReader, found: re.Match[str]
    ) -> Residue | None:
        verdict = super()._call(statement, reader, found)
        if verdict is Residue.FUNCTION:
            schema, name = reader.name(found)
            self.called.add(f"{schema}.{name}" if schema else name)
            return None
        return verdict


def read(source: str, language: str) -> Body:
    """Return what is to be seen in `source`. Never blocks; takes time in proportion to its length.

    `language` is one of `LANGUAGES`; of a function with a body in standard SQL, that is "sql".
    """
    rules = _Rules()
    found: set[Residue] = set()
    declaring = False
    try:
        for statement in sql_text.statements(source):
            for opening, text in _parts(statement):
                declaring = opening == "declare" or (declaring and opening != "begin")
                found |= _judge(rules, text, language, declaring)
    except sql_text.Unparsed:
        found.add(Residue.UNPARSED)
    return Body(
        leaves=frozenset(found - _CANNOT_TELL - _PASSED),
        calls=frozenset(rules.called),
        unclear=bool(found & _CANNOT_TELL),
    )


def _parts(statement: str) -> list[tuple[str, str]]:
    """Cut what stands between two semicolons where PL/pgSQL opens a block or a branch."""
    parts, start, opening = [], 0, ""
    for found in _OPENING.finditer(sql_text.blanked(statement)):
        parts.append((opening, statement[start : found.start()]))
        start, opening = found.end(), (found[1] or "").lower().split(" ")[0]
    parts.append((opening, statement[start:]))
    return [part for part in parts if part[1].strip() or part[0]]


def _judge(rules: _Rules, text: str, language: str, declaring: bool) -> set[Residue]:
    if language == "plpgsql":
        text = _TARGET.sub("into x", text)
    assigned = _ASSIGNED.match(text)
    word = _WORD.match(text)
    assert word is not None  # matches the empty text
    head = word[1].lower()
    if head == "execute" and not declaring and assigned is None:
        return _dynamic(rules, text)
    if assigned is not None:
        text = "SELECT " + text[assigned.end() :]
    elif declaring or head not in VERDICTS:
        verb = _VERB.match(text)
        text = "SELECT " + (text[verb.end() :] if verb else text)
    elif head == "call":
        text = _PROCEDURE.sub("SELECT ", text, count=1)
    verdict = rules.residue(text)
    return set() if verdict is None else {verdict}


def _dynamic(rules: _Rules, text: str) -> set[Residue]:
    """Judge EXECUTE by the text that it begins with; one that is no more than a name may be any."""
    made = _TEXT.match(text)
    beginning = made[1] if made is not None else None
    # What the text is made of may call functions itself.
    around = rules.residue("SELECT " + text)
    found = set() if around is None else {around}
    word = _WORD.match(beginning.replace("''", "'")) if beginning else None
    if beginning is None or word is None or word[1].lower() not in VERDICTS:
        return found | {Residue.EXECUTE}
    # It goes on with what is not known, so its strings may not be closed.
    verdict = rules.residue(beginning.replace("''", "'"))
    if verdict is Residue.UNPARSED:
        verdict = Residue.EXECUTE
    return found if verdict is None else found | {verdict}
