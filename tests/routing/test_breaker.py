"""A host's circuit, against a model of it: no server, no thread, no clock of its own."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from django_poolkit.routing import breaker
from django_poolkit.routing.breaker import Change, Circuit

pytestmark = pytest.mark.core

REASONS = ("lag", "cut", "refuses", "not_a_replica", "timeline", "system")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class CircuitMachine(RuleBasedStateMachine):
    """Looks of all kinds, and time that passes. The model is what has been found, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.circuit = Circuit(self.clock)
        self.good_in_a_row = 0
        self.doubts_in_a_row = 0
        self.changed_at = self.clock.now
        self.state: breaker.State = "admitted"

    def enter(self, change: Change | None) -> None:
        """A change begins where the last one ended, and is what the circuit then is."""
        if change is None:
            assert self.circuit.state == self.state
            return
        assert (change.before, change.after) == (self.state, self.circuit.state)
        assert change.reason is not None
        self.state = change.after
        self.changed_at = self.clock.now

    @rule(seconds=st.floats(0.0, 120.0))
    def wait(self, seconds: float) -> None:
        before = self.circuit.share
        self.clock.now += seconds
        assert self.circuit.share >= before  # time alone takes nobody away

    @rule()
    def good(self) -> None:
        self.good_in_a_row += 1
        self.doubts_in_a_row = 0
        before = self.state
        self.enter(self.circuit.good())
        if before == "evicted" and self.state != "evicted":
            assert self.state == "trial"
            assert self.good_in_a_row >= breaker.GOOD_LOOKS
            assert self.circuit.share == breaker.FIRST_SHARE
        if before == "evicted" and self.good_in_a_row >= breaker.MOST_LOOKS:
            assert self.state == "trial"  # nobody is kept out for ever
        if before == "trial" and self.state == "admitted":
            assert self.circuit.reason is None

    @rule(reason=st.sampled_from(REASONS))
    def bad(self, reason: breaker.Reason) -> None:
        self.good_in_a_row = self.doubts_in_a_row = 0
        told = self.circuit.state == "evicted" and self.circuit.reason == reason
        change = self.circuit.bad(reason)
        assert (change is None) == told  # one eviction, one change
        self.enter(change)
        assert (self.circuit.state, self.circuit.reason) == ("evicted", reason)

    @rule()
    def doubt(self) -> None:
        self.good_in_a_row = 0
        self.doubts_in_a_row += 1
        before = self.state
        self.enter(self.circuit.doubt("refuses"))
        if self.doubts_in_a_row == 1:
            assert self.state == before
        else:
            assert self.state == "evicted"
            self.doubts_in_a_row = 0

    @invariant()
    def the_share_is_that_of_the_state(self) -> None:
        share = self.circuit.share
        if self.state == "trial":
            assert breaker.FIRST_SHARE <= share <= 1.0
            if self.clock.now - self.changed_at >= breaker.RAMP:
                assert share == 1.0
        else:
            assert share == (1.0 if self.state == "admitted" else 0.0)
        assert (self.circuit.reason is None) == (self.state == "admitted")


def test_circuits_keep_to_the_model() -> None:
    run_state_machine_as_test(
        CircuitMachine,
        settings=settings(
            max_examples=100,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def looks_until_trial(circuit: Circuit) -> int:
    looks = 1
    while circuit.good() is None:
        looks += 1
    assert circuit.state == "trial"
    return looks


def test_a_host_that_falls_again_has_to_prove_itself_longer() -> None:
    clock = Clock()
    circuit = Circuit(clock)
    needed = []
    for _ in range(5):
        circuit.bad("refuses")
        needed.append(looks_until_trial(circuit))
    assert needed == [3, 6, 12, 24, 24]
    clock.now += breaker.RAMP
    circuit.good()
    clock.now += breaker.STEADY - 1
    circuit.bad("refuses")
    assert looks_until_trial(circuit) == 24
    clock.now += breaker.RAMP
    circuit.good()
    clock.now += breaker.STEADY
    circuit.bad("refuses")
    assert looks_until_trial(circuit) == 3


def test_a_trial_ends_by_a_good_look_and_grows_evenly() -> None:
    clock = Clock()
    circuit = Circuit(clock)
    circuit.bad("lag")
    looks_until_trial(circuit)
    shares = []
    for _ in range(5):
        shares.append(round(circuit.share, 3))
        clock.now += breaker.RAMP / 4
        if clock.now < 1000 + breaker.RAMP:
            assert circuit.good() is None
    assert shares == [0.1, 0.325, 0.55, 0.775, 1.0]
    assert circuit.state == "trial"
    assert circuit.good() == Change("trial", "admitted", "lag")


def test_another_reason_is_told_and_does_not_count_as_a_second_fall() -> None:
    circuit = Circuit(Clock())
    assert circuit.bad("lag") == Change("admitted", "evicted", "lag")
    assert circuit.bad("cut") == Change("evicted", "evicted", "cut")
    assert looks_until_trial(circuit) == breaker.GOOD_LOOKS


def test_a_host_that_falls_as_the_process_begins_has_not_fallen_before() -> None:
    circuit = Circuit(Clock())
    circuit.bad("lag")
    assert looks_until_trial(circuit) == breaker.GOOD_LOOKS
