"""The same failure, said once in a while, and how often it has come to pass."""

from __future__ import annotations

import pytest

from django_poolkit.pools import sparing
from django_poolkit.pools.sparing import AGAIN, Sparing


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the clock, to be put forward."""
    clock = [100.0]
    monkeypatch.setattr(sparing, "monotonic", lambda: clock[0])
    return clock


def test_the_first_is_said_at_once_and_the_next_after_a_while(now: list[float]) -> None:
    said = Sparing()
    assert said.times("refused") == 1
    assert [said.times("refused") for _ in range(5)] == [0] * 5
    now[0] += AGAIN
    assert said.times("refused") == 6
    assert said.times("refused") == 0


def test_another_text_is_said_at_once(now: list[float]) -> None:
    said = Sparing()
    assert [said.times(text) for text in ("refused", "silent", "refused", "silent")] == [1, 1, 0, 0]
    now[0] += AGAIN
    assert [said.times(text) for text in ("silent", "refused")] == [2, 2]


def test_texts_without_end_take_no_memory_without_end(now: list[float]) -> None:
    said = Sparing()
    for number in range(1000):
        assert said.times(f"refused {number}") == 1
    assert len(said._said) <= sparing._MOST
