"""What `pooladvise` shows of a server: who takes it up, and when it is time for PgBouncer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from django_poolkit.control.advice import ServerAdvice
from django_poolkit.control.tables import Cell, Table, printable
from django_poolkit.control.wording import counted, percent, seconds, toned
from django_poolkit.pools.budget import Plan, Pooler

Line = tuple[str, str]
"""A text, and its tone."""

_TOO_MUCH: Final = (
    "One queue for all would not keep the target either: that is more work than connections.",
    "Shorten the leases (transaction mode, slow statements), read from replicas, or raise",
    "max_connections with the cores to match.",
)
_DECLARE: Final = "and in OPTIONS['pool']: 'pooler': 'pgbouncer-transaction'"
_DIVIDE: Final = (
    "default_pool_size counts for each database and role: where these aliases differ in them,",
    "divide it among them.",
)


def server_table(server: ServerAdvice, hosts: int) -> Table:
    """Return what is said of one server, of which so many hosts are clients."""
    name = f"Server of {', '.join(server.aliases)}"
    budget = server.budget
    if budget is None:
        why = "; ".join(server.errors.values()) or "not reached"
        text = f"{name}: its budget is not known ({why}); --max-connections supposes one"
        return Table(title=Cell(printable(text), "warn"))
    title = (
        f"{name}: {budget.room} connections for these pools (max_connections "
        f"{budget.max_connections} less {budget.reserved} reserved, {budget.others} of others, "
        f"{budget.spare} to spare)"
    )
    lines = [(f"As they are, the pools may open {server.now}.", "")]
    if server.over:
        lines = [(f"As they are, the pools may open {server.now}, which do not fit.", "bad")]
    if (plan := server.plan) is not None:
        if plan.word == "fits":
            lines += _that_fits(plan)
        else:
            lines += _that_does_not(plan, budget.each(plan.processes), hosts)
        if len(server.aliases) > 1 and (plan.pooler or plan.beyond):
            lines += toned(_DIVIDE, "")
    return Table(title=Cell(printable(title), "head"), notes=[Cell(*line) for line in lines])


def _that_fits(plan: Plan) -> Iterator[Line]:
    processes = counted(plan.processes, "process", "processes")
    yield f"As advised, {processes} may open {plan.needed}: they fit, without a pooler.", "good"
    if 2 * plan.needed > plan.room:
        yield "They do not fit twice, as when a deployment runs old and new together.", "warn"
    hosts = counted(plan.hosts_that_fit, "host")
    if plan.beyond is None:
        yield f"So do up to {hosts} with as much to do. One more is more work than connections.", ""
        return
    yield f"So do up to {hosts} with as much to do. From one more on it is time for PgBouncer,", ""
    yield "then with:", ""
    yield from _settings(plan.beyond)


def _that_does_not(plan: Plan, each: int, hosts: int) -> Iterator[Line]:
    processes = counted(plan.processes, "process", "processes")
    yield f"As advised, {processes} may open {plan.needed}, which do not fit.", "bad"
    if hosts > 1:
        yield f"Of the {hosts} hosts {plan.hosts_that_fit} would.", "bad"
    yield f"{each} each would." if each else "There is not even one for each.", "bad"
    if (direct := plan.direct) is not None and direct.acquires:
        yield "Simulated, each with a pool of its own, and without a pooler in between:", ""
        yield f"  {direct.without} of {direct.processes} processes never get a connection,", "bad"
        yield f"  and {percent(direct.timeouts)} of all acquires wait in vain.", "bad"
    if plan.pooler is None:
        yield from toned(_TOO_MUCH, "bad")
        return
    shared = plan.pooler.shared
    yield "Through PgBouncer all of them share one queue. The target is kept by", "good"
    used = f"p99 {seconds(shared.p99)}, {percent(shared.utilization)} used"
    yield f"{counted(shared.size, 'connection')} ({used}):", "good"
    yield from _settings(plan.pooler)


def _settings(pooler: Pooler) -> Iterator[Line]:
    for key, value in pooler.settings.items():
        yield f"    {key} = {value}", ""
    yield f"  {_DECLARE}", ""
