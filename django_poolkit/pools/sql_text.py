"""Read SQL text just far enough to see what it calls: PostgreSQL's lexical rules, no grammar.

Everything here is linear in the text: each scanner is one regular expression made of possessive
loops, which can neither backtrack nor start again inside what it has passed. Assumed is
`standard_conforming_strings = on` (PostgreSQL's default, and Django's assumption). What is no SQL
may be misread: PostgreSQL parses a text as a whole before it runs any of it.
"""

import re
from collections.abc import Iterator

SPACE = " \t\n\r\f\v"
"""What PostgreSQL takes for white space; what else Python does is a letter to PostgreSQL."""

# What a name is made of is all but these; a class of ASCII alone is a table, and quick.
_LETTERS = r"[^\x00-#%-/:-@\[-^`{-\x7f]"
_FIRST_LETTER = r"[^\x00-@\[-^`{-\x7f]"
_SIGNS_AND_DIGITS = r"[\x00-!#-&(-@\[-^`{-\x7f]"
_WS = r"[ \t\n\r\f\v]*+"
# A double quote is escaped by another; a name that ends at the first of two would be cut in half.
_QUOTED = r'"(?:[^"]++|"")*+"'
# Where no backslash is near, 'it''s' may be read as two strings side by side, and E'' as ''.
_PLAIN_STRING = r"'[^']*+'"
_E_BODY = r"'(?:[^'\\]++|\\.|'')*+'"
_NEXT_LINE = r"(?:[ \t\f\v]++|--[^\n\r]*+)*+[\n\r](?:[ \t\n\r\f\v]++|--[^\n\r]*+(?=[\n\r]))*+"
# E'…' goes on in the next line's '…', by the same rules. The E itself was passed as a word.
_ANY_STRING = (
    rf"(?:(?<=[eE])(?<!{_LETTERS}[eE]){_E_BODY}(?:{_NEXT_LINE}{_E_BODY})*+"
    rf"|(?:(?<![eE])|(?<={_LETTERS}[eE])){_PLAIN_STRING})"
)
_DOLLAR_TAG = rf"\$(?:{_FIRST_LETTER}(?:(?!\$){_LETTERS})*+)?\$"


