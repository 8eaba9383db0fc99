"""Compare what became of the same tests on two backends."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tests.django_suite.known import UNSTEADY, Known
from tests.django_suite.outcomes import Outcome, Outcomes
from tests.django_suite.variants import Mode, Way

_ABSENT = "not run"


@dataclass(frozen=True)
class Difference:
    """A test that the stock backend passes and ours does not; or otherwise, where that counts."""

    test: str
    stock: str
    """What became of it there: passed, skipped, failed, or not run."""
    ours: str
    detail: str
    """The end of the traceback, of whichever has one."""
    known: Known | None


@dataclass(frozen=True)
class Comparison:
    """What ours does otherwise than the stock backend."""

    differences: tuple[Difference, ...]
    gone: tuple[Known, ...]
    """Listed differences that no longer occur: both pass."""
    unknown: tuple[Known, ...]
    """Listed differences whose module was run, and the stock backend does not pass the test."""

    @property
    def new(self) -> tuple[Difference, ...]:
        """Those that are not listed."""
        return tuple(each for each in self.differences if each.known is None)


def compare(
    stock: Outcomes,
    ours: Outcomes,
    known: Iterable[Known],
    *,
    mode: Mode | None,
    series: str,
    both_ways: bool = False,
    way: Way = "threads",
) -> Comparison:
    """Return what `ours` does otherwise than `stock`.

    With `both_ways` a test that passes with ours alone is a difference as well: where most
    that fail want what both were denied, to pass is as suspicious.
    """
    expected = {each.test: each for each in known if each.applies(mode, series, way)}
    differences = []
    for test in sorted({*stock.tests, *ours.tests}):
        there, here = stock.tests.get(test), ours.tests.get(test)
        otherwise = both_ways and test not in UNSTEADY and _differ(here, there)
        if _differ(there, here) or otherwise:
            detail = next((each.detail for each in (here, there) if each and each.detail), "")
            differences.append(
                Difference(test, _word(there), _word(here), detail, expected.get(test))
            )
    modules = {module_of(test) for test in stock.tests}
    passed = {test for test, outcome in stock.tests.items() if outcome.status == "passed"}
    found = {each.test for each in differences}
    rest = [each for each in expected.values() if each.test not in found]
    return Comparison(
        tuple(differences),
        gone=tuple(each for each in rest if each.test in passed),
        unknown=tuple(
            each for each in rest if each.test not in passed and module_of(each.test) in modules
        ),
    )


def _differ(there: Outcome | None, here: Outcome | None) -> bool:
    if there is None:
        # What surrounds a class has a name of its own, and only where it fails.
        return here is not None and here.status == "failed"
    return there.status == "passed" and (here is None or here.status != "passed")


def _word(outcome: Outcome | None) -> str:
    return _ABSENT if outcome is None else outcome.status


def module_of(test: str) -> str:
    """Return the module in which a test stands, also of `setUpClass (module.Class)`."""
    name = test.partition("(")[2].rstrip(")") if "(" in test else test.rpartition(".")[0]
    return name.rpartition(".")[0]
