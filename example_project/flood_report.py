"""Show what came of a flood, and hold it against what is promised of it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence

from rich.table import Table

from example_project.measures import Measures
from example_project.report import milliseconds
from example_project.sending import Report
from example_project.verdicts import Verdict
from example_project.vitals import Watch
from example_project.waves import CONNECTIONS, PATIENCE, UPSTREAM_SECONDS, Outcome, Wave

MOST_THREADS = 50
"""More than the pool, its housekeeper and the loop have of their own, on any machine."""


def announcement(wave: Wave, seconds: float) -> str:
    """Return what a flood is about to show."""
    loop = "uvloop" if importlib.util.find_spec("uvloop") else "asyncio"
    return (
        f"{wave.clients:,} clients set out within {wave.ramp:g} s, and each asks again and again"
        f" for {seconds:g} s more.\n"
        f"A request is two queries around a call of the supplier's API ({UPSTREAM_SECONDS:g} s).\n"
        f"The site: one process of uvicorn on {loop}, with a pool of {CONNECTIONS} connections and"
        f" timeout={PATIENCE:g}.\n"
    )


def progress(report: Report, watch: Watch, counted: Measures) -> str:
    """Return the state of a wave in a line."""
    return (
        f"  {report['seconds']:5.1f} s  in flight {report['in_flight']:6,}"
        f"  finished {report['requests']:7,}  {report['throughput']:5,.0f}/s"
        f"  failed {sum(report['failures'].values())}  connections {counted.connections:3}"
        f"  threads {watch.last.threads:4}  {watch.last.memory / 2**20:5,.0f} MiB"
    )


_Row = tuple[str, Callable[[Outcome], str]]


def _rows() -> Iterator[_Row]:
    yield "requests in flight, peak", lambda found: f"{found.report['peak_in_flight']:,}"
    yield "requests finished", lambda found: f"{found.report['requests']:,}"
    yield "  failed", lambda found: f"{found.failed:,}"
    yield "answered well a second", lambda found: f"{found.report['throughput']:,.0f}"
    yield "p50: half within", lambda found: milliseconds(found.report["p50"])
    yield "p99: 99 of 100 within", lambda found: milliseconds(found.report["p99"])
    yield "waiting for the supplier, peak", lambda found: f"{found.at_supplier:,}"
    yield "connections, peak", lambda found: f"{found.connections:,}"
    yield "open files, peak", lambda found: f"{found.files:,}"
    yield "threads before", lambda found: f"{found.threads_before:,}"
    yield "threads, peak", lambda found: f"{found.threads:,}"
    yield "memory, peak", lambda found: f"{found.memory / 2**20:,.0f} MiB"
    yield "CPU of the site a request", lambda found: f"{found.cpu_each * 1000:.2f} ms"


def table(outcomes: Sequence[Outcome]) -> Table:
    """Return what came of the waves, side by side."""
    title = f"One process, {CONNECTIONS} connections, two queries around a slow upstream call"
    view = Table(title=title, title_justify="left", title_style="bold")
    view.add_column("")
    for outcome in outcomes:
        view.add_column(outcome.wave.title, justify="right", max_width=14)
    for label, value in _rows():
        view.add_row(label, *(value(outcome) for outcome in outcomes))
    return view


def legend(outcomes: Sequence[Outcome]) -> str:
    """Return the kinds of failure, where there were any."""
    lines = []
    for outcome in outcomes:
        kinds = outcome.report["failures"]
        if kinds:
            said = ", ".join(f"{count:,} with {kind}" for kind, count in kinds.items())
            lines.append(f"Failed with {outcome.wave.title}: {said}.\n")
    return "".join(lines)


def verdicts(flood: Outcome) -> list[Verdict]:
    """Judge the flood by causes, never by times. Django's own is shown and not judged."""
    report, clients = flood.report, flood.wave.clients
    return [
        Verdict(
            f"{report['requests']:,} requests were finished, {flood.failed:,} failed, so none: with"
            f" timeout={PATIENCE:g} none waited in vain for a connection",
            report["requests"] >= clients and not flood.failed,
        ),
        Verdict(
            f"{report['peak_in_flight']:,} requests were in flight at once, in a process with"
            f" {flood.files:,} files open, on {flood.connections} connections of {CONNECTIONS}",
            report["peak_in_flight"] == clients <= flood.files
            and 0 < flood.connections <= CONNECTIONS,
        ),
        Verdict(
            f"the process had {flood.threads} threads at most, {flood.threads_before} of them"
            " before: no request brings one along",
            flood.threads <= MOST_THREADS,
        ),
    ]
