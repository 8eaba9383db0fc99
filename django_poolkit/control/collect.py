"""What all live processes say of their pools, what the servers say of them, and what is wrong."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from django_poolkit import __version__
from django_poolkit.conf.control import control_config
from django_poolkit.control import answers, client, replicas, servers, verdicts
from django_poolkit.control.servers import Server
from django_poolkit.control.verdicts import Verdict
from django_poolkit.pools.stats import BUCKETS, HistogramStats

FINE, DEGRADED, UNREACHABLE, NO_PROCESS = range(4)
WORDS: Final = ("fine", "degraded", "unreachable", "no process")
"""What the exit codes of `poolstatus` stand for."""

LOOK: Final = 1.0
"""Seconds that a process may take to answer where somebody waits for a page."""

# What is added up over the pools of one name.
_SUMS: Final = (
    "min_size", "max_size", "size", "idle", "used", "connecting", "waiters", "acquired", "waited",
    "timeouts", "too_many_waiters", "connects", "connect_errors", "resets", "leaks", "overdue",
)  # fmt: skip
# Counts by reason, each added up by itself.
_COUNTS: Final = ("pins", "errors", "evictions", "read_retries")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that is not as it should be."""

    code: int
    """The exit code it stands for; 0 for what is only worth to be known."""
    text: str
    pid: int | None = None
    pool: str | None = None

    def lines(self) -> list[str]:
        """Return whose it is and what: one line, or several where the text has several."""
        whose = [] if self.pid is None else [f"pid {self.pid}"]
        whose += [] if self.pool is None else [self.pool]
        return (f"{', '.join(whose)}: {self.text}" if whose else self.text).splitlines()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that `poolstatus` shows, at one moment."""

    time: float
    """By the wall clock."""
    processes: tuple[Mapping[str, Any], ...]
    """The results of `status` of the processes that answered."""
    totals: tuple[Mapping[str, Any], ...]
    """One for each pool name: the sums over the processes, `utilization`, the longest
    `oldest_waiter` and `oldest_lease`, `state` and `mode` (all that there are, where they
    differ), `pins`, `errors`, `evictions`, `read_retries`, and `recent`."""
    servers: tuple[Server, ...]
    verdicts: tuple[Verdict, ...]
    """One for each pool name, where they were asked for."""
    problems: tuple[Problem, ...]

    @property
    def exit_code(self) -> int:
        """The worst of the problems: 3 no process, 2 a server unreachable, 1 degraded, 0 fine."""
        return max((problem.code for problem in self.problems), default=FINE)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON."""
        plain = asdict(self)
        for server, shown in zip(self.servers, plain["servers"], strict=True):
            shown |= {"usable": server.usable, "short": server.short}
        for verdict, shown in zip(self.verdicts, plain["verdicts"], strict=True):
            shown["share"] = verdict.share
        return {"version": 1, "status": WORDS[self.exit_code], "exit_code": self.exit_code} | plain


def collect(
    aliases: Collection[str] = (), *, local: bool = False, leases: bool = False, pins: bool = False
) -> Report:
    """Ask all live processes, or with `local` only this one, and the servers behind their pools.

    With `aliases` only pools and servers of those are reported. Blocks for 9 seconds at most:
    3 for processes that do not answer, 6 for servers.
    """
    now = time.time()
    wanted = frozenset(aliases or servers.pooled_aliases())
    # All of their pools, even where few are wanted: to a server it is one budget.
    results, problems = _ask({"leases": leases, "pins": pins}, local=local)
    checked = servers.check(wanted, results)
    processes = [_only(result, wanted) for result in results] if aliases else results
    report = _report(now, processes, problems, checked)
    return replace(report, verdicts=tuple(verdicts.judge(processes))) if pins else report


def look() -> Report:
    """Ask all live processes for their pools, leases and last minutes, and no server.

    For those who look again and again. Blocks for about a second at most: who is silent for so
    long is named, and asked again by the next look.
    """
    now = time.time()
    results, problems = _ask({"leases": True, "history": True}, local=False, timeout=LOOK)
    return _report(now, results, problems)


def _report(
    now: float,
    processes: Sequence[Mapping[str, Any]],
    problems: list[Problem],
    checked: Sequence[Server] = (),
) -> Report:
    for process in processes:
        problems += _of_process(process)
    for server in checked:
        problems += _of_server(server)
    return Report(
        time=now,
        processes=tuple(processes),
        totals=tuple(_totals(processes)),
        servers=tuple(checked),
        verdicts=(),
        problems=tuple(sorted(problems, key=lambda problem: -problem.code)),
    )


