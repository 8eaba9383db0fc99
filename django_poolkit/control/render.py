"""What `poolstatus` shows of a report, as tables and as the line of one tick."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from django_poolkit.control import replicas, stacktext
from django_poolkit.control.collect import FINE, WORDS, Report
from django_poolkit.control.servers import Server, Share
from django_poolkit.control.tables import Cell, Table, duration, printable
from django_poolkit.control.verdicts import Verdict
from django_poolkit.pools.stats import BUCKETS

# As `tables.Table` has them: those on the right begin with `>`, those that may fold with `~`.
_NOW: Final = (
    "PID", "~COMMAND", "POOL", "~MODE", ">SIZE", ">USED", ">IDLE", ">CONN", ">WAIT", ">OLDEST",
    ">UTIL",
)  # fmt: skip
_LATELY: Final = (
    "PID", "POOL", ">ACQUIRES/S", ">WAIT P50", ">P95", ">P99", ">USE P50", ">P95", ">P99",
)  # fmt: skip
_SINCE: Final = (
    "PID", ">AGE", "POOL", ">ACQUIRED", ">QUEUED", ">TIMEOUTS", ">REFUSED", ">LEAKS", "~PINS",
    "~ERRORS", "~EVICTED", "~READ AGAIN",
)  # fmt: skip
_SERVER: Final = ("~CONNECTIONS OF", ">MAY OPEN", ">OPEN", ">SERVER", "IDLE IN TRANSACTION")
_LEASES: Final = (
    "LEASE", ">HELD", "STATUS", "STATEMENT", "~PINNED", "~THREAD", "~WHERE", ">BACKEND",
)  # fmt: skip
_FINDINGS: Final = ("~LINE", "REASON", ">COUNT", ">SECONDS")
# A screen of them; all are in the JSON.
_MOST_FINDINGS: Final = 20
_MOST_PIDS: Final = 3
_NONE: Final = Cell("-")
_TOTAL: Final = Cell("total", "head")


def tables(report: Report) -> list[Table]:
    """Return everything that was asked for, and at the end, where the eye is, how it stands."""
    found = [_now(report), _lately(report), _since(report)] if report.processes else []
    found += [_server(server) for server in report.servers]
    found += replicas.table(report.processes)
    if any("leases" in process for process in report.processes):
        found.append(_leases(report.processes))
    for verdict in report.verdicts:
        found += [_verdict(verdict), *_pinnings(verdict)]
    return [*found, _conclusion(report)]


def line(report: Report) -> str:
    """Return one line for a log: the exit code's word, and the sums of each pool."""
    when = datetime.fromtimestamp(report.time).astimezone().isoformat(timespec="seconds")
    parts = [when, f"status={WORDS[report.exit_code].replace(' ', '_')}"]
    parts.append(f"processes={len(report.processes)}")
    for total in report.totals:
        recent = total["recent"]
        parts.append(
            f"pool={total['name']} used={total['used']}/{total['max_size']} idle={total['idle']} "
            f"waiters={total['waiters']} oldest_waiter={total['oldest_waiter']:.3f} "
            f"acquires_per_second={recent['acquires_per_second']:.1f} timeouts={total['timeouts']}"
        )
    for server in report.servers:
        if server.connections is not None:
            parts.append(f"server={server.aliases[0]} used={server.connections}/{server.usable}")
    parts += replicas.words(report.processes)
    return printable(" ".join(parts))


# -- cells


def _text(value: object, tone: str = "") -> Cell:
    return Cell(printable(str(value)), tone) if value not in (None, "") else _NONE


def _count(value: int, tone: str = "") -> Cell:
    """Return a number, in a tone where it is not 0."""
    return Cell(str(value), tone if value else "")


def _quantiles(found: Mapping[str, Any]) -> list[Cell]:
    if not found["count"]:
        return [_NONE] * 3
    beyond = f">{BUCKETS[-1]:g} s"
    values = [found[name] for name in ("p50", "p95", "p99")]
    return [Cell(beyond if value is None else duration(value)) for value in values]


def _counts(found: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(found.items()))


# -- processes and pools


