"""The limit of open files: raised as far as it must be, and no further."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from example_project.flood import prepare
from example_project.limits import SPARE, LimitTooLow, raise_file_limit
from example_project.options import parse

ROOT = Path(__file__).parents[2]

_CHILD = """
import resource, subprocess, sys
from example_project.limits import raise_file_limit
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
raise_file_limit(500)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], flush=True)
subprocess.run(["sh", "-c", "ulimit -Sn"], check=True)
raise_file_limit(100)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


class Limits:
    """The system's limits, without touching those of the tests."""

    def __init__(self, soft: int, hard: int, *, may_raise: bool) -> None:
        self.now = (soft, hard)
        self._may_raise = may_raise

    def get(self, which: int) -> tuple[int, int]:
        assert which == resource.RLIMIT_NOFILE
        return self.now

    def set(self, which: int, wanted: tuple[int, int]) -> None:
        if wanted[1] > self.now[1] and not self._may_raise:
            raise ValueError("not allowed to raise maximum limit")
        self.now = wanted


@pytest.fixture
def limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Limits:
    found = Limits(*request.param[:2], may_raise=request.param[2])
    monkeypatch.setattr(resource, "getrlimit", found.get)
    monkeypatch.setattr(resource, "setrlimit", found.set)
    return found


def test_a_process_and_those_it_starts_may_have_more_files_open():
    done = subprocess.run(
        [sys.executable, "-c", _CHILD], cwd=ROOT, capture_output=True, text=True, check=True
    )

    # And nothing takes it back.
    assert done.stdout.split() == [str(500 + SPARE)] * 3


@pytest.mark.parametrize("limits", [(1024, 4096, False)], indirect=True)
def test_a_hard_limit_that_is_too_low_is_said_with_what_to_do(limits: Limits):
    with pytest.raises(LimitTooLow) as caught:
        raise_file_limit(10_000)

    text = str(caught.value)
    assert f"10,000 connections need {10_000 + SPARE:,} open files" in text
    assert "the hard limit is 4,096" in text
    assert f"ulimit -Hn {10_000 + SPARE}" in text
    assert limits.now == (1024, 4096)


@pytest.mark.parametrize("limits", [(1024, 4096, True)], indirect=True)
def test_who_may_raise_the_hard_limit_has_it_raised(limits: Limits):
    raise_file_limit(10_000)

    assert limits.now == (10_000 + SPARE, 10_000 + SPARE)


@pytest.mark.parametrize(
    "limits",
    [(20_000, 20_000, False), (resource.RLIM_INFINITY, resource.RLIM_INFINITY, False)],
    indirect=True,
)
def test_what_is_enough_is_left_alone(limits: Limits):
    before = limits.now
    raise_file_limit(10_000)

    assert limits.now == before


@pytest.mark.parametrize("limits", [(1024, resource.RLIM_INFINITY, False)], indirect=True)
def test_a_flood_asks_for_its_clients_and_for_what_the_site_asks_itself(limits: Limits):
    prepare(parse([]))
    assert limits.now[0] == 1024

    prepare(parse(["--flood", "5000", "--beside", "500"]))
    assert limits.now == (5_000 + 1_000 + 20 + SPARE, resource.RLIM_INFINITY)
