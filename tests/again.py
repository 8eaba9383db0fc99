"""A second look at the few tests of a whole run that have failed, as CPython's `--rerun` takes one.

Many tests drive real servers and processes on whatever machine there is, and what has failed for
want of it passes when it runs alone. So up to three of them are run once more, in a process of
their own; what fails again has failed. What passes then is named at the end of the run, for it
is to be mended all the same. Tests that look for races by chance get no second look: what one of
these finds even once is a defect.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest

MOST = 3
BY_CHANCE = ("stress", "model")
"""Words in the names of tests whose failure says enough."""
WHOLE = frozenset({"--slow", "-m", "core", "not slow"})
"""What a run may be asked for beside everything. Who names tests wants to see what they do."""


class Failures:
    """A pytest plugin that remembers which tests have failed."""

    def __init__(self) -> None:
        self.tests: list[str] = []
        self.others = 0
        """How much else failed the run, as a module that cannot be imported."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take note of a test that failed in any of its phases."""
        if report.failed and report.nodeid not in self.tests:
            self.tests.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Take note of what could not be collected."""
        self.others += report.failed

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Take note of skips that are not allowed."""
        policy = session.config.pluginmanager.get_plugin("skip-policy")
        self.others += len(policy.refused) if policy else 0

    def worth_another_look(self) -> bool:
        """Return whether they are few, and none of them is a finding as it is."""
        return (
            0 < len(self.tests) <= MOST
            and not self.others
            and not any(word in test for test in self.tests for word in BY_CHANCE)
        )


def run(arguments: Sequence[str]) -> int:
    """Run pytest, and what failed once more where that is due. Returns the exit status."""
    failures = Failures()
    status = int(pytest.main(["-p", "tests.skips", *arguments], plugins=[failures]))
    due = status == pytest.ExitCode.TESTS_FAILED and set(arguments) <= WHOLE
    if not due or not failures.worth_another_look():
        return status
    print(f"\nOnce more, alone: {len(failures.tests)} that failed.", flush=True)
    command = [sys.executable, "-m", "pytest", "-p", "tests.skips", "--slow", *failures.tests]
    if again := subprocess.run(command, check=False).returncode:
        return again
    print("\nFLAKY: failed, and passed when run alone. Each of these wants to be mended:")
    print(*failures.tests, sep="\n", flush=True)
    return 0
