"""What figures and a probe come down to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from django_poolkit.conf.health import HealthConfig
from django_poolkit.health import judging
from django_poolkit.health.report import Figures, Report, Result, worst
from django_poolkit.pools.postgres.prober import Answer
from tests.pools.support import make_stats

pytestmark = pytest.mark.core

CONFIG = HealthConfig(lag_warn=10.0, lag_fail=60.0)
PRIMARY = Answer(seconds=0.01, in_recovery=False, read_only=False, lag=None)
REPLICA = Answer(seconds=0.01, in_recovery=True, read_only=True, lag=0.0)


def server(found, stats=None, *, replica=False, config=CONFIG):
    return judging.of_server(found, stats, replica=replica, config=config)


def pool(**figures):
    return judging.of_pool(make_stats(**figures), stuck_after=30.0)


# -- the server


def test_a_primary_that_answers_passes():
    assert server(PRIMARY) == ("pass", None)


@pytest.mark.parametrize("cause", ["unreachable", "auth_failed", "timeout", "closed", "unknown"])
def test_a_server_that_does_not_answer_fails_by_the_cause(cause):
    assert server(cause, make_stats(used=3, idle=2)) == ("fail", cause)


def test_a_server_without_a_connection_left_is_saturated_while_the_pool_has_some():
    assert server("saturated", make_stats(used=1)) == ("warn", "saturated")
    assert server("saturated", make_stats(idle=1)) == ("warn", "saturated")
    assert server("saturated", make_stats(connecting=1)) == ("fail", "saturated")
    assert server("saturated") == ("fail", "saturated")


def test_a_primary_that_cannot_write_fails():
    assert server(replace(PRIMARY, read_only=True)) == ("fail", "read_only")
    assert server(replace(PRIMARY, in_recovery=True)) == ("fail", "read_only")
    assert server(REPLICA) == ("fail", "read_only")


@pytest.mark.parametrize(
    ("lag", "verdict"),
    [
        (0.0, ("pass", None)), (10.0, ("pass", None)), (10.1, ("warn", "lagging")),
        (60.0, ("warn", "lagging")), (60.1, ("fail", "lagging")), (None, ("warn", "lagging")),
    ],
)  # fmt: skip
def test_a_replica_may_be_behind_by_so_much(lag, verdict):
    assert server(replace(REPLICA, lag=lag), replica=True) == verdict


def test_a_replica_never_fails_by_its_lag_where_that_is_not_set():
    far = replace(REPLICA, lag=1e6)
    assert server(far, replica=True, config=HealthConfig()) == ("warn", "lagging")


def test_a_replica_that_was_promoted_passes():
    assert server(PRIMARY, replica=True) == ("pass", None)
    assert server(replace(PRIMARY, read_only=True), replica=True) == ("pass", None)


# -- a replica that is routed to


DOWN = ["unreachable", "auth_failed", "timeout", "config_error", "unknown"]


@pytest.mark.parametrize("reason", DOWN)
def test_a_replica_that_is_down_is_warned_of_where_something_else_is_read(reason):
    found = judging.of_replica(("fail", reason), replaceable=True, evicted=None)
    assert found == ("warn", reason)
    found = judging.of_replica(("fail", reason), replaceable=True, evicted="refuses")
    assert found == ("warn", reason)
    found = judging.of_replica(("fail", reason), replaceable=False, evicted="refuses")
    assert found == ("fail", reason)


@pytest.mark.parametrize("reason", ["lagging", "saturated", "read_only"])
def test_what_was_asked_to_fail_or_keeps_its_readers_waiting_fails(reason):
    assert judging.of_replica(("fail", reason), replaceable=True, evicted=None) == ("fail", reason)


@pytest.mark.parametrize(
    ("evicted", "reason"),
    [
        ("lag", "lagging"), ("cut", "lagging"), ("refuses", "evicted"), ("timeline", "evicted"),
        ("system", "evicted"), ("not_a_replica", "evicted"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("replaceable", [True, False])
def test_a_replica_that_answers_and_is_not_read_is_warned_of(evicted, reason, replaceable):
    found = judging.of_replica(judging.PASS, replaceable=replaceable, evicted=evicted)
    assert found == ("warn", reason)
    # What its own answer says comes first.
    both = judging.of_replica(("warn", "saturated"), replaceable=replaceable, evicted=evicted)
    assert both == ("warn", "saturated")


def test_a_replica_that_is_read_keeps_its_verdict():
    for found in (judging.PASS, ("warn", "lagging")):
        assert judging.of_replica(found, replaceable=True, evicted=None) == found


# -- the pool


@pytest.mark.parametrize("state", ["paused", "closed"])
def test_a_state_that_lends_nothing_fails_without_asking(state):
    assert judging.of_state(make_stats(state=state)) == ("fail", state)
    assert judging.of_state(make_stats(state="open")) is None


def test_a_full_pool_passes_while_nobody_waits():
    assert pool(used=8, max_size=8, standstill=100.0) == ("pass", None)


def test_a_pool_with_waiters_is_saturated():
    assert pool(used=8, max_size=8, waiters=1, standstill=29.9) == ("warn", "saturated")
    assert pool(used=0, max_size=8, waiters=3, standstill=100.0) == ("warn", "saturated")


def test_a_full_pool_in_which_nothing_moves_is_stuck():
    assert pool(used=8, max_size=8, waiters=1, standstill=30.0) == ("fail", "stuck")


def test_who_waits_for_a_client_session_stands_before_the_limit_of_one_loop_or_host():
    figures = {"kind": "http", "used": 2, "max_size": 200, "waiters": 1}
    assert pool(**figures, standstill=29.9) == ("warn", "saturated")
    assert pool(**figures, standstill=30.0) == ("fail", "stuck")
    assert pool(**figures, standstill=30.0, connecting=1) == ("warn", "saturated")


# -- both


def test_the_worse_of_two_counts_and_of_equals_the_first():
    warn: judging.Verdict = ("warn", "saturated")
    fail: judging.Verdict = ("fail", "stuck")
    assert judging.worse(warn, fail) == fail
    assert judging.worse(fail, warn) == fail
    assert judging.worse(judging.PASS, warn) == warn
    assert judging.worse(("fail", "timeout"), fail) == ("fail", "timeout")


def test_a_result_shows_the_figures_that_it_is_about():
    stats = make_stats(size=5, used=4, idle=1, max_size=8, waiters=2)
    result = judging.result("db:default", ("warn", "saturated"), stats)
    assert result == Result(
        name="db:default",
        status="warn",
        reason="saturated",
        figures=Figures(size=5, max_size=8, used=4, idle=1, waiters=2, utilization=0.5),
    )


# -- reports


def test_a_report_is_as_bad_as_its_worst_result():
    def report(*statuses):
        results = tuple(Result(name="x", status=status) for status in statuses)
        return Report(group="ready", results=results).status

    assert report() == "pass"
    assert report("pass", "pass") == "pass"
    assert report("pass", "warn", "pass") == "warn"
    assert report("warn", "fail", "pass") == "fail"
    assert worst([]) == "pass"
