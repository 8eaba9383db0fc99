"""Tell the calls in a statement from all else that looks like `name(`.

A table with its columns, a type with its length, an alias with its columns, a common table
expression and a good part of the key words look like calls. Two facts tell them apart: the key
words that cannot name a function, and that in SQL no expression directly follows a name that is no
key word. Where a doubt is left, it is a call.
"""

import re
from typing import Final

from django_poolkit.pools import sql_text


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


RESERVED: Final = _words(
    """
    all analyse analyze and any array as asc asymmetric between bigint bit boolean both case cast
    char character check coalesce collate column constraint create current_catalog current_date
    current_role current_time current_timestamp current_user dec decimal default deferrable desc
    distinct do else end except exists extract false fetch float for foreign from grant greatest
    group grouping having in initially inout int integer intersect interval into json json_array
    json_arrayagg json_exists json_object json_objectagg json_query json_scalar json_serialize
    json_table json_value lateral leading least limit localtime localtimestamp merge_action
    national nchar none normalize not null nullif numeric offset on only or order out overlay
    placing position precision primary real references returning row select session_user setof
    smallint some substring symmetric system_user table then time timestamp to trailing treat trim
    true union unique user using values varchar variadic when where window with xmlattributes
    xmlconcat xmlelement xmlexists xmlforest xmlnamespaces xmlparse xmlpi xmlroot xmlserialize
    xmltable
    """
)
"""Key words that cannot name a user's function: `word(` is syntax, or PostgreSQL's own."""

UNRESERVED: Final = _words(
    """
    abort absent absolute access action add admin after aggregate also alter always asensitive
    assertion assignment at atomic attach attribute authorization backward before begin binary
    breadth by cache call called cascade cascaded catalog chain characteristics checkpoint class
    close cluster collation columns comment comments commit committed compression concurrently
    conditional configuration conflict connection constraints content continue conversion copy
    cost cross csv cube current current_schema cursor cycle data database day deallocate declare
    defaults deferred definer delete delimiter delimiters depends depth detach dictionary disable
    discard document domain double drop each empty enable encoding encrypted enforced enum error
    escape event exclude excluding exclusive execute explain expression extension external family
    filter finalize first following force format forward freeze full function functions generated
    global granted groups handler header hold hour identity if ilike immediate immutable implicit
    import include including increment indent index indexes inherit inherits inline inner input
    insensitive insert instead invoker is isnull isolation join keep key keys label language large
    last leakproof left level like listen load local location lock locked logged mapping match
    matched materialized maxvalue merge method minute minvalue mode month move name names natural
    nested new next nfc nfd nfkc nfkd no normalized nothing notify notnull nowait nulls object
    objects of off oids old omit operator option options ordinality others outer over overlaps
    overriding owned owner parallel parameter parser partial partition passing password path
    period plan plans policy preceding prepare prepared preserve prior privileges procedural
    procedure procedures program publication quote quotes range read reassign recheck recursive
    ref referencing refresh reindex relative release rename repeatable replace replica reset
    restart restrict return returns revoke right role rollback rollup routine routines rows rule
    savepoint scalar schema schemas scroll search second security sequence sequences serializable
    server session set sets share show similar simple skip snapshot source sql stable standalone
    start statement statistics stdin stdout storage stored strict string strip subscription
    support sysid system tables tablesample tablespace target temp template temporary text ties
    transaction transform trigger truncate trusted type types uescape unbounded uncommitted
    unconditional unencrypted unknown unlisten unlogged until update vacuum valid validate
    validator value varying verbose version view views virtual volatile whitespace within without
    work wrapper write xml year yes zone
    """
)
"""The other key words (`pg_get_keywords()`, versions 15 to 18), which may also be names."""

# Behind these a name with a parenthesis is a table, a type or an alias with its columns.
_NO_CALL_AFTER: Final = _words(
    "into table references as with recursive exists ordinality of type view column add name value"
    " data copy ::"
)
# Unreserved words before a parenthesis: syntax behind one of these, else a name like any other.
_SYNTAX_AFTER: Final[dict[str, frozenset[str]]] = {
    word: _words(before)
    for word, before in {
        "by": "group order partition",
        "columns": "' )",
        "conflict": "on",
        "filter": ")",
        "force_not_null": ", (",
        "force_null": ", (",
        "force_quote": ", (",
        "hash": "by",
        "identity": "as",
        "include": ")",
        "inherits": ")",
        "insert": "then",
        "key": "primary foreign",
        "list": "by",
        "materialized": "as not",
        "operator": ")",
        "over": ")",
        "range": "by",
        "repeatable": ")",
        "rollup": "all by distinct , (",
        "second": "interval to '",
        "set": "update",
        "sets": "grouping",
        "stdin": "from",
        "stdout": "to",
        "varying": "character char bit nchar",
        "zone": "time",
    }.items()
}
_ALWAYS_SYNTAX: Final = frozenset(("ilike", "join", "like"))
_INDEX_METHODS: Final = _words("bloom brin btree gin gist hash hnsw ivfflat rum spgist")

