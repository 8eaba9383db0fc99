"""What `pooladvise` shows, as tables: each with a chart, and sentences below."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from django_poolkit.control.advice import FINE, LARGEST, WORDS, Advice, PoolAdvice
from django_poolkit.control.advising_servers import server_table
from django_poolkit.control.measured import GIVEN, SINCE_START
from django_poolkit.control.supposed import Question
from django_poolkit.control.tables import Cell, Table, duration, printable
from django_poolkit.control.wording import counted, percent, seconds, toned
from django_poolkit.pools.queueing import Prediction
from django_poolkit.pools.sizing import Rule
from django_poolkit.pools.stats import BUCKETS

# As `tables.Table` has them: those on the right begin with `>`, those that may fold with `~`.
_SIZES: Final = (
    ">MAX_SIZE", ">UTIL", ">QUEUED", ">WAIT P50", ">P95", ">P99", ">IN VAIN", "",
    "P99, EACH # TWICE AS LONG (|: THE TARGET)",
)  # fmt: skip
_RULES: Final = ("RULE", ">CONNECTIONS", "OF", "~FROM")
_FLOOR: Final = 0.0001  # seconds at which the chart begins: nobody feels less
_LESS: Final = BUCKETS[0]
"""Waits up to this are one bucket with none at all."""

_UNEXPLAINED: Final = (
    "That is more than the model explains: bursts within seconds, connects, a pause, a share",
    "of the pool, or a machine that has no time. No size mends that part of it.",
)
_CAREFUL: Final = (
    "That is far less than the model expects of callers who come whether others wait or not. Where",
    "each comes back only after its answer, say how many one process has: --threads NUMBER.",
)
_ENDLESS: Final = (
    f"Not even {LARGEST} connections keep the target: leases last too long, or are too many.",
    "See what holds them: poolstatus --leases.",
)
_PEAKS: Final = (
    "Peaks are higher than most minutes: look again with --load 2 before you take less.",
)


def tables(advice: Advice, rules: Sequence[Rule] = ()) -> list[Table]:
    """Return the pools, the servers, the rules where they are asked for, and the conclusion."""
    found = [_pool(pool, advice.question) for pool in advice.pools if pool.load]
    found += [server_table(server, advice.question.hosts) for server in advice.servers]
    if rules:
        found.append(_rules(rules))
    return [*found, _conclusion(advice)]


# -- pools


def _pool(pool: PoolAdvice, question: Question) -> Table:
    kind = pool.kind
    whose = f" of {kind.command}" if kind.command else ""
    title = f"Pool {kind.pool}{whose}, {kind.mode} mode, in "
    title += counted(pool.processes, "process", "processes")
    lines = [*_measured(pool, question), *_advised(pool, question)]
    return Table(
        title=Cell(printable(title), "head"),
        columns=_SIZES,
        rows=[_row(each, pool, question.target) for each in pool.predictions],
        notes=[Cell(printable(text), tone) for text, tone in lines],
    )


def _row(found: Prediction, pool: PoolAdvice, target: float) -> list[Cell]:
    marks = []
    if found.size == pool.kind.max_size:
        marks.append("now")
    if found.size == pool.advised:
        marks.append("advised")
    tone = "good" if found.p99 <= target else "bad"
    return [
        Cell(str(found.size)),
        Cell(percent(found.utilization)),
        Cell(percent(found.queued)),
        *(Cell(seconds(value)) for value in (found.p50, found.p95)),
        Cell(seconds(found.p99), tone),
        Cell(percent(found.timeouts), "bad" if found.timeouts else ""),
        Cell(", ".join(marks)),
        Cell(_bar(found.p99, target, max(pool.timeout, target)), tone),
    ]


def _bar(value: float, target: float, most: float) -> str:
    """Return a bar on a scale that is logarithmic, with a mark at the target."""

    def place(seconds: float) -> int:
        return max(0, round(math.log2(max(seconds, _FLOOR) / _FLOOR)))

    width = max(place(most), place(target) + 1)
    drawn = ("#" * place(value)).ljust(width)
    mark = place(target)
    return f"{drawn[:mark]}|{drawn[mark:]}".rstrip()


def _measured(pool: PoolAdvice, question: Question) -> Iterator[tuple[str, str]]:
    kind, load = pool.kind, pool.load
    assert load is not None
    whose = "the busiest process" if len(kind.pids) > 1 else "one process"
    whose = "each process" if kind.spread_over or kind.source == GIVEN else whose
    yield f"{_origin(pool, question)}, by {whose}:", ""
    text = f"{_rate(load.rate)} acquires/s, each for {duration(load.use.mean)} on average"
    if kind.use_p99 is not None:
        text += f" (p99 up to {duration(kind.use_p99)})"
    text += f"; {_rate(load.offered)} connections leased on average"
    if load.busiest > 1.1 * load.rate:
        text += f", {_rate(load.busiest * load.use.mean)} in the busiest seconds"
    yield f"  {text}.", ""
    if load.held:
        held = counted(load.held, "connection is", "connections are")
        yield f"{held} held all the time beside that: poolstatus --leases shows by whom.", "warn"
    if pool.comparable:
        yield from _held_against(pool, question)


def _origin(pool: PoolAdvice, question: Question) -> str:
    kind, load = pool.kind, pool.load
    assert load is not None
    if kind.source == GIVEN:
        text = "Supposed"
    elif kind.source == SINCE_START:
        text = "Measured since the start"
    else:
        text = f"Measured in the last {load.seconds:.0f} s"
    if question.use is not None and kind.source != GIVEN:
        text += ", with times that are supposed"
    if kind.spread_over:
        text += f", spread over {kind.spread_over}"
    if question.times != 1.0:
        text += f", {question.times:g} times of it"
    return text


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _held_against(pool: PoolAdvice, question: Question) -> Iterator[tuple[str, str]]:
    """Yield what was really waited, and whether the model knows it."""
    waits, now = pool.kind.waits, pool.now
    assert waits is not None
    assert now is not None
    p50, p99 = (
        f"over {BUCKETS[-1]:g} s" if value is None else f"up to {duration(value)}"
        for value in (waits.p50, waits.p99)
    )
    queued = f"{percent(waits.queued)} for longer than {duration(_LESS)}"
    yield f"Really waited there: p50 {p50}, p99 {p99}, and {queued}.", ""
    below = BUCKETS if waits.p99 is None else [b for b in BUCKETS if b < waits.p99]
    if max(below, default=0.0) > 2 * max(now.p99, 0.005):
        yield from toned(_UNEXPLAINED, "warn")
    elif (
        pool.word == "small"
        and question.threads is None
        and waits.p99 is not None
        and waits.p99 < now.p99 / 4
    ):
        yield from toned(_CAREFUL, "warn")


def _advised(pool: PoolAdvice, question: Question) -> Iterator[tuple[str, str]]:
    size, advised, target = pool.kind.max_size, pool.advised, duration(question.target)
    if advised is None:
        yield from toned(_ENDLESS, "bad")
        return
    bears = f"a p99 of {target} holds up to {_times(pool.bears_then)} this load"
    now = _times(pool.bears_now)
    if pool.word == "small":
        yield f"max_size {size} is too small: write {advised}, with which {bears}.", "bad"
    elif pool.word == "large":
        yield f"max_size {size} bears {now} this load.", "good"
        yield f"{advised} would do, with which {bears}.", "warn"
    else:
        yield f"max_size {size} fits: it bears {now} this load.", "good"
    if pool.comparable and pool.word != "small":
        yield from toned(_PEAKS, "")


def _times(factor: float) -> str:
    return "10 times and more of" if factor >= 10 else f"{factor:.1f} times"


# -- what else there is to say


def _rules(rules: Sequence[Rule]) -> Table:
    return Table(
        title=Cell("Published rules, for comparison: they know nothing of your load", "head"),
        columns=_RULES,
        rows=[
            [Cell(rule.formula), Cell(str(rule.connections)), Cell(rule.whose), Cell(rule.source)]
            for rule in rules
        ],
    )


def _conclusion(advice: Advice) -> Table:
    when = datetime.fromtimestamp(advice.time).astimezone().strftime("%H:%M:%S %Z")
    code = advice.exit_code
    text = {FINE: "fine: nothing has to change", 1: "a change is advised"}.get(code, WORDS[code])
    if advice.changed:
        text += f": {', '.join(advice.changed)}"
    unknown = [pool for pool in advice.pools if pool.word == "unmeasured"]
    notes = [
        Cell(
            printable(
                f"Pool {pool.kind.pool} of {pool.kind.command}: too few leases to tell anything."
            ),
            "warn",
        )
        for pool in unknown
    ]
    notes += [Cell(printable(text), "warn") for text in advice.problems]
    return Table(title=Cell(f"{when} {text}", "good" if code == FINE else "bad"), notes=notes)
