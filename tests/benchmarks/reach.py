"""What was to be reached, and what one run says of it: a row for each promise.

All are ratios, counts or seconds of the same run. Nothing here fails anything: a promise that was
not measured, or not reached, is said so, and the page has the reasons.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.benchmarks.figures import Figure, Table, number

HELD: Final = "CONN_MAX_AGE=None"
CEILINGS: Final = {
    HELD, "held", "held connection", "psycopg, held", "psycopg, no ORM", "asyncpg's pool, no ORM",
}  # fmt: skip
"""Who has no pool to pay for, or no ORM: nobody's peers."""
LEVEL: Final = 0.05
"""Less of a difference is none, between two figures of one short run."""
CHECKED: Final = "Django's pool, health checks"
LOOP: Final = "ours, on the loop"
BOTH: Final = ("ours, session", "ours, transaction")

YES, NO, UNKNOWN = "yes", "no", "not measured"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A promise, and what came of it."""

    promise: str
    measured: str
    reached: str
    """`yes`, `no`, or `not measured`."""


@dataclass(frozen=True, kw_only=True)
class Promise:
    """One of them: a bound for figures of ours, or for their ratios to somebody's."""

    text: str
    part: str
    table: str
    ours: str
    measures: tuple[str, ...] = ("",)
    """What those that count begin with."""
    to: str = ""
    """Whose figures ours are divided by; nobody's where it is empty."""
    least: float | None = None
    most: float | None = None

    def judged(self, tables: Mapping[tuple[str, str], Table]) -> Verdict:
        """Return what a run says of it."""
        table = tables.get((self.part, self.table))
        found = list(self._found(table)) if table else []
        if not found:
            return Verdict(self.text, "", UNKNOWN)
        kept = all(value is not None and self._keeps(value) for _, value in found)
        said = "; ".join(f"{measure}: {number(value)}" for measure, value in found)
        return Verdict(self.text, said, YES if kept else NO)

    def _found(self, table: Table) -> Iterator[tuple[str, float | None]]:
        for measure in table.measures:
            by = {figure.contestant: figure.value for figure in table.of(measure)}
            if self.ours not in by or not measure.startswith(self.measures):
                continue
            value, base = by[self.ours], by.get(self.to)
            if self.to:
                if base is None:
                    continue
                value = None if value is None else value / base
            yield measure, value

    def _keeps(self, value: float) -> bool:
        least, most = self.least, self.most
        return (least is None or value >= least) and (most is None or value <= most)


def _for_each(ours: Sequence[str], **values: Any) -> Iterator[Promise]:
    for name in ours:
        text = f"{values['text']} ({name.removeprefix('ours, ')})"
        yield Promise(**{**values, "ours": name, "text": text})


_SYNC, _ASYNC = "under gunicorn: answered", "under uvicorn: answered"
PROMISES: Final = (
    Promise(text="acquire and release: at most 1.0 of psycopg_pool's time", part="micro",
            table="alone", measures=("acquire, release",), ours="ours", to="psycopg_pool",
            most=1.0),
    *_for_each(BOTH, text="db and queries: at least 0.95 of `CONN_MAX_AGE=None`", part="web",
               table=_SYNC, measures=("db", "queries"), to=HELD, least=0.95),
    Promise(text="the same with `prepare`: at least 1.0", part="web", table=_SYNC,
            measures=("db", "queries"), ours="ours, transaction, prepare", to=HELD, least=1.0),
    *_for_each(BOTH, text="db and queries: at least 1.3 of Django's pool with health checks",
               part="web", table=_SYNC, measures=("db", "queries"), to=CHECKED, least=1.3),
    Promise(text="db in async views: at least 1.5 of Django's pool", part="web", table=_ASYNC,
            measures=("db",), ours=LOOP, to="Django's pool", least=1.5),
    Promise(text="held too long: at least 5 times Django's pool at 1,000", part="held",
            table="finished", measures=("clients 1,000",), ours=LOOP, to="Django's pool",
            least=5.0),
    Promise(text="held too long: no error at 10,000", part="held", table="failed",
            measures=("clients 10,000",), ours=LOOP, most=0.0),
    *_for_each(BOTH, text="first success after a restart: at most 1 s after the server's return",
               part="failure", table="until the first success", measures=("server away",),
               most=1.0),
    Promise(text="Jain's index, threads: at least 0.99", part="micro", table="fairness",
            ours="ours", least=0.99),
    Promise(text="Jain's index, tasks: at least 0.99", part="alease",
            table="Jain's index of fairness", ours="ours", least=0.99),
    Promise(text="Jain's index, tasks on asyncpg: at least 0.99", part="asyncpg",
            table="Jain's index of fairness", ours="ours", least=0.99),
)  # fmt: skip

CONTESTS: Final = {
    "micro": "a lease by itself", "alease": "a lease in a task", "asyncpg": "a lease of asyncpg's",
    "peers": "a request, by all pools", "web": "web", "held": "held too long", "failure": "failure",
}  # fmt: skip
"""Where ours are to be ahead of every peer, in every row."""


def verdicts(run: Mapping[str, Any]) -> list[Verdict]:
    """Return what a run says of each promise."""
    tables = {
        (part["name"], values["title"]): Table.from_json(values)
        for part in run["parts"]
        for values in part["tables"]
    }
    ahead = [_ahead(part, title, tables) for part, title in CONTESTS.items()]
    return [*(promise.judged(tables) for promise in PROMISES), *ahead]


def _ahead(part: str, title: str, tables: Mapping[tuple[str, str], Table]) -> Verdict:
    rows = level = 0
    behind = []
    for (name, _), table in tables.items():
        for measure in table.measures if name == part and table.better else ():
            times = _to_the_best(table, measure)
            if times is None:
                continue
            rows += 1
            level += abs(times[0] - 1) <= LEVEL
            if times[0] < 1 - LEVEL:
                behind.append(f"{table.title}, {measure}: {number(times[0])} of {times[1]}")
    text = f"ahead of every peer: {title}"
    if not rows:
        return Verdict(text, "", UNKNOWN)
    said = f"ahead in {rows - level - len(behind)} rows of {rows}, level in {level}"
    said += f"; behind in {len(behind)}: " + "; ".join(behind) if behind else ""
    return Verdict(text, said, NO if behind else YES)


def _to_the_best(table: Table, measure: str) -> tuple[float, str] | None:
    """Return how the best of ours stands to the best of the peers, above 1 if it is ahead."""
    less = table.better == "less"

    def best(figures: Sequence[Figure]) -> Figure | None:
        known = [figure for figure in figures if figure.value is not None]
        chosen = min if less else max
        return chosen(known, key=lambda figure: figure.value or 0.0) if known else None

    all_of_it = [each for each in table.of(measure) if each.contestant not in CEILINGS]
    mine = best([each for each in all_of_it if each.contestant.startswith("ours")])
    other = best([each for each in all_of_it if not each.contestant.startswith("ours")])
    if not any(each.contestant.startswith("ours") for each in all_of_it) or other is None:
        return None
    if mine is None or mine.value is None or other.value is None:
        return 0.0, other.contestant
    if mine.value == other.value:  # none of both failed, say
        return 1.0, other.contestant
    better, worse = (other.value, mine.value) if less else (mine.value, other.value)
    return (better / worse if worse else 2.0), other.contestant


def shown(found: Sequence[Verdict]) -> str:
    """Return them for people."""
    lines = [f"  {each.reached:12} {each.promise}\n{'':15}{each.measured}" for each in found]
    return "\n".join(["what was to be reached:", *(line.rstrip() for line in lines)])
