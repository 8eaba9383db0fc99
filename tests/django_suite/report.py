"""What is shown of a comparison: a table and its findings, or JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.django_suite.comparing import Comparison, Difference
from tests.django_suite.outcomes import Outcomes
from tests.django_suite.variants import Variant

_SHOWN = 25
"""Lines of a traceback that are shown."""


@dataclass(frozen=True)
class Ran:
    """One backend's run, and how it compares."""

    variant: Variant
    outcomes: Outcomes
    comparison: Comparison | None = None
    """None for the stock backend."""
    unsteady: tuple[Difference, ...] = ()
    """Differences that a second run did not show."""
    kept: bool = False
    """Whether the outcomes were kept from an earlier run."""


@dataclass
class Report:
    """All runs of one start."""

    versions: dict[str, str]
    wanted: str
    """The set, or the labels, that were asked for."""
    autocommit: bool
    parallel: int
    left_out: tuple[str, ...]
    runs: list[Ran] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether there is a difference that is not listed."""
        return any(ran.comparison and ran.comparison.new for ran in self.runs)

    def lines(self) -> Iterator[str]:
        """Yield the report for people."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        how = "without TestCase's transactions" if self.autocommit else "as Django runs it"
        processes = f", in {self.parallel} processes" if self.parallel > 1 else ""
        yield f"{versions}: {self.wanted}, {how}{processes}"
        if self.left_out:
            yield f"left out, for the server has no ICU: {', '.join(self.left_out)}"
        yield ""
        yield from self._table()
        for ran in self.runs:
            if ran.comparison is not None:
                yield ""
                yield from _findings(ran, ran.comparison)

    def _table(self) -> Iterator[str]:
        yield f"{'backend':<12}{'passed':>8}{'skipped':>9}{'failed':>8}{'leases':>9}{'seconds':>9}"
        for ran in self.runs:
            done = ran.outcomes
            leases = "-" if done.leases is None else f"{done.leases:,}"
            counts = (done.count("passed"), done.count("skipped"), done.count("failed"))
            numbers = "{:>8,}{:>9,}{:>8,}".format(*counts)
            kept = "  (kept from an earlier run)" if ran.kept else ""
            yield f"{ran.variant.name:<12}{numbers}{leases:>9}{done.seconds:>9.0f}{kept}"

    def as_json(self) -> dict[str, Any]:
        """Return the same for a program; its shape stands in the reference."""
        return {
            "versions": self.versions,
            "labels": self.wanted,
            "left_out": list(self.left_out),
            "autocommit": self.autocommit,
            "parallel": self.parallel,
            "failed": self.failed,
            "runs": [_run_as_json(ran) for ran in self.runs],
        }


def _findings(ran: Ran, found: Comparison) -> Iterator[str]:
    name, listed = ran.variant.name, len(found.differences) - len(found.new)
    yield f"{name}: {len(found.new)} differences, and {listed} that are listed"
    if ran.outcomes.bridged:
        yield f"  {ran.outcomes.bridged:,} calls ran in the bridge"
    for each in found.differences:
        if each.known is None:
            yield f"  DIFFERENT: {each.test}: {each.stock} with stock, {each.ours} here"
            yield from (f"    | {line}" for line in each.detail.splitlines()[-_SHOWN:])
        else:
            yield f"  listed: {each.test}"
            yield from textwrap.wrap(each.known.reason, 90, initial_indent=" " * 10,
                                     subsequent_indent=" " * 10)  # fmt: skip
    for each in ran.unsteady:
        yield f"  FLAKY: {each.test} was different, and not in a second run"
    for known in found.gone:
        yield f"  NO LONGER: {known.test} is listed, and passes: take it off the list"
    for known in found.unknown:
        yield f"  NOT THERE: {known.test} is listed, and the stock backend does not pass it"


def _run_as_json(ran: Ran) -> dict[str, Any]:
    done = ran.outcomes
    run: dict[str, Any] = {
        "backend": ran.variant.name,
        **{word: done.count(word) for word in ("passed", "skipped", "failed")},
        "leases": done.leases,
        "bridged": done.bridged,
        "seconds": round(done.seconds, 1),
        "kept": ran.kept,
    }
    if (found := ran.comparison) is not None:
        run["differences"] = [
            {
                "test": each.test,
                "stock": each.stock,
                "ours": each.ours,
                "listed": each.known.reason if each.known else None,
                "detail": each.detail,
            }
            for each in found.differences
        ]
        run["unsteady"] = [each.test for each in ran.unsteady]
        run["no_longer"] = [each.test for each in found.gone]
        run["not_there"] = [each.test for each in found.unknown]
    return run