_IDENTIFIER: Final = r"(?:[\w$\x80-\U0010ffff]++|\"[^\"]*+\")"
_COLUMN: Final = rf"{_IDENTIFIER}(?:\s*+{_IDENTIFIER})?+"
_COLUMNS: Final = re.compile(rf"\s*+{_COLUMN}(?:\s*+,\s*+{_COLUMN})*+\s*+\)", re.ASCII | re.DOTALL)
_QUERY: Final = re.compile(
    r"\s*+as\s*+(?:(?:not\s++)?+materialized\s*+)?+\([\s(]*+(?:select\b|with\b|values\s*+\(|table\b"
    r"|insert\s++into\b|delete\s++from\b|merge\s++into\b"
    r"|update\s++[\w.\"]++\s++(?:(?:as\s++)?+(?!set\b)\w++\s++)?+set\b)",
    re.ASCII | re.IGNORECASE,
)
# Behind these parentheses alone an expression follows without a comma or key word.
_EXPRESSION_FOLLOWS: Final = re.compile(
    r"\b(?:distinct\s++on|operator|returning\s++with)\s*+\(", re.ASCII | re.IGNORECASE
)
_FIRST_WORDS: Final = re.compile(r"[\s(]*+(\w++)(?:\s++(\w++))?+(?:\s++(\w++))?+", re.ASCII)


class CallReader:
    """Reads the calls of one statement."""

    __slots__ = ("_expression_follows", "_first_words", "_text")

    def __init__(self, statement: str) -> None:
        self._text = statement
        self._first_words: frozenset[str] | None = None
        self._expression_follows: bool | None = None

    def name(self, found: re.Match[str]) -> tuple[str, str]:
        """Return the schema ("" if none is given) and the name that `found` would call."""
        text = self._text
        start = found.start(found.lastindex or 0)
        near = text[start - 2 : start] if start > 1 else text[:start]
        schema = ""
        # Nearly all names stand behind one blank or sign, and there is no need to look further.
        if "." in near or not near.strip(sql_text.SPACE):
            before, start = sql_text.token_before(text, start)
            if before == ".":
                schema = _plain(sql_text.token_before(text, start)[0])
        return schema, _plain(found[2]) if found[2] else found[1].lower()

    def is_syntax(self, found: re.Match[str], name: str) -> bool:
        """Tell whether the name before a parenthesis is none of a function."""
        before = self._before(found.start(found.lastindex or 0))
        if found[1] and (name in _ALWAYS_SYNTAX or before in _SYNTAX_AFTER.get(name, ())):
            return True
        if before in _NO_CALL_AFTER or before.startswith('"'):
            return True
        if before == ")":
            return self._is_alias(found.end())
        if before == ",":
            return self._is_common_table(found.end())
        if before in RESERVED or before in UNRESERVED:
            if before in ("on", "only", "using") and self._starts_with("index"):
                return True
            defines = self._starts_with("create") or self._starts_with("alter")
            return defines and before == "using" and name in _INDEX_METHODS
        # A name; but `1OR f(x)` is read as one word here.
        return bool(before) and (before[0].isalpha() or before[0] == "_" or before[0] > "\x7f")

    def _before(self, start: int) -> str:
        """Return the token before a name with its schemas."""
        before, start = sql_text.token_before(self._text, start)
        while before == ".":
            _, start = sql_text.token_before(self._text, start)
            before, start = sql_text.token_before(self._text, start)
        return before

    def _starts_with(self, word: str) -> bool:
        """Tell whether `word` is among the first three."""
        if self._first_words is None:
            words = _FIRST_WORDS.match(self._text)
            self._first_words = (
                frozenset(w.lower() for w in words.groups("")) if words else frozenset()
            )
        return word in self._first_words

    def _is_alias(self, start: int) -> bool:
        if not _COLUMNS.match(self._text, start):
            return False
        if self._expression_follows is None:
            self._expression_follows = _EXPRESSION_FOLLOWS.search(self._text) is not None
        return not self._expression_follows

    def _is_common_table(self, start: int) -> bool:
        columns = _COLUMNS.match(self._text, start)
        return columns is not None and _QUERY.match(self._text, columns.end()) is not None


def _plain(token: str) -> str:
    return token[1:-1].replace('""', '"') if token.startswith('"') else token