def _ask(
    arguments: dict[str, bool], *, local: bool, timeout: float = client.TIMEOUT
) -> tuple[list[Mapping[str, Any]], list[Problem]]:
    if local:
        return [answers.HANDLERS["status"](arguments)], []
    config = control_config()
    replies = client.ask_all(config, "status", arguments, timeout=timeout)
    if not replies:
        return [], [Problem(code=NO_PROCESS, text=client.explain_none(config))]
    results, problems = [], []
    for reply in replies:
        if reply.result is None:
            text = f"does not answer: {reply.message or reply.error}"
        elif (version := reply.result.get("version")) != __version__:
            # Its figures may be others, or mean something else.
            text = f"runs django_poolkit {version}, and this is {__version__}: restart it"
        else:
            results.append(reply.result)
            continue
        problems.append(Problem(code=DEGRADED, pid=reply.pid, text=text))
    return results, problems


def _only(process: Mapping[str, Any], aliases: Collection[str]) -> Mapping[str, Any]:
    """Return what concerns these aliases."""
    pools = [pool for pool in process["pools"] if set(pool["aliases"]) & set(aliases)]
    names = {pool["name"] for pool in pools}
    members = [each for each in process["members"] if {each["alias"], each["name"]} & set(aliases)]
    kept: dict[str, Any] = {**process, "pools": pools, "members": members}
    if "leases" in kept:
        kept["leases"] = [lease for lease in kept["leases"] if lease["pool"] in names]
    if "observations" in kept:
        kept["observations"] = {
            name: found for name, found in kept["observations"].items() if name in names
        }
    return kept


# -- what is wrong


def _of_process(process: Mapping[str, Any]) -> list[Problem]:
    found = []
    if process["draining"]:
        found.append(Problem(code=DEGRADED, pid=process["pid"], text="is draining"))
    for pool in process["pools"]:
        for text in _of_pool(pool):
            found.append(Problem(code=DEGRADED, pid=process["pid"], pool=pool["name"], text=text))
    for member in process["members"]:
        if (wrong := replicas.wrong_with(member)) is not None:
            bad, text = wrong
            code = DEGRADED if bad else FINE
            found.append(Problem(code=code, pid=process["pid"], pool=member["name"], text=text))
    return found


def _of_pool(pool: Mapping[str, Any]) -> list[str]:
    found = []
    if pool["waiters"]:
        found.append(f"{pool['waiters']} wait, the first for {pool['oldest_waiter']:.2f} s")
    if pool["state"] == "paused":
        found.append(f"is paused, for {pool['pause_left']:.0f} s more")
    if pool["last_connect_error"]:
        found.append(f"fails to connect: {pool['last_connect_error']}")
    return found


def _of_server(server: Server) -> list[Problem]:
    found = [
        Problem(code=UNREACHABLE, pool=alias, text=f"the database cannot be reached: {error}")
        for alias, error in server.errors.items()
    ]
    if server.short:
        found.append(
            Problem(
                code=FINE,
                pool=server.aliases[0],
                text=f"the server is {server.short} connections short, should all pools fill up",
            )
        )
    for share in server.shares:
        if share.whose == "process" and share.open and share.connections == 0:
            found.append(
                Problem(
                    code=FINE,
                    pid=share.pids[0],
                    pool=server.aliases[0],
                    text=f"has {share.open} connections, none of which the server knows by its "
                    "name: application_name is set otherwise, or a pooler stands in between",
                )
            )
    return found


# -- sums


def _totals(processes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    names = list(dict.fromkeys(pool["name"] for p in processes for pool in p["pools"]))
    return [
        _total(name, [pool for p in processes for pool in p["pools"] if pool["name"] == name])
        for name in names
    ]


def _total(name: str, pools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {"name": name, "processes": len(pools)}
    total |= {key: sum(pool[key] for pool in pools) for key in _SUMS}
    counts: dict[str, Counter[str]] = {key: Counter() for key in _COUNTS}
    for pool in pools:
        for key, count in counts.items():
            count.update(pool[key])
    recent = [pool["recent"] for pool in pools]
    return total | {
        "utilization": total["used"] / total["max_size"],
        "oldest_waiter": max(pool["oldest_waiter"] for pool in pools),
        "oldest_lease": max(pool["oldest_lease"] for pool in pools),
        "state": " and ".join(sorted({pool["state"] for pool in pools})),
        "mode": " and ".join(sorted({pool["mode"] for pool in pools})),
        **{key: dict(count) for key, count in counts.items()},
        "recent": {
            key: sum(part[key] for part in recent)
            for key in ("acquires_per_second", "timeouts_per_second")
        }
        | {key: _together([part[key] for part in recent]) for key in ("wait", "use")},
    }


def _together(parts: Sequence[Mapping[str, Any]]) -> dict[str, float | int | None]:
    """Return the quantiles over all processes, which cannot be had from theirs."""
    counts = tuple(map(sum, zip(*(part["counts"] for part in parts), strict=True)))
    histogram = HistogramStats(BUCKETS, counts, 0.0)
    found: dict[str, Any] = {"count": histogram.count}
    for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        value = histogram.quantile(q)
        found[name] = value if histogram.count and value <= BUCKETS[-1] else None
    return found
