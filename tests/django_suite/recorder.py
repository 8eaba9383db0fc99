"""The test runner of the runs: Django's own, and it writes down what became of each test.

One line of JSON for each event, in the file that the variant names, at once: a run that
hangs or dies has said how far it came. With `--parallel` the process that started the others
hears of their tests, and writes.
"""

from __future__ import annotations

import json
import os
import sys
import unittest
from pathlib import Path
from typing import Any

from django.test import TestCase
from django.test.runner import DiscoverRunner

from tests.django_suite import bridging
from tests.django_suite.wiping import Wiper

_variant: dict[str, Any] = json.loads(os.environ["POOLKIT_DJANGO_SUITE"])
_notes = Path(_variant["notes"])
_MOST = 6_000
"""Characters kept of a failure: its end says what it was."""

_wiper = Wiper(_variant["server"])


def _without_transactions() -> None:
    """Have TestCase begin none: with it every test runs in one, and so on one lease."""

    def wipe(test: Any) -> None:
        _wiper.wipe(test._databases_names(include_mirrors=False))

    TestCase._databases_support_transactions = classmethod(lambda cls: False)  # type: ignore
    TestCase._fixture_teardown = wipe  # type: ignore


if _variant["autocommit"]:
    _without_transactions()


def note(**event: object) -> None:
    """Write an event down."""
    with _notes.open("a") as file:
        file.write(json.dumps(event) + "\n")


class RecordingResult(unittest.TextTestResult):
    """Says in the file what it says on the terminal."""

    def startTest(self, test: Any) -> None:
        """Note which test is under way."""
        note(start=test.id())
        super().startTest(test)

    def addSuccess(self, test: Any) -> None:
        """Note a pass."""
        super().addSuccess(test)
        note(test=test.id(), status="passed")

    def addExpectedFailure(self, test: Any, err: Any) -> None:
        """Note a failure that Django has marked as one: a pass."""
        super().addExpectedFailure(test, err)
        note(test=test.id(), status="passed")

    def addUnexpectedSuccess(self, test: Any) -> None:
        """Note a success that Django does not expect."""
        super().addUnexpectedSuccess(test)
        note(test=test.id(), status="failed", detail="unexpected success")

    def addSkip(self, test: Any, reason: str) -> None:
        """Note a skip."""
        super().addSkip(test, reason)
        note(test=test.id(), status="skipped", detail=reason)

    def addError(self, test: Any, err: Any) -> None:
        """Note an error, of a test or of what surrounds a class."""
        super().addError(test, err)
        note(test=test.id(), status="failed", detail=self.errors[-1][1][-_MOST:])

    def addFailure(self, test: Any, err: Any) -> None:
        """Note a failure."""
        super().addFailure(test, err)
        note(test=test.id(), status="failed", detail=self.failures[-1][1][-_MOST:])

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        """Note a part of a test that failed: as that of the whole."""
        super().addSubTest(test, subtest, err)
        if err is not None:
            text = (self.failures + self.errors)[-1][1]
            note(test=test.id(), status="failed", detail=f"{subtest}\n{text[-_MOST:]}")


class Recorder(DiscoverRunner):
    """Django's runner, with results that are written down."""

    def get_resultclass(self) -> Any:
        """Return the class of ours."""
        return RecordingResult

    def run_tests(self, test_labels: Any, **kwargs: Any) -> Any:
        """Run them, and say at the end that it was the end."""
        if _variant["way"] != "threads":
            bridging.turn_on(whole_tests=_variant["way"] == "bridge")
        failures = super().run_tests(test_labels, **kwargs)
        note(finished=True)
        return failures

    def run_suite(self, suite: Any, **kwargs: Any) -> Any:
        """Say how many tests there are, and when the databases are there."""
        note(total=suite.countTestCases())
        if _variant["autocommit"]:
            _wiper.look()
        return super().run_suite(suite, **kwargs)

    def teardown_databases(self, old_config: Any, **kwargs: Any) -> None:
        """Say what the pools did while they are there."""
        # Not loaded where the engine is Django's own. Forked processes have pools of their own.
        registry = sys.modules.get("django_poolkit.registry")
        if registry is not None and self.parallel == 1:
            note(leases=sum(pool.stats().acquired for pool in registry.pools))
        note(bridged=bridging.calls)
        _wiper.close()
        super().teardown_databases(old_config, **kwargs)
