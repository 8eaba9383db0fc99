"""The verdict on a text is right, has no exception, is remembered, and grows with the text only."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from django_poolkit.pools import session_state, sql_text
from django_poolkit.pools.session_state import CACHE_SIZE, CACHED_LENGTH, StatementRules, residue
from tests.pools.session_state_corpus import HARMLESS, STATEFUL
from tests.pools.session_state_django import STATEMENTS

ALL = [
    *((text, str(reason)) for text, reason in STATEFUL),
    *((text, None) for text in [*HARMLESS, *STATEMENTS]),
]
PIECES = [
    *("'", "''", '"', "$$", "$a$", "/*", "*/", "--", "\n", ";", "\\", "E'", "U&", "(", ")", ","),
    *(" ", "f(", "lower(", "set_config(", "SELECT ", "INTO ", "TEMP ", "WITH ", "AS ", "%s", "1"),
    *("SET ", "CREATE ", "FUNCTION ", "BEGIN ATOMIC ", "END", "EXPLAIN ", "::", ".", "ON ", "\0"),
]


@pytest.mark.parametrize(("text", "expected"), ALL, ids=range(len(ALL)))
def test_a_text_leaves_what_the_corpus_says(text, expected):
    assert StatementRules().residue(text) == expected


@pytest.mark.parametrize(("text", "expected"), ALL, ids=range(len(ALL)))
@pytest.mark.parametrize(
    "dressed",
    [
        lambda text: f"/* route='a(b)' */ {text}",
        lambda text: f"-- it's a(b)\n{text}",
        lambda text: f"SELECT 'it''s'; {text}",
        lambda text: f"SELECT lower('A') AS \"b;(\";\n{text}",
        lambda text: f"SELECT $x$ ' $x$; {text}",
    ],
    ids=["block comment", "line comment", "after another", "after a name", "after a dollar"],
)
def test_neither_comments_nor_statements_before_it_change_the_verdict(text, expected, dressed):
    assert StatementRules().residue(dressed(text)) == expected


BARE = [(text, expected) for text, expected in ALL if not set(text) & set("'\"$-\0")]


@pytest.mark.parametrize(("text", "expected"), BARE, ids=range(len(BARE)))
def test_neither_blanks_nor_case_change_the_verdict(text, expected):
    spaced = text.replace(" ", "\r\n \t/**/").replace("(", " (  ")
    for changed in (spaced, text.upper(), text.title()):
        assert StatementRules().residue(changed) == expected


@pytest.mark.parametrize("text", ["SELECT my_function(1)", "SELECT app.my_function(1)"])
def test_a_listed_function_is_harmless(text):
    assert StatementRules(["my_function"]).residue(text) is None
    assert StatementRules(["other"]).residue(text) == "function"


def test_a_listed_function_may_be_of_one_schema():
    rules = StatementRules(["app.f"])
    assert rules.residue("SELECT app.f(1), APP.F(2)") is None
    assert rules.residue("SELECT f(1)") == "function"
    assert rules.residue("SELECT other.f(1)") == "function"


def test_a_listed_name_matches_as_postgresql_matches_it():
    rules = StatementRules(["Total", "pg_advisory_lock"])
    assert rules.residue('SELECT TOTAL(1), "Total"(1), total(1), pg_advisory_lock(1)') is None
    assert rules.residue('SELECT "TOTAL"(1)') == "function"


def test_a_listed_procedure_is_judged_by_its_arguments():
    rules = StatementRules(["app.nightly"])
    assert rules.residue("CALL app.nightly(lower('A'))") is None
    assert rules.residue("CALL app.nightly(f(1))") == "function"
    assert rules.residue("CALL nightly()") == "call"


@pytest.mark.parametrize(
    ("functions", "error"),
    [("f", TypeError), ([b"f"], TypeError), ([""], ValueError), (["f()"], ValueError)],
)
def test_a_list_that_cannot_be_meant_is_refused(functions, error):
    with pytest.raises(error, match="harmless_functions"):
        StatementRules(functions)


@pytest.mark.parametrize("statement", [b"SELECT 1", None, 1, ["SELECT 1"]])
def test_what_is_no_text_is_refused_with_what_to_do(statement):
    with pytest.raises(TypeError, match=r"got \w+ .*as_string"):
        residue(statement)


@settings(max_examples=400, deadline=None)
@given(st.text() | st.lists(st.sampled_from(PIECES)).map("".join))
def test_every_text_has_a_verdict(text):
    assert residue(text) in {None, *session_state.Residue}


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(["'", '"', "$$", "/*", "E'"]), st.text(max_size=20))
def test_a_text_that_ends_inside_quotes_is_not_trusted(opening, inside):
    for end in ("'", '"', "$$", "*/", "\\"):
        inside = inside.replace(end, "")
    assert residue(f"SELECT a, {opening}{inside}") == "unparsed"


@settings(max_examples=400, deadline=None)
@given(st.text(), st.sampled_from(["'{}'", "$q${}$q$", "/*{}*/1", "E'{}'"]))
def test_no_literal_hides_what_follows_it(inside, quotes):
    inside = inside.replace("\0", "").replace("'", "''").replace("\\", "\\\\")
    for sign in ("$", "/", "*"):
        inside = inside.replace(sign, "")
    literal = quotes.format(inside)
    assert residue(f"SELECT {literal}, a") is None
    assert residue(f"SELECT {literal}, my_function(1)") == "function"
    assert residue(f"SELECT {literal}; SET x.y = 1") == "set"


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 1000, 1024, 4097])
def test_a_bulk_statement_is_judged_as_a_whole(rows):
    values = ", ".join(["(%s, %s)"] * rows)
    insert = f'INSERT INTO "t" ("a", "b") VALUES {values}'
    many = f"SELECT a FROM t WHERE a IN ({', '.join(['%s'] * rows)})"
    for text in (insert, many, f"{insert} RETURNING lower(a)"):
        assert residue(text) is None
        assert residue(f"{text}; SET x.y = 1") == "set"
        assert residue(f"{text} AND my_function({many})") == "function"
    assert residue(f"{insert}, (my_function(%s), %s), {values}") == "function"


def test_a_bulk_statement_is_shortened_to_a_few_rows():
    values = ", ".join(["(%s, %s)"] * 10_000)
    text = f'INSERT INTO "t" ("a", "b") VALUES {values} RETURNING "id"'
    short = sql_text.shortened(text)
    assert len(short) < 500
    assert short.startswith('INSERT INTO "t" ("a", "b") VALUES (%s, %s)')
    assert short.endswith('(%s, %s) RETURNING "id"')


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([*PIECES, "%s, ", "), (%s"]), st.integers(0, 300))))
def test_shortening_takes_out_whole_pieces_of_a_run(pieces):
    text = "".join(piece * times for piece, times in pieces)
    short = sql_text.shortened(text)
    if short == text:
        return
    assert short[:1] == text[:1]
    assert set(short) == set(text)
    assert not text.replace(short, "").strip("%s, ()") or len(short) < len(text)


NESTED = {
    "an open string": "SELECT '" + "a'' " * 1000,
    "rows of strings": "INSERT INTO t VALUES ('a')" + ", ('it''s', 1)" * 1000,
    "signs": "SELECT " + "- / * $ " * 1000,
    "comments": "SELECT 1" + " /* a */ -- b\n" * 1000,
    "comments in comments": "SELECT 1 " + "/* " * 1000 + "*/ " * 1000,
    "calls": "SELECT " + "lower(" * 1000,
    "local settings": "SELECT " + "set_config('a', " * 1000,
    "statements": "SELECT 1;" * 1000,
    "words": "SELECT " + "a b c " * 1000,
    "one word": "SELECT " + "a" * 10_000,
    "blanks": "SELECT a" + " " * 10_000 + "(",
    "column lists": "WITH a AS (SELECT 1) SELECT f, " + "a(b, c), " * 1000,
    "aliases": "SELECT * FROM (x)" + ", (VALUES (1)) t(a, b)" * 1000,
    "chains": "COMMIT " + "and " * 3000,
    "EXPLAIN": "EXPLAIN " * 1000,
    "dollars": "SELECT " + "$a" * 3000,
    "quoted names": "SELECT " + '"a""b" , ' * 1000,
}


class _Counting:
    """Stands in for a scanner, and counts the characters that it is asked to pass."""

    def __init__(self, pattern, counted):
        self._pattern = pattern
        self._counted = counted

    def match(self, text, start):
        found = self._pattern.match(text, start)
        self._counted[0] += found.end() - start
        return found

    def finditer(self, text, start):
        for found in self._pattern.finditer(text, start):
            self._counted[0] += found.end() - found.start()
            yield found


@pytest.mark.parametrize("kind", NESTED)
def test_no_character_is_passed_more_than_a_few_times(kind, monkeypatch):
    counted = [0]
    for name in ("_STOPS", "_UP_TO_SEMICOLON", "_UP_TO_HIDDEN"):
        scanners = getattr(sql_text, name)
        monkeypatch.setattr(sql_text, name, tuple(_Counting(s, counted) for s in scanners))
    text = NESTED[kind] * 3
    StatementRules().residue(text)
    assert counted[0] <= 4 * len(text)


@pytest.fixture
def judged(monkeypatch):
    """The texts that were judged, not looked up."""
    texts: list[str] = []

    def statements(text):
        texts.append(text)
        yield text

    monkeypatch.setattr(sql_text, "statements", statements)
    return texts


def test_a_verdict_is_remembered_by_text(judged):
    rules = StatementRules()
    for _ in range(3):
        assert rules.residue("SET x.y = 1") == "set"
    assert judged == ["SET x.y = 1"]


def test_a_text_in_use_stays_remembered_while_others_pass(judged):
    rules = StatementRules()
    for number in range(CACHE_SIZE * 3):
        rules.residue("SELECT 1")
        rules.residue(f"SELECT a{number}")
    assert judged.count("SELECT 1") == 1
    assert rules.remembered <= CACHE_SIZE


def test_long_texts_are_not_remembered():
    rules = StatementRules()
    rules.residue("SELECT " + "a" * CACHED_LENGTH)
    assert rules.remembered == 0
    rules.residue("SELECT " + "a" * (CACHED_LENGTH - len("SELECT ")))
    assert rules.remembered == 1


def test_threads_share_the_rules():
    rules = StatementRules()
    wrong = []

    def work(thread):
        for number in range(3000):
            if rules.residue(f"SELECT a{number % 2500}") is not None:
                wrong.append(number)
            if rules.residue(f"SET a{thread}.b = {number}") != "set":
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert rules.remembered <= CACHE_SIZE + len(threads)


def test_a_row_is_merged_into_a_table_that_is_there():
    source = "USING s ON t.id = s.id WHEN MATCHED THEN DO NOTHING"
    assert StatementRules().residue(f"WITH s AS (SELECT 1 AS id) MERGE INTO t {source}") is None


def test_a_name_with_a_quote_in_it_may_be_listed_as_harmless():
    text = 'SELECT "odd""name"()'
    assert StatementRules().residue(text) is not None
    assert StatementRules(frozenset({'odd"name'})).residue(text) is None
