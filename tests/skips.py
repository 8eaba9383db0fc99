"""What a run of the tests may leave out. Loaded by `python3 -m tests` as a pytest plugin.

Slow tests are left out unless `--slow` (or `-m slow`) asks for them. A test may skip itself
only where `allowed_skips.txt` says so: a skip nobody knows of is a test nobody runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ALLOWED = Path(__file__).with_name("allowed_skips.txt")


@dataclass(frozen=True)
class AllowedSkip:
    """One line of the list: which tests, and the words their reason must contain."""

    tests: str
    reason: str

    def covers(self, test: str, reason: str) -> bool:
        """Tell whether this line allows `test` to be skipped for `reason`."""
        return fnmatchcase(test, self.tests) and self.reason in reason


def read_allowed(path: Path = ALLOWED) -> list[AllowedSkip]:
    """Return the lines of the list. Raises ValueError for one that gives no reason."""
    allowed = []
    for line in path.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        tests, separator, reason = (part.strip() for part in line.partition(" -- "))
        if not separator or not tests or not reason:
            raise ValueError(f"{path.name}: no 'TESTS -- REASON': {line}")
        allowed.append(AllowedSkip(tests, reason))
    return allowed


class SkipPolicy:
    """Fails the run for each skip that is not on the list."""

    def __init__(self, allowed: Iterable[AllowedSkip]) -> None:
        self._allowed = list(allowed)
        self.refused: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Look at each phase of each test."""
        self._look_at(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Look at each module, which may be skipped as a whole."""
        self._look_at(report)

    def _look_at(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        # An expected failure is reported as a skip, too; that one is strict anyway.
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(allowed.covers(report.nodeid, reason) for allowed in self._allowed):
            self.refused.append(f"{report.nodeid}: {reason}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Turn a passed run into a failed one."""
        if self.refused and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say which skips were not allowed."""
        if self.refused:
            terminalreporter.section(f"skips that {ALLOWED.name} does not allow", red=True)
            for line in self.refused:
                terminalreporter.write_line(line)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer --slow."""
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well")


def pytest_configure(config: pytest.Config) -> None:
    """Watch the skips, in the process that reports them."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(SkipPolicy(read_allowed()), "skip-policy")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave slow tests out, beside whatever else -m and -k select."""
    asked_for = re.search(r"\bslow\b", config.getoption("markexpr"))
    if config.getoption("slow") or asked_for:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
