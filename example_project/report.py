"""Show runs side by side, and what they come to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.table import Table

from example_project.measures import Measures
from example_project.runs import PGBOUNCER, Load, Run, runs_of, runs_through_pgbouncer
from example_project.serving import Shape
from example_project.visits import Visits

_KILLED = """\
Every backend was terminated in mid-run, and once more when nothing was under way; then a few
requests came one by one."""

_LENT = f"Connections {PGBOUNCER.title} are those that it has itself, as the server counts them."

_COLUMN = 11  # so that three of them fit into a terminal of 80
_Row = tuple[str, Callable[[Measures], str]]


def milliseconds(seconds: float) -> str:
    """Write a duration for a person."""
    return f"{seconds * 1000:,.0f} ms"


def _percentile(share: float) -> Callable[[Measures], str]:
    return lambda measures: milliseconds(measures.percentile(share))


def _alone(measures: Measures) -> str:
    if not measures.alone:
        return "-"
    within = f"{len(measures.alone)} within\n{milliseconds(max(measures.alone))}"
    return f"{within}\n{measures.alone_failed or 'none'} failed"


def _rows(load: Load) -> Iterator[_Row]:
    """Yield the lines of a load's table: what is shown, and how it is read."""
    yield "requests", lambda measures: f"{measures.requests:,}"
    yield "answered well a second", lambda measures: f"{measures.throughput:,.0f}"
    yield "p50: half within", _percentile(0.5)
    yield "p99: 99 of 100 within", _percentile(0.99)
    yield "slowest", _percentile(1.0)
    yield "requests in flight, peak", lambda measures: f"{measures.peak_in_flight:,}"
    yield "waiting for the supplier, peak", lambda measures: f"{measures.peak_at_supplier:,}"
    yield "connections, peak", lambda measures: f"{measures.peak_connections:,}"
    if load.kill:
        yield "backends killed", lambda measures: f"{measures.killed:,}"
    yield "timeouts (503 or 500)", lambda measures: f"{measures.timeouts:,}"
    yield "other errors", lambda measures: f"{measures.errors:,}"
    if load.kill:
        yield "after a kill when idle", _alone
        yield "well since the last failure", lambda measures: f"{measures.faultless:,}"


def _made(results: Mapping[str, Measures], load: Load) -> list[Run]:
    """Return the runs of a load that have been made, or are being made."""
    return [run for run in (*runs_of(load), *runs_through_pgbouncer(load)) if run.key in results]


def table(results: Mapping[str, Measures], shape: Shape, load: Load) -> Table:
    """Return the runs of a load that have been made, or are being made, side by side."""
    made = _made(results, load)
    title = (
        f"{load.title[0].upper()}{load.title[1:]}: {load.in_flight} requests in flight,"
        f" at most {shape.connections} connections"
    )
    view = Table(title=title, title_justify="left", title_style="bold")
    view.add_column("")
    for run in made:
        view.add_column(run.engine.title, justify="right", max_width=_COLUMN)
    for label, value in _rows(load):
        view.add_row(label, *(value(results[run.key]) for run in made))
    return view


def legend(results: Mapping[str, Measures], load: Load) -> str:
    """Return what the table leaves unsaid: what "killed" means, and the kinds of failure."""
    lines = [_KILLED] if load.kill else []
    if Run(load, PGBOUNCER).key in results:
        lines.append(_LENT)
    for run in _made(results, load):
        if failures := results[run.key].failures:
            kinds = ", ".join(f"{count:,} with {kind}" for kind, count in failures.most_common())
            lines.append(f"Failed with {run.engine.title}: {kinds}.")
    return "".join(f"{line}\n" for line in lines)


def visits_table(found: Sequence[Visits]) -> Table:
    """Return what visitors met who order and look at their orders, side by side."""
    rows: list[tuple[str, Callable[[Visits], str]]] = [
        ("orders placed", lambda visits: f"{visits.orders:,}"),
        ("pages read", lambda visits: f"{visits.pages.total():,}"),
        ("  while the replica got nothing new", lambda visits: f"{visits.pages['paused']:,}"),
        ("of them from the replica", lambda visits: f"{visits.share('replaying'):.0%}"),
        ("  while it got nothing new", lambda visits: f"{visits.share('paused'):.0%}"),
        ("half of them within", lambda visits: milliseconds(visits.median("replaying"))),
        ("  while it got nothing new", lambda visits: milliseconds(visits.median("paused"))),
        ("pages without an own order", lambda visits: f"{visits.stale.total():,}"),
        ("failed", lambda visits: f"{visits.failures.total():,}"),
    ]
    view = Table(title="What they found", title_justify="left", title_style="bold")
    view.add_column("")
    for visits in found:
        view.add_column(visits.title, justify="right", max_width=_COLUMN)
    for label, value in rows:
        view.add_row(label, *(value(visits) for visits in found))
    return view


def line(measures: Measures) -> str:
    """Return the state of a run in one line, for where no table can be redrawn."""
    return (
        f"  {measures.seconds:5.1f} s  {measures.requests:6,} requests"
        f"  {measures.throughput:5,.0f} well/s"
        f"  p50 {milliseconds(measures.percentile(0.5)):>8}"
        f"  p99 {milliseconds(measures.percentile(0.99)):>8}"
        f"  in flight {measures.in_flight:3}  connections {measures.connections:3}"
        f"  timeouts {measures.timeouts}  errors {measures.errors}"
    )


def conclusion(
    results: Mapping[str, Measures], shape: Shape, loads: tuple[Load, Load, Load]
) -> str:
    """Return in a few lines what all runs came to, in their own figures."""
    everyday, crowd, outage = loads

    def each(load: Load, value: Callable[[Measures], str]) -> str:
        return ", ".join(
            f"{run.engine.title} {value(results[run.key])}" for run in _made(results, load)
        )

    def failed(measures: Measures) -> str:
        return f"{measures.failures.total():,} of {measures.requests:,}"

    def failed_alone(measures: Measures) -> str:
        return f"{measures.alone_failed} of {len(measures.alone)}"

    title = f"{crowd.in_flight} requests in flight, {crowd.title}, at most {shape.connections}"
    lines = [f"{title} connections:"]
    lines += [
        f"  {run.engine.title:18}{_in_a_crowd(results[run.key])}" for run in _made(results, crowd)
    ]
    lines += [
        f"{everyday.in_flight} requests in flight on an ordinary day, answered well a second:",
        f"  {each(everyday, lambda measures: f'{measures.throughput:,.0f}')}",
        f"{outage.in_flight} requests in flight, every backend killed; failed:",
        f"  {each(outage, failed)}",
        "Every backend killed in a quiet hour; failed of the next few requests:",
        f"  {each(outage, failed_alone)}",
    ]
    return "\n".join(lines)


def _in_a_crowd(measures: Measures) -> str:
    return (
        f" {measures.peak_at_supplier:4} at the supplier on {measures.peak_connections}"
        f" connections; {measures.failures.total():,} of {measures.requests:,} failed"
    )