def _now(report: Report) -> Table:
    rows = []
    for process in report.processes:
        head = [_text(process["pid"]), _text(process["command"])]
        rows += [[*head, *_sizes(pool)] for pool in process["pools"]]
        if not process["pools"]:
            rows.append([*head, *[_NONE] * (len(_NOW) - len(head))])
    for total in report.totals:
        rows.append([_TOTAL, _text(f"of {total['processes']}"), *_sizes(total)])
    return Table(title=Cell("Now", "head"), columns=_NOW, rows=rows)


def _sizes(pool: Mapping[str, Any]) -> list[Cell]:
    usual = pool["state"] == "open"
    return [
        _text(pool["name"]),
        _text(
            pool["mode"] if usual else f"{pool['mode']}, {pool['state']}", "" if usual else "warn"
        ),
        Cell(f"{pool['size']}/{pool['max_size']}"),
        *(_count(pool[key]) for key in ("used", "idle", "connecting")),
        _count(pool["waiters"], "bad"),
        Cell(duration(pool["oldest_waiter"])) if pool["waiters"] else _NONE,
        Cell(f"{pool['utilization']:.0%}", "warn" if pool["utilization"] >= 1 else ""),
    ]


def _lately(report: Report) -> Table:
    rows = [[head, *_flow(pool)] for head, _, pool in _each(report)]
    return Table(title=Cell("In the last minute", "head"), columns=_LATELY, rows=rows)


def _flow(pool: Mapping[str, Any]) -> list[Cell]:
    recent = pool["recent"]
    return [
        _text(pool["name"]),
        Cell(f"{recent['acquires_per_second']:.1f}"),
        *_quantiles(recent["wait"]),
        *_quantiles(recent["use"]),
    ]


def _since(report: Report) -> Table:
    rows = [[head, age, *_history(pool)] for head, age, pool in _each(report)]
    return Table(title=Cell("Since each process began", "head"), columns=_SINCE, rows=rows)


def _history(pool: Mapping[str, Any]) -> list[Cell]:
    return [
        _text(pool["name"]),
        *(_count(pool[key]) for key in ("acquired", "waited")),
        *(_count(pool[key], "warn") for key in ("timeouts", "too_many_waiters", "leaks")),
        _text(_counts(pool["pins"])),
        *(_text(_counts(pool[key])) for key in ("errors", "evictions", "read_retries")),
    ]


def _each(report: Report) -> Iterator[tuple[Cell, Cell, Mapping[str, Any]]]:
    """Return each pool and each sum of pools behind whose it is, and the age of the process."""
    for process in report.processes:
        head = _text(process["pid"]), Cell(duration(process["age"]))
        yield from ((*head, pool) for pool in process["pools"])
    yield from ((_TOTAL, Cell(""), total) for total in report.totals)


# -- servers


def _server(server: Server) -> Table:
    title = f"Server of {', '.join(server.aliases)}"
    if server.connections is None:
        title += f": not reached; the pools may open {server.may_open}"
        return Table(title=Cell(printable(title), "bad"))
    title += (
        f": {server.connections} of {server.usable} connections "
        f"(max_connections {server.max_connections} less {server.reserved} reserved)"
    )
    rest = sum(share.connections or 0 for share in server.shares if share.whose != "process")
    budget = (
        f"Budget: {server.may_open} that these processes may open, and the {rest} of the others, "
        f"are {server.may_open + rest} of {server.usable}."
    )
    elsewhere = [share for share in server.shares if share.whose == "elsewhere"]
    if elsewhere:
        budget += " What other hosts may open cannot be asked from here."
    return Table(
        title=Cell(printable(title), "head"),
        columns=_SERVER if server.shares else (),
        rows=[_of_share(share) for share in server.shares],
        notes=[Cell(budget, "bad" if server.short else "")],
    )


def _of_share(share: Share) -> list[Cell]:
    whose = {
        "process": f"pid {share.pids[0]}" if share.pids else "",
        "here": f"{_processes(share, by_pid=True)} of this host, which did not answer",
        "elsewhere": f"{_processes(share)} on {_number(share.hosts, 'other host')}",
        "others": "others",
    }[share.whose]
    idle = share.idle_in_transaction
    held = f"{idle}, for {duration(share.longest)}" if idle else "not shown" if idle is None else ""
    return [
        Cell(whose),
        _text(share.may_open),
        _text(share.open),
        _text(share.connections),
        _text(held, "warn" if share.longest >= 1 else ""),
    ]


