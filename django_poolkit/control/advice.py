"""What size the pools of the running processes should have: measured, predicted, and budgeted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal

from django_poolkit.control.collect import NO_PROCESS, Report
from django_poolkit.control.measured import GIVEN, Kind, measure
from django_poolkit.control.servers import Server
from django_poolkit.control.supposed import Question, patience_of, processes_of, select
from django_poolkit.pools import budget as budgets
from django_poolkit.pools.budget import Budget, Plan
from django_poolkit.pools.fleet import Part
from django_poolkit.pools.queueing import Load, Prediction, Queue

FINE, CHANGE, _MISUSED, NOTHING = range(4)
WORDS: Final = ("fine", "change", "misused", "nothing measured")
"""What the exit codes of `pooladvise` stand for."""

LARGEST: Final = 1000
"""Connections that are advised for one process, at most."""
_MOST_ROWS: Final = 9

Word = Literal["fits", "small", "large", "too_much", "unmeasured"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolAdvice:
    """What is advised for the pools of one kind of processes."""

    kind: Kind
    word: Word
    processes: int
    """On all hosts."""
    timeout: float
    load: Load | None = None
    """What it is advised for: one process, the busiest."""
    now: Prediction | None = None
    """At `kind.max_size`."""
    advised: int | None = None
    """The smallest `max_size` that keeps the target."""
    predictions: tuple[Prediction, ...] = ()
    """Sizes around those two, ascending."""
    bears_now: float = 0.0
    """How many times this load the present size bears; 10.0 for more than that."""
    bears_then: float = 0.0

    comparable: bool = False
    """Whether the present size was predicted for what was measured, and nothing is supposed."""

    @property
    def part(self) -> Part:
        """These processes with the advised size, where there is one, for the budget."""
        load = self.load
        if load is not None and self.kind.load is not None and self.kind.load.rate:
            load = load.times(self.kind.average / self.kind.load.rate)
        most = LARGEST if self.word == "too_much" else self.kind.max_size
        return Part(processes=self.processes, size=self.advised or most, load=load)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAdvice:
    """What one server can give, and how the pools get along with it."""

    aliases: tuple[str, ...]
    errors: Mapping[str, str] = field(default_factory=dict)
    budget: Budget | None = None
    """None where it was not reached, and nobody said what it has."""
    now: int = 0
    """Connections that the pools may open as they are."""
    plan: Plan | None = None

    @property
    def over(self) -> bool:
        """Whether the pools as they are may open more than the server has for them."""
        return self.budget is not None and self.now > self.budget.room


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Everything that `pooladvise` shows."""

    time: float
    question: Question
    pools: tuple[PoolAdvice, ...]
    servers: tuple[ServerAdvice, ...]
    problems: tuple[str, ...]
    """Why there is less here than there might be, or what else is wrong."""

    @property
    def exit_code(self) -> int:
        """3 nothing measured, 1 a change is advised, 0 all fits."""
        if not any(pool.load for pool in self.pools):
            return NOTHING
        wrong = any(pool.word in ("small", "too_much") for pool in self.pools)
        short = any(server.plan and server.plan.word != "fits" for server in self.servers)
        return CHANGE if wrong or short or any(server.over for server in self.servers) else FINE

    @property
    def changed(self) -> list[str]:
        """The names of the pools that are to have another size."""
        over = {alias for server in self.servers if server.over for alias in server.aliases}
        return sorted({pool.kind.pool for pool in self.pools if _is_wrong(pool, over)})

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON."""
        plain = asdict(self)
        for shown, server in zip(plain["servers"], self.servers, strict=True):
            if server.budget:
                shown["budget"] |= {"usable": server.budget.usable, "room": server.budget.room}
            for key in ("pooler", "beyond") if server.plan else ():
                if pooler := getattr(server.plan, key):
                    shown["plan"][key]["settings"] = dict(pooler.settings)
        for shown, pool in zip(plain["pools"], self.pools, strict=True):
            if pool.load:
                shown["load"] |= {
                    "rate": pool.load.rate,
                    "busiest": pool.load.busiest,
                    "use_mean": pool.load.use.mean,
                    "offered": pool.load.offered,
                }
        return {"version": 1, "status": WORDS[self.exit_code], "exit_code": self.exit_code} | plain


def advise(report: Report, question: Question, aliases: Sequence[str] = ()) -> Advice:
    """Answer a question about the pools in a report, which has all of them, and their leases.

    With `aliases` only about pools and servers of those. Takes about a second for each kind of
    processes. Raises AdviceError.
    """
    everything = measure(report.processes, since_start=question.since_start)
    chosen, rest = select(everything, question, aliases)
    pools = [_of_pool(kind, question) for kind in chosen]
    others = [_unasked(kind, question) for kind in rest]
    servers = [
        _of_server(server, pools, others, question, report.processes)
        for server in report.servers
        if not aliases or set(server.aliases) & set(aliases)
    ]
    return Advice(
        time=report.time,
        question=question,
        pools=tuple(pools),
        servers=tuple(servers),
        problems=tuple(_problems(report, pools)),
    )


# -- pools


def _is_wrong(pool: PoolAdvice, over: Set[str]) -> bool:
    """Tell whether a pool is too small, or larger than need be where its server has too little."""
    if pool.word in ("small", "too_much"):
        return True
    spared = pool.advised is not None and pool.advised < pool.kind.max_size
    return spared and not over.isdisjoint(pool.kind.aliases)


def _of_pool(kind: Kind, question: Question) -> PoolAdvice:
    timeout, processes = patience_of(kind.aliases[0]), processes_of(kind, question)
    if kind.load is None or not kind.load.rate:
        return PoolAdvice(kind=kind, word="unmeasured", processes=processes, timeout=timeout)
    load = kind.load.times(question.times)
    target, size = question.target, kind.max_size
    queue = Queue([load], timeout=timeout, threads=question.threads)
    advised = queue.smallest(target, most=LARGEST)
    return PoolAdvice(
        kind=kind,
        word=_word(size, advised, queue.at(size), target),
        processes=processes,
        timeout=timeout,
        load=load,
        now=queue.at(size),
        advised=advised,
        predictions=tuple(queue.at(each) for each in _sizes(size, advised, load)),
        bears_now=queue.bears(size, target),
        bears_then=queue.bears(advised, target) if advised else 0.0,
        comparable=kind.waits is not None and _as_it_was(kind, question),
    )


def _as_it_was(kind: Kind, question: Question) -> bool:
    supposed = kind.source == GIVEN or kind.spread_over or question.times != 1.0
    return not supposed and question.use is None


def _word(size: int, advised: int | None, now: Prediction, target: float) -> Word:
    if advised is None:
        return "too_much"
    if now.p99 > target:
        return "small"
    return "large" if size > max(2 * advised, advised + 2) else "fits"


def _sizes(now: int, advised: int | None, load: Load) -> list[int]:
    """Return sizes worth to be shown: those two, some around the advised, and the average."""
    if advised is None:
        return sorted({now, LARGEST})
    around = {advised + step for step in (-2, -1, 1, 2)} | {2 * advised}
    least = max(1, load.held + math.ceil(load.offered))
    wanted = [now, advised, *sorted(around, key=lambda size: abs(size - advised)), least]
    sizes = list(dict.fromkeys(size for size in wanted if size >= 1))
    return sorted(sizes[:_MOST_ROWS])


def _unasked(kind: Kind, question: Question) -> PoolAdvice:
    """Return pools that nothing is advised on, and that may open their connections all the same."""
    processes = max(1, len(kind.pids)) * question.hosts
    timeout = patience_of(kind.aliases[0])
    return PoolAdvice(kind=kind, word="unmeasured", processes=processes, timeout=timeout,
                      load=kind.load)  # fmt: skip


# -- servers


def _of_server(
    server: Server,
    pools: Sequence[PoolAdvice],
    rest: Sequence[PoolAdvice],
    question: Question,
    processes: Sequence[Mapping[str, Any]],
) -> ServerAdvice:
    here = [pool for pool in pools if set(pool.kind.aliases) & set(server.aliases)]
    both = [*here, *(pool for pool in rest if set(pool.kind.aliases) & set(server.aliases))]
    found = ServerAdvice(
        aliases=server.aliases,
        errors=server.errors,
        budget=_budget(server, question, processes),
        now=sum(pool.processes * pool.kind.max_size for pool in both),
    )
    if found.budget is None or not any(pool.load for pool in here):
        return found
    timeout = max(pool.timeout for pool in here)
    parts = [pool.part for pool in both]
    plan = budgets.plan(parts, found.budget, question.target, timeout=timeout, hosts=question.hosts)
    return replace(found, plan=plan)


def _budget(
    server: Server, question: Question, processes: Sequence[Mapping[str, Any]]
) -> Budget | None:
    most = question.max_connections or server.max_connections
    if most is None:
        return None
    counted = ("process",) if question.hosts == 1 else ("process", "elsewhere")
    others = sum(each.connections or 0 for each in server.shares if each.whose not in counted)
    beside = sum(
        pool["max_size"]
        for process in processes
        for pool in process["pools"]
        if pool["kind"] == "asyncpg" and set(pool["aliases"]) & set(server.aliases)
    )
    reserved = 3 if server.reserved is None else server.reserved  # PostgreSQL's default
    return Budget(
        max_connections=most, reserved=reserved, others=others + question.hosts * beside,
        beside=beside, spare=question.spare,
    )  # fmt: skip


# -- what else there is to say


def _problems(report: Report, pools: Sequence[PoolAdvice]) -> list[str]:
    supposed = any(pool.load for pool in pools)
    found = []
    for problem in report.problems:
        if problem.code != NO_PROCESS or not supposed:
            found += problem.lines()
    if report.processes and not supposed:
        found.append(
            "Nothing is measured yet: no kind of processes has had 100 leases. Look again while "
            "the site is used, or suppose a load: --requests-per-second and --use-seconds."
        )
    if not report.processes and not supposed:
        found.append(
            "To plan before anything runs, suppose a load: --requests-per-second and --use-seconds."
        )
    return found
