"""Show runs side by side, and say whether they were as promised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from example_project.measures import Measures
from example_project.serving import Shape


@dataclass(frozen=True)
class Run:
    """One column: which engine serves, and what is done to it."""

    key: str
    title: str
    backend: str
    kill: bool = False


RUNS = (
    Run("poolkit", "poolkit", "poolkit"),
    Run("django", "Django's", "django"),
    Run("poolkit_killed", "poolkit,\nkilled", "poolkit", kill=True),
    Run("django_killed", "Django's,\nkilled", "django", kill=True),
)
"""In the order in which they are run. All have the same load, pool size and options."""


_LEGEND = """\
Django's: the same site on Django's own engine and pool, with the same options.
killed: every backend was terminated in mid-run, and once more when nothing was under way;
then a few requests came one by one."""


@dataclass(frozen=True)
class Verdict:
    """One promise, and whether the measurements bear it out."""

    sentence: str
    kept: bool


def milliseconds(seconds: float) -> str:
    """Write a duration for a person."""
    return f"{seconds * 1000:,.0f} ms"


def _alone(measures: Measures) -> str:
    if not measures.alone:
        return "-"
    within = f"{len(measures.alone)} within {milliseconds(max(measures.alone))}"
    return f"{within}\n{measures.alone_failed or 'none'} failed"


def rows(measures: Measures) -> list[tuple[str, str]]:
    """Return the lines of one column: what it is called, and how much of it there was."""
    return [
        ("requests", f"{measures.requests:,}"),
        ("answered well a second", f"{measures.throughput:,.0f}"),
        ("p50: half within", milliseconds(measures.percentile(0.5))),
        ("p99: 99 of 100 within", milliseconds(measures.percentile(0.99))),
        ("slowest", milliseconds(measures.percentile(1.0))),
        ("requests in flight, peak", f"{measures.peak_in_flight:,}"),
        ("connections, peak", f"{measures.peak_connections:,}"),
        ("backends killed", f"{measures.killed:,}" if measures.killed else "-"),
        ("timeouts (503 or 500)", f"{measures.timeouts:,}"),
        ("other errors", f"{measures.errors:,}"),
        ("after a kill when idle", _alone(measures)),
        ("at the end", "all well" if measures.recovered else "still failing"),
    ]


def table(results: Mapping[str, Measures], shape: Shape, runs: Sequence[Run] = RUNS) -> Table:
    """Return the runs that have been made, or are being made, side by side."""
    made = [run for run in runs if run.key in results]
    title = f"The same load on at most {shape.connections} connections"
    view = Table(title=title, title_justify="left", title_style="bold")
    view.add_column("")
    for run in made:
        view.add_column(run.title, justify="right")
    columns = [rows(results[run.key]) for run in made]
    for line in zip(*columns, strict=True):
        view.add_row(line[0][0], *(value for _, value in line))
    return view


def legend(results: Mapping[str, Measures], runs: Sequence[Run] = RUNS) -> str:
    """Return what the table leaves unsaid: what "killed" means, and the kinds of failure."""
    lines = [_LEGEND]
    for run in runs:
        failures = results[run.key].failures if run.key in results else None
        if failures:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in failures.most_common())
            lines.append(f"Failed with {' '.join(run.title.split())}: {kinds}.")
    return "\n".join(lines)


def line(measures: Measures) -> str:
    """Return the state of a run in one line, for where no table can be redrawn."""
    return (
        f"  {measures.seconds:5.1f} s  {measures.requests:6,} requests"
        f"  {measures.throughput:5,.0f}/s"
        f"  p50 {milliseconds(measures.percentile(0.5)):>8}"
        f"  p99 {milliseconds(measures.percentile(0.99)):>8}"
        f"  in flight {measures.in_flight:3}  connections {measures.connections:3}"
        f"  timeouts {measures.timeouts}  errors {measures.errors}"
    )


def verdicts(results: Mapping[str, Measures], shape: Shape) -> list[Verdict]:
    """Hold the measurements of our own runs against what is promised of them."""
    calm, killed = results["poolkit"], results["poolkit_killed"]
    failed = killed.failures.total()
    return [
        Verdict(
            f"{len(calm.latencies):,} of {calm.requests:,} requests were answered well, so all",
            bool(calm.requests) and not calm.failures,
        ),
        Verdict(
            f"{calm.peak_in_flight} requests in flight took {calm.peak_connections} connections"
            f" at most, of {shape.connections} allowed",
            0 < calm.peak_connections <= shape.connections,
        ),
        Verdict(
            f"killing all {killed.killed} backends failed {failed} requests:"
            " no more than one a backend",
            killed.killed > 0 and failed <= killed.killed,
        ),
        Verdict(
            f"killed in a quiet hour, the next {len(killed.alone)} requests were answered well",
            bool(killed.alone) and not killed.alone_failed,
        ),
        Verdict(
            f"the site recovered: the last {killed.faultless:,} requests were answered well",
            killed.recovered,
        ),
    ]
