"""What a process remembers of its last minutes is bounded, and is what somebody wants to know."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from django_poolkit import registry
from django_poolkit.control import lately as module
from django_poolkit.control.lately import MOST_EVENTS, Lately
from django_poolkit.pools.postgres import ConnectionPool


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, by both clocks; a test sets it."""
    now = [1000.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


def kept(lately: Lately) -> list[tuple[str, str | None, int]]:
    return [(each["event"], each["reason"], each["count"]) for each in lately.events()]


def test_the_same_within_a_while_is_told_once(clock: list[float]) -> None:
    lately = Lately()
    for _ in range(3):
        lately.observe("pool_timeout", {"pool": "default", "kind": "timeout", "waited": 5.0})
        clock[0] += 6.0
    lately.observe("pool_timeout", {"pool": "default", "kind": "paused", "waited": 5.0})
    lately.observe("pool_timeout", {"pool": "other", "kind": "timeout", "waited": 5.0})
    assert kept(lately) == [
        ("pool_timeout", "timeout", 3), ("pool_timeout", "paused", 1),
        ("pool_timeout", "timeout", 1),
    ]  # fmt: skip
    clock[0] += 10.1
    lately.observe("pool_timeout", {"pool": "default", "kind": "timeout", "waited": 5.0})
    assert len(kept(lately)) == 4


def test_what_happens_while_all_is_well_is_not_kept(clock: list[float]) -> None:
    lately = Lately()
    lately.observe("connection_opened", {"pool": "default", "seconds": 0.1})
    lately.observe("connection_closed", {"pool": "default", "reason": "max_lifetime"})
    lately.observe("pin", {"pool": "default", "reason": "set"})
    assert kept(lately) == []
    lately.observe("connection_closed", {"pool": "default", "reason": "dead"})
    assert kept(lately) == [("connection_closed", "dead", 1)]


def test_the_newest_events_are_kept(clock: list[float]) -> None:
    lately = Lately()
    for number in range(MOST_EVENTS + 5):
        lately.note(f"pool {number}", "pause")
    assert next(each["pool"] for each in lately.events()) == "pool 5"
    assert len(lately.events()) == MOST_EVENTS


def test_samples_of_ten_minutes_are_kept(
    clock: list[float],
    make_pool: Callable[..., ConnectionPool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lately, pool = Lately(), make_pool(min_size=0, max_size=3)
    monkeypatch.setattr(registry, "measured", lambda: iter([pool]))
    with pool.lease():
        lately.sample()
        clock[0] += 5.0
        assert lately.of(pool) == [(5.0, 1, 3, 0)]
    for _ in range(300):
        lately.sample()
        clock[0] += 5.0
    samples = lately.of(pool)
    assert samples[0][0] <= 600.0
    assert [sample[1:] for sample in samples] == [(0, 3, 0)] * len(samples)
    assert 115 <= len(samples) <= 130


def test_a_child_begins_anew(clock: list[float]) -> None:
    lately: Any = Lately()
    lately.note("default", "pause")
    lately.after_fork()
    assert lately.events() == []
