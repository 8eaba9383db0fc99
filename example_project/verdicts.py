"""Hold the measurements of our own runs against what is promised of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from example_project.measures import Measures
from example_project.runs import ENGINES, PGBOUNCER, Engine, Load, Run
from example_project.serving import Shape


@dataclass(frozen=True)
class Verdict:
    """One promise, and whether the measurements bear it out."""

    sentence: str
    kept: bool


def verdicts(
    results: Mapping[str, Measures], shape: Shape, loads: tuple[Load, Load, Load]
) -> Sequence[Verdict]:
    """Judge our own runs by causes, never by times. Django's are shown and not judged."""
    everyday, crowd, outage = loads
    transaction, *_ = ENGINES
    ours = [engine for engine in ENGINES if engine.ours]
    found = [_all_well(engine, results[Run(everyday, engine).key]) for engine in ours]
    found += _of_the_crowd(results[Run(crowd, transaction).key], crowd)
    found.append(
        _within_bounds([results[Run(load, engine).key] for load in loads for engine in ours], shape)
    )
    if (through := Run(everyday, PGBOUNCER).key) in results:
        found.append(_all_well(PGBOUNCER, results[through]))
        found.append(_of_few_sessions(results[Run(crowd, PGBOUNCER).key], crowd, shape))
    for engine in ours:
        found += _of_the_outage(engine, results[Run(outage, engine).key])
    return found


def _all_well(engine: Engine, measures: Measures) -> Verdict:
    return Verdict(
        f"{engine.title}, everyday: {len(measures.latencies):,} of {measures.requests:,} requests"
        " were answered well, so all",
        bool(measures.requests) and not measures.failures,
    )


def _of_the_crowd(measures: Measures, crowd: Load) -> Iterator[Verdict]:
    yield Verdict(
        f"transaction mode, {crowd.title}: {measures.peak_in_flight} requests in flight on"
        f" {measures.peak_connections} connections, {measures.failures.total()} of"
        f" {measures.requests:,} failed, so none",
        bool(measures.requests)
        and not measures.failures
        and measures.peak_in_flight > measures.peak_connections,
    )
    yield Verdict(
        f"transaction mode, {crowd.title}: {measures.peak_at_supplier} requests waited for it at"
        f" once, more than there were connections ({measures.peak_connections})",
        measures.peak_at_supplier > measures.peak_connections,
    )


def _of_few_sessions(measures: Measures, crowd: Load, shape: Shape) -> Verdict:
    return Verdict(
        f"{PGBOUNCER.title}, {crowd.title}: {measures.peak_in_flight} requests in flight on"
        f" {measures.peak_connections} sessions of the server, of {shape.shared} allowed;"
        f" {measures.failures.total()} of {measures.requests:,} failed, so none",
        bool(measures.requests)
        and not measures.failures
        and 0 < measures.peak_connections <= shape.shared,
    )


def _within_bounds(runs: Sequence[Measures], shape: Shape) -> Verdict:
    peaks = [run.peak_connections for run in runs]
    return Verdict(
        f"{len(runs)} runs in both modes took {max(peaks)} connections at most, of"
        f" {shape.connections} allowed",
        min(peaks) > 0 and max(peaks) <= shape.connections,
    )


def _of_the_outage(engine: Engine, measures: Measures) -> Iterator[Verdict]:
    failed = measures.failures.total()
    yield Verdict(
        f"{engine.title}: killing all {measures.killed} backends failed {failed} of"
        f" {measures.requests:,} requests, no more than one a backend, and the last"
        f" {measures.faultless:,} were answered well",
        0 < measures.killed >= failed and measures.recovered,
    )
    yield Verdict(
        f"{engine.title}: killed in a quiet hour, the next {len(measures.alone)} requests were"
        " answered well",
        bool(measures.alone) and not measures.alone_failed,
    )
