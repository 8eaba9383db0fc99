"""When a promise counts as broken."""

from __future__ import annotations

from collections import Counter

import pytest

from example_project.measures import Measures
from example_project.runs import ENGINES, loads, runs_of
from example_project.serving import Shape
from example_project.verdicts import verdicts

SHAPE = Shape(pool_size=4, threads=200)
LOADS = loads(48, 200)


def measured(**changes) -> Measures:
    values = {
        "seconds": 10.0,
        "latencies": [0.1] * 1_000,
        "faultless": 1_000,
        "peak_in_flight": 48,
        "peak_at_supplier": 8,
        "peak_connections": 8,
    }
    return Measures(**{**values, **changes})


def crowd(**changes) -> Measures:
    return measured(**{"peak_in_flight": 200, "peak_at_supplier": 196, **changes})


def outage(**changes) -> Measures:
    values = {"killed": 9, "failures": Counter(AdminShutdown=9), "alone": [0.02] * 6}
    return measured(**{**values, **changes})


def results(**changes) -> dict[str, Measures]:
    """Nine runs as they should be, but for those that `changes` names."""
    make = {"everyday": measured, "crowd": crowd, "outage": outage}
    good = {run.key: make[load.key]() for load in LOADS for run in runs_of(load)}
    assert set(changes) <= set(good)
    return {**good, **changes}


def kept(runs: dict[str, Measures]) -> list[bool]:
    return [verdict.kept for verdict in verdicts(runs, SHAPE, LOADS)]


def test_runs_that_are_as_promised_keep_every_promise():
    assert kept(results()) == [True] * 9


@pytest.mark.parametrize(
    ("key", "measures", "broken"),
    [
        ("everyday_transaction", measured(failures=Counter({"503": 1})), 0),
        ("everyday_transaction", measured(latencies=[]), 0),
        ("everyday_session", measured(failures=Counter({"503": 1})), 1),
        ("crowd_transaction", crowd(failures=Counter({"503": 1})), 2),
        ("crowd_transaction", crowd(latencies=[]), 2),
        ("crowd_transaction", crowd(peak_in_flight=8), 2),
        ("crowd_transaction", crowd(peak_at_supplier=8), 3),
        ("everyday_transaction", measured(peak_connections=9), 4),
        ("everyday_session", measured(peak_connections=0), 4),
        ("crowd_transaction", crowd(peak_connections=9), 4),
        ("crowd_session", crowd(peak_connections=9), 4),
        ("outage_session", outage(peak_connections=9), 4),
        ("outage_transaction", outage(failures=Counter(AdminShutdown=10)), 5),
        ("outage_transaction", outage(killed=0, failures=Counter()), 5),
        ("outage_transaction", outage(faultless=99), 5),
        ("outage_transaction", outage(alone_failed=1), 6),
        ("outage_transaction", outage(alone=[]), 6),
        ("outage_session", outage(failures=Counter(AdminShutdown=10)), 7),
        ("outage_session", outage(alone_failed=1), 8),
    ],
)
def test_a_promise_that_the_measurements_break_is_called_broken(key, measures, broken):
    outcome = kept(results(**{key: measures}))

    assert [number for number, fine in enumerate(outcome) if not fine] == [broken]


@pytest.mark.parametrize(
    ("everyday", "in_a_crowd", "broken"),
    [
        (measured(), crowd(peak_connections=4), []),
        (measured(failures=Counter({"503": 1})), crowd(peak_connections=4), [5]),
        (measured(), crowd(peak_connections=4, failures=Counter({"500": 1})), [6]),
        (measured(), crowd(peak_connections=5), [6]),  # it lends half of the eight
        (measured(), crowd(peak_connections=0), [6]),
    ],
)
def test_what_goes_through_pgbouncer_is_judged_where_it_was_run(everyday, in_a_crowd, broken):
    outcome = kept({**results(), "everyday_pgbouncer": everyday, "crowd_pgbouncer": in_a_crowd})

    assert len(outcome) == 11
    assert [number for number, fine in enumerate(outcome) if not fine] == broken


def test_what_session_mode_cannot_do_in_a_crowd_is_shown_and_not_judged():
    assert all(kept(results(crowd_session=crowd(failures=Counter({"503": 500}), faultless=0))))


def test_what_djangos_own_pool_does_is_shown_and_not_judged():
    bad = measured(failures=Counter(PoolTimeout=500), faultless=0, peak_connections=99)
    django = {run.key: bad for load in LOADS for run in runs_of(load) if not run.engine.ours}

    assert len(django) == len(LOADS)
    assert all(kept(results(**django)))


def test_times_are_not_judged():
    slow = {
        run.key: measured(
            latencies=[99.0] * 1_000, peak_in_flight=200, peak_at_supplier=196, killed=9,
            alone=[99.0] * 6,
        )
        for load in LOADS
        for run in runs_of(load)
    }  # fmt: skip

    assert all(kept(results(**slow)))
    assert [engine.ours for engine in ENGINES] == [True, True, False]