def _processes(share: Share, *, by_pid: bool = False) -> str:
    if by_pid and len(share.pids) <= _MOST_PIDS:
        return f"pid {', '.join(map(str, share.pids))}"
    return _number(len(share.pids), "process", "processes")


def _number(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or f'{one}s'}"


# -- leases, pins, and what is wrong


def _leases(processes: Iterable[Mapping[str, Any]]) -> Table:
    leases = [lease for process in processes for lease in process["leases"]]
    leases.sort(key=lambda lease: -lease["seconds"])
    stacks: dict[tuple[str, ...], list[str]] = {}
    for lease in leases:
        if lease["stack"]:
            stacks.setdefault(stacktext.telling(lease["stack"]), []).append(lease["id"])
    notes = []
    for stack, (oldest, *others) in stacks.items():
        more = f" and {_number(len(others), 'other')}" if others else ""
        notes.append(_text(f"{oldest}{more} acquired at"))
        notes += [Cell(f"    {printable(place)}") for place in stack]
    if any(stacktext.telling(lease["stack"]) != tuple(lease["stack"]) for lease in leases):
        notes.append(Cell("Frames of the application are shown: --format json has all."))
    return Table(
        title=Cell("Leases, the oldest first" if leases else "No lease", "head"),
        columns=_LEASES if leases else (),
        rows=[_of_lease(lease) for lease in leases],
        notes=notes,
    )


def _of_lease(lease: Mapping[str, Any]) -> list[Cell]:
    words = ("status", "statement", "pinned", "thread", "where")
    return [
        _text(lease["id"]),
        Cell(duration(lease["seconds"])),
        *(_text(lease[word]) for word in words),
        _text(lease["backend_pid"] or ""),
    ]


def _verdict(verdict: Verdict) -> Table:
    shown: Sequence[Any] = verdict.findings[:_MOST_FINDINGS]
    notes = [_text(f"Pinned leases by reason: {_counts(verdict.pins)}.")] if verdict.pins else []
    if left := len(verdict.findings) - len(shown):
        notes.append(_text(f"{_number(left, 'more line')}: --format json has all."))
    if verdict.held:
        notes.append(
            _text(
                "What no text shows is not seen: state that triggers or views set, and receivers "
                "of connection_created."
            )
        )
    tone = {"safe": "good", "mend": "bad", "pins": "good"}.get(verdict.word, "head")
    return Table(
        title=Cell(printable(f"Transaction mode for {verdict.pool}: {verdict.text}."), tone),
        columns=_FINDINGS if shown else (),
        rows=[
            [_text(f.site), _text(f.reason), Cell(str(f.count)), Cell(f"{f.seconds:.1f}")]
            for f in shown
        ],
        notes=notes,
    )


def _pinnings(verdict: Verdict) -> Iterator[Table]:
    if shown := verdict.rds_proxy[:_MOST_FINDINGS]:
        left = len(verdict.rds_proxy) - len(shown)
        more = f"{_number(left, 'more line')}: --format json has all."
        yield Table(
            title=_text(f"RDS Proxy would hold clients of {verdict.pool} on one session for"),
            columns=("~LINE", "CONDITION", ">COUNT"),
            rows=[[_text(p.site), _text(p.condition), Cell(str(p.count))] for p in shown],
            notes=[_text(more)] if left else [],
        )


def _conclusion(report: Report) -> Table:
    word = WORDS[report.exit_code]
    pools = _number(len(report.totals), "pool")
    when = datetime.fromtimestamp(report.time).astimezone().strftime("%H:%M:%S %Z")
    title = f"{when} {word}: {_number(len(report.processes), 'process', 'processes')}, {pools}"
    tone = "good" if report.exit_code == FINE else "bad"
    notes = [
        Cell(printable(line), "warn" if problem.code == FINE else "bad")
        for problem in report.problems
        for line in problem.lines()
    ]
    return Table(title=Cell(title, tone), notes=notes)
