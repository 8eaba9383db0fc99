"""What stands in quotes and comments is told from what does not, as PostgreSQL's manual has it."""

import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from django_poolkit.pools import sql_text
from django_poolkit.pools.session_state import StatementRules

PIECES = [
    *("'", "''", '"', '""', "$$", "$a$", "$b$", "/*", "*/", "--", "\n", "\r\n", "\\", "E'", " e'"),
    *(" ", "\t", ",f(", ",f (", ",lower(", "a", "é", "x1", "-", "/", "*", "%s", ","),
]
# Literals side by side, or behind a number or a lone "$", are no SQL.
NO_SQL = re.compile(r"[0-9][$eE]|[$][ab]?[$][$]|[$][eE]'")
BETWEEN = re.compile(r"(?:[ \t\f\v]|--[^\n\r]*)*[\n\r](?:[ \t\f\v\n\r]|--[^\n\r]*(?=[\n\r]))*'")
LETTER = re.compile(r"[A-Za-z_\x80-\U0010ffff]")
WORD = re.compile(r"[A-Za-z0-9_$\x80-\U0010ffff]+")
TAG = re.compile(r"\$(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*)?\$")


class Open(Exception):
    """The text ends inside something."""


def end_of_quotes(text, at, *, backslash=False):
    quote = text[at]
    at += 1
    while at < len(text):
        if (backslash and text[at] == "\\") or text.startswith(quote * 2, at):
            at += 2
        elif text[at] != quote:
            at += 1
        elif backslash and (again := BETWEEN.match(text, at + 1)):
            at = again.end()
        else:
            return at + 1
    raise Open


def end_of_comment(text, at):
    depth = 0
    while at < len(text):
        if text.startswith("/*", at):
            depth, at = depth + 1, at + 2
        elif text.startswith("*/", at):
            depth, at = depth - 1, at + 2
            if not depth:
                return at
        else:
            at += 1
    raise Open


def outside(text):
    """Return what of `text` is in no quotes and no comment, read sign by sign."""
    found, at = "", 0
    while at < len(text):
        if text.startswith("--", at):
            while at < len(text) and text[at] not in "\n\r":
                at += 1
            found += " "
        elif text.startswith("/*", at):
            at = end_of_comment(text, at)
            found += " "
        elif text[at] in "eE" and text.startswith("'", at + 1):
            at = end_of_quotes(text, at + 1, backslash=True)
            found += "?"
        elif text[at] in "'\"":
            at = end_of_quotes(text, at)
            found += "?"
        elif tag := TAG.match(text, at):
            end = text.find(tag[0], tag.end())
            if end < 0:
                raise Open
            at = end + len(tag[0])
            found += "?"
        elif LETTER.match(text, at) and (word := WORD.match(text, at)):
            found += word[0]
            at = word.end()
        else:
            found += text[at]
            at += 1
    return found


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_calls_are_found_outside_of_quotes_and_comments_and_nowhere_else(pieces):
    text = f"SELECT {pieces}"
    assume(not NO_SQL.search(text))
    try:
        left = outside(text)
    except Open:
        assert StatementRules().residue(text) is not None
    else:
        expected = "function" if re.search(r",f\s*\(", left) else None
        assert StatementRules().residue(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [""]),
        ("SELECT 1;;SELECT 2 ; ", ["SELECT 1", "", "SELECT 2"]),
        ("SELECT ';' AS \";\"; SELECT $a$;$a$", ["SELECT ';' AS \";\"", " SELECT ''"]),
        (r"SELECT E'\';'; SELECT '\'; SELECT 3", [r"SELECT E'\';'", r" SELECT '\'", " SELECT 3"]),
        ("a/* ; /* ; */ ; */b -- ;\n;c", ["a b  \n", "c"]),
    ],
)
def test_statements_are_split_at_semicolons_that_are_none_of_a_text(text, expected):
    assert list(sql_text.statements(text)) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (")", [""]),
        ("1, f(2, 3), '4, 5)' , ARRAY[6, 7]) , 8)", ["1", "f(2, 3)", "'4, 5)'", "ARRAY[6, 7]"]),
        (r"E'\',', " + '"a,b")', [r"E'\','", '"a,b"']),
        ("1, 2", None),
        ("'1)", None),
        ("1" * 5000 + ")", None),
        ("a,b,((c), d),[e, (f)],g) , 8)", ["a", "b", "((c), d)", "[e, (f)]", "g"]),
        ("\xa0a, \t\n\r\f\vb )", ["\xa0a", "b"]),  # which is none of PostgreSQL's blanks
    ],
)
def test_arguments_are_split_at_commas_of_their_own_call(arguments, expected):
    assert sql_text.arguments(f"f({arguments}", 2) == expected


@pytest.mark.parametrize(
    ("text", "bare"),
    [("a 'b c' d", "a   d"), ('a "b c" d', "a   d"), (r"a E'b\' c' d", "a E  d")],
)
def test_what_stands_in_quotes_becomes_one_blank_or_as_many_as_it_had_signs(text, bare):
    assert sql_text.bare(text) == bare
    blanked = sql_text.blanked(text)
    assert (len(blanked), " ".join(blanked.split())) == (len(text), " ".join(bare.split()))


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("", ("", 0)),
        ("SELECT", ("select", 0)),
        ("a INTO \t\n", ("into", 2)),
        ('a "b c"', ('"b c"', 2)),
        ('a "b""c" ', ('"b""c"', 2)),
        ("a::", ("::", 1)),
        ("a :", (":", 2)),
        ("(é1$", ("é1$", 1)),
        ("a" + " " * 300, ("?", 61)),
    ],
)
def test_the_token_before_a_place_is_found(before, expected):
    assert sql_text.token_before(f"{before}(", len(before)) == expected
