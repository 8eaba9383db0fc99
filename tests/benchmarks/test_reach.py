"""What a run says of what was to be reached: counted from its figures, and never more than that."""

from __future__ import annotations

from typing import Any

from tests.benchmarks import reach
from tests.benchmarks.figures import Figure, Reading, Table
from tests.benchmarks.parts import BY_NAME
from tests.benchmarks.reach import NO, PROMISES, UNKNOWN, YES, Promise, Verdict

RESTART = Promise(
    text="soon", part="failure", table="first", ours="ours", measures=("away",), most=1.0
)
AT_LEAST = Promise(text="quick", part="web", table="rate", ours="ours", to="theirs", least=0.95)


def table(title: str, *figures: Figure, better: str = "") -> Table:
    return Table(title, "s", "", list(figures), better)


def run_of(**tables: list[Table]) -> dict[str, Any]:
    parts = [
        {"name": name, "tables": [each.as_json() for each in several]}
        for name, several in tables.items()
    ]
    return {"parts": parts}


def judged(promise: Promise, found: Table) -> Verdict:
    return promise.judged({(promise.part, promise.table): found})


def test_a_promise_is_kept_only_where_each_figure_keeps_it() -> None:
    well = [Figure("away for 1 s", "ours", 0.2), Figure("away for 5 s", "ours", 1.0)]
    other = Figure("killed", "ours", 9.0)  # of something else
    assert judged(RESTART, table("first", *well, other)).reached == YES
    late = judged(RESTART, table("first", *well, Figure("away for 20 s", "ours", 1.1)))
    assert (late.reached, late.measured.count("away")) == (NO, 3)
    gave_up = judged(RESTART, table("first", *well, Figure("away for 20 s", "ours", None)))
    assert gave_up.reached == NO
    assert "none" in gave_up.measured


def test_a_ratio_is_of_ours_to_the_named_one() -> None:
    theirs = Figure("db", "theirs", 100.0)
    level = judged(AT_LEAST, table("rate", theirs, Figure("db", "ours", 95.0)))
    assert (level.reached, level.measured) == (YES, "db: 0.950")
    assert judged(AT_LEAST, table("rate", theirs, Figure("db", "ours", 94.0))).reached == NO
    # Who is not there proves nothing.
    assert judged(AT_LEAST, table("rate", Figure("db", "ours", 95.0))).reached == UNKNOWN
    assert judged(AT_LEAST, table("rate", theirs)).reached == UNKNOWN
    assert AT_LEAST.judged({}).reached == UNKNOWN


def test_who_is_ahead_of_every_peer_is_counted_row_by_row() -> None:
    less = table(
        "time",
        Figure("quick", "ours", 1.0), Figure("quick", "theirs", 2.0),
        Figure("alike", "ours", 1.02), Figure("alike", "theirs", 1.0),
        Figure("slow", "ours", 3.0), Figure("slow", "ours, too", 2.0),
        Figure("slow", "theirs", 1.0), Figure("slow", "others", 1.5),
        Figure("a ceiling", "ours", 3.0), Figure("a ceiling", "CONN_MAX_AGE=None", 1.0),
        better="less",
    )  # fmt: skip
    more = table("rate", Figure("all", "ours", 5.0), Figure("all", "theirs", 4.0), better="more")
    plain = table("memory", Figure("all", "ours", 5.0), Figure("all", "theirs", 4.0))
    found = {each.promise: each for each in reach.verdicts(run_of(web=[less, more, plain]))}
    web = found["ahead of every peer: web"]
    assert web.reached == NO
    assert web.measured.startswith("ahead in 2 rows of 4, level in 1; behind in 1: ")
    assert "time, slow: 0.500 of theirs" in web.measured
    assert found["ahead of every peer: failure"].reached == UNKNOWN
    nobody_failed = table("failed", Figure("a", "ours", 0), Figure("a", "theirs", 0), better="less")
    [said] = [each for each in reach.verdicts(run_of(failure=[nobody_failed, more]))
              if each.promise == "ahead of every peer: failure"]  # fmt: skip
    assert (said.reached, said.measured) == (YES, "ahead in 1 rows of 2, level in 1")


def test_who_gave_up_is_behind() -> None:
    gone = table("first", Figure("a", "ours", None), Figure("a", "theirs", 9.0), better="less")
    [said] = [each for each in reach.verdicts(run_of(failure=[gone]))
              if each.promise == "ahead of every peer: failure"]  # fmt: skip
    assert said.reached == NO


def test_each_promise_is_about_a_table_that_there_is() -> None:
    for promise in PROMISES:
        titles = {reading.title for reading in BY_NAME[promise.part].readings}
        assert promise.table in titles, promise.text
        assert (promise.least is None) != (promise.most is None)
    for name in reach.CONTESTS:
        contested: list[Reading] = [each for each in BY_NAME[name].readings if each.better]
        assert contested, f"{name} has no table in which anybody could be ahead"


def test_verdicts_are_shown_to_people() -> None:
    text = reach.shown([Verdict("so quick", "db: 1.00", YES), Verdict("so fair", "", UNKNOWN)])
    assert "yes          so quick" in text
    assert "db: 1.00" in text
    assert "not measured so fair" in text
