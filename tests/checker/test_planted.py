"""The checker finds what it is there to find: each defect that somebody may well make some day."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checker.directed import BY_DEFECT, play
from tests.checker.servers import Servers
from tests.checker.verify import all_violations

_prepared: set[int] = set()


def violations_of(made: Servers, defect: str, planted: str, path: Path) -> set[str]:
    """Return which promises a directed run finds broken."""
    direction = BY_DEFECT[defect]
    history = play(made, direction, path, planted=planted, prepared=id(made) in _prepared)
    _prepared.add(id(made))
    assert all(op.outcome == "ok" for op in history.ops if op.name == "append"), history.ops
    return {each.promise for each in all_violations(history)}


@pytest.mark.parametrize("defect", BY_DEFECT)
def test_a_defect_is_found(made: Servers, defect: str, tmp_path: Path) -> None:
    found = violations_of(made, defect, defect, tmp_path / "history.jsonl")
    assert BY_DEFECT[defect].promise in found


@pytest.mark.slow
@pytest.mark.parametrize("defect", BY_DEFECT)
def test_without_it_nothing_is_found(made: Servers, defect: str, tmp_path: Path) -> None:
    assert violations_of(made, defect, "", tmp_path / "history.jsonl") == set()