def _scanners(pattern: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return the scanner for texts without a backslash, and the slower one for those with."""
    plain, escaped = (pattern.replace("STRING", s) for s in (_PLAIN_STRING, _ANY_STRING))
    return re.compile(plain, re.DOTALL), re.compile(escaped, re.DOTALL)


_STOPS = _scanners(
    # What is passed over: signs and digits, words and names without "(", strings.
    rf"""{_SIGNS_AND_DIGITS}*+(?:(?:(?![iI][nN][tT][oO](?!{_LETTERS})){_LETTERS}++(?!{_WS}\()"""
    rf"""|STRING|{_QUOTED}(?!{_WS}\()){_SIGNS_AND_DIGITS}*+)*+"""
    # What is stopped at: 1 word(   2 "name"(   3 into   the end   4 a quote that is never closed.
    rf"""(?:({_LETTERS}++){_WS}\(|({_QUOTED}){_WS}\(|([iI][nN][tT][oO])(?!{_LETTERS})|\Z|(.))"""
)
_UP_TO_SEMICOLON = _scanners(rf"""(?:[^'";]++|STRING|{_QUOTED})*+""")
_UP_TO_HIDDEN = _scanners(
    rf"""(?:[^'"$/\-]++|STRING|{_QUOTED}|-(?!-)|/(?!\*)|(?<={_LETTERS})\$|(?!{_DOLLAR_TAG})\$)*+"""
)
_UP_TO_ARGUMENT = _scanners(rf"""(?:[^'"()\[\],]++|STRING|{_QUOTED})*+""")
_IN_QUOTES = _scanners(rf"""STRING|{_QUOTED}""")
_ESCAPED_NAME = re.compile(r'[uU]&"')
_HIDING = re.compile(rf"--|/\*|{_DOLLAR_TAG}")
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_LINE_COMMENT = re.compile(r"[^\n\r]*+")
_WORDS = re.compile(rf"{_LETTERS}++")
# Longer than a qualified name can be: three names of at most 63 bytes, quotes and dots.
_LOOK_BACK = 240
# As far as the arguments of one call are read: it bounds what nested calls cost together.
_LOOK_AHEAD = 4_000
_RUN = 64


class Unparsed(Exception):
    """The text ends inside a string, name or comment, or holds what PostgreSQL cannot read."""


def statements(text: str) -> Iterator[str]:
    """Yield the statements of `text` without comments; texts in dollar quotes become `''`.

    Raises:
        Unparsed: something is opened in the text and never closed.
    """
    if "\0" in text:
        # The driver hands over a C string: the server would see the text only up to here.
        raise Unparsed
    if '&"' in text and _ESCAPED_NAME.search(text):
        # What is named there can only be told by decoding it.
        raise Unparsed
    if "--" in text or "/*" in text or "$" in text:
        text = _without_hidden(text)
    text = text.rstrip(SPACE + ";")
    scan = _UP_TO_SEMICOLON["\\" in text]
    if ";" not in text:
        yield text
        return
    scan = _UP_TO_SEMICOLON["\\" in text]
    start = 0
    while (end := _end_of(scan, text, start)) < len(text):
        if text[end] != ";":
            raise Unparsed
        yield text[start:end]
        start = end + 1
    yield text[start:]


def _without_hidden(text: str) -> str:
    scan = _UP_TO_HIDDEN["\\" in text]
    parts = []
    start = 0
    while (end := _end_of(scan, text, start)) < len(text):
        parts.append(text[start:end])
        opening = _HIDING.match(text, end)
        if opening is None:
            raise Unparsed
        if opening[0] == "--":
            start = _end_of(_LINE_COMMENT, text, end)
            parts.append(" ")
        elif opening[0] == "/*":
            start = _end_of_comment(text, end)
            parts.append(" ")
        else:
            closing = text.find(opening[0], opening.end())
            if closing < 0:
                raise Unparsed
            start = closing + len(opening[0])
            parts.append("''")
    parts.append(text[start:])
    return "".join(parts)


def _end_of_comment(text: str, start: int) -> int:
    depth = 0
    for edge in _COMMENT_EDGE.finditer(text, start):
        depth += 1 if edge[0] == "/*" else -1
        if not depth:
            return edge.end()
    raise Unparsed


def _end_of(scan: re.Pattern[str], text: str, start: int) -> int:
    passed = scan.match(text, start)
    assert passed is not None  # every scanner given to this may match nothing
    return passed.end()


def stops(statement: str, start: int = 0) -> Iterator[re.Match[str]]:
    """Yield what is worth a look, from `start` on.

    That is a word (group 1) or quoted name (2) with its opening parenthesis, and INTO (3).

    Raises:
        Unparsed: a string or name is never closed.
    """
    for found in _STOPS["\\" in statement].finditer(statement, start):
        which = found.lastindex
        if which is None:
            return
        if which == 4:
            raise Unparsed
        yield found


def arguments(statement: str, start: int) -> list[str] | None:
    """Return the arguments of the call whose parenthesis opens just before `start`.

    None if there is no end of them within some thousand characters.
    """
    text = statement[start : start + _LOOK_AHEAD]
    scan = _UP_TO_ARGUMENT["\\" in text]
    found: list[str] = []
    depth = begin = position = 0
    while (end := _end_of(scan, text, position)) < len(text):
        sign = text[end]
        if sign in "'\"":
            return None
        if sign in "([":
            depth += 1
        elif depth:
            depth -= sign in ")]"
        else:
            found.append(text[begin:end].strip(SPACE))
            if sign == ")":
                return found
            begin = end + 1
        position = end + 1
    return None


def token_before(statement: str, position: int) -> tuple[str, int]:
    """Return the token that ends before `position`, and where it starts.

    A word comes in lower case, a quoted name as it stands, else one sign (`::` as a whole). It is
    "" at the start of the statement, and "?" where it cannot be told cheaply.
    """
    low = max(0, position - _LOOK_BACK)
    head = statement[low:position].rstrip(SPACE)
    if not head:
        return ("?" if low else ""), low
    last = head[-1]
    if last == '"':
        start = head.rfind('"', 0, -1)
        while start > 0 and head[start - 1] == '"':
            start = head.rfind('"', 0, start - 1)
        return (head[start:], low + start) if start >= 0 else ("?", low)
    if last.isascii() and not last.isalnum() and last not in "_$":
        sign = "::" if head.endswith("::") else last
        return sign, low + len(head) - len(sign)
    word = _WORDS.findall(head, max(0, len(head) - 80))[-1]
    return word.lower(), low + len(head) - len(word)


def bare(statement: str) -> str:
    """Return `statement` without what stands in quotes."""
    return _IN_QUOTES["\\" in statement].sub(" ", statement)


def blanked(statement: str) -> str:
    """Return `statement` with blanks for what stands in quotes: every sign keeps its place."""
    return _IN_QUOTES["\\" in statement].sub(lambda quoted: " " * len(quoted[0]), statement)


def shortened(text: str) -> str:
    """Cut long runs of one and the same row or placeholder in `text`, as bulk statements have them.

    What is left has the same tokens in the same order, only fewer of a kind. This takes a small
    part of what it takes to pass over each of them.
    """
    row = text.find("), (%s")
    if row >= 0:
        piece = text[row : text.find(")", row + 1)]
        if not piece.strip("%s, ()"):
            text = _cut_runs(text, piece)
    return _cut_runs(text, "%s, ")


def _cut_runs(text: str, piece: str) -> str:
    run = piece * _RUN
    parts = []
    kept = 0
    while (start := text.find(run, kept)) >= 0:
        end = start + len(run)
        step = _RUN
        while text.startswith(piece * step, end):
            end += len(piece) * step
            step *= 2
        while step := step // 2:
            if text.startswith(piece * step, end):
                end += len(piece) * step
        parts.append(text[kept : start + len(piece)])
        kept = end
    parts.append(text[kept:])
    return "".join(parts)
