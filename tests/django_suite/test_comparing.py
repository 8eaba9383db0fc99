"""The comparison with Django's backend finds what is different, and only that."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest

from tests.django_suite import judging
from tests.django_suite.comparing import Comparison, compare
from tests.django_suite.known import IN_BRIDGE, KIND, KNOWN, Known
from tests.django_suite.outcomes import Outcome, Outcomes, Status
from tests.django_suite.report import Ran, Report
from tests.django_suite.variants import STOCK, Variant
from tests.docs_support import DOCS

LISTED = Known("cats.tests.CatTests.test_purrs", "that a cat purrs at once", django=("6.1",))


def outcomes(**tests: Status) -> Outcomes:
    """What became of tests of one class, by their short names."""
    ended = {name: Outcome(status, f"{name}: {status}") for name, status in tests.items()}
    return Outcomes(tests={f"cats.tests.CatTests.test_{k}": v for k, v in ended.items()})


def found(
    stock: Outcomes, ours: Outcomes, known: Iterable[Known] = (), *, both_ways: bool = False
) -> Comparison:
    return compare(stock, ours, known, mode="session", series="6.1", both_ways=both_ways)


def report(comparison: Comparison) -> Report:
    shown = Report({"Django": "6.1"}, "telling", False, 1, ())
    shown.runs.append(Ran(Variant("session"), Outcomes(), comparison))
    return shown


@pytest.mark.parametrize("status", ["failed", "skipped"])
def test_a_test_that_passes_with_stock_alone_is_a_difference(status: Status) -> None:
    comparison = found(
        outcomes(purrs="passed", naps="passed"), outcomes(purrs=status, naps="passed")
    )
    [difference] = comparison.new
    assert difference.test == "cats.tests.CatTests.test_purrs"
    assert (difference.stock, difference.ours) == ("passed", status)
    assert report(comparison).failed
    text = "\n".join(report(comparison).lines())
    assert f"DIFFERENT: {difference.test}: passed with stock, {status} here" in text
    assert f"| purrs: {status}" in text


def test_a_test_that_is_not_run_is_a_difference() -> None:
    [difference] = found(outcomes(purrs="passed", naps="passed"), outcomes(purrs="passed")).new
    assert (difference.test, difference.ours) == ("cats.tests.CatTests.test_naps", "not run")


def test_a_class_that_cannot_be_set_up_is_a_difference_of_its_own() -> None:
    ours = outcomes(purrs="passed")
    ours.tests["tearDownClass (cats.tests.CatTests)"] = Outcome("failed", "a lease was left")
    [difference] = found(outcomes(purrs="passed"), ours).new
    assert (difference.stock, difference.detail) == ("not run", "a lease was left")


def test_what_stock_does_not_pass_is_no_difference() -> None:
    stock = outcomes(purrs="failed", naps="skipped", eats="failed")
    ours = outcomes(purrs="failed", naps="passed", eats="passed")
    assert not found(stock, ours).differences


def test_in_autocommit_the_same_tests_have_to_fail() -> None:
    comparison = found(outcomes(eats="failed"), outcomes(eats="passed"), both_ways=True)
    [difference] = comparison.new
    assert (difference.stock, difference.ours) == ("failed", "passed")


def test_a_listed_difference_is_told_with_its_reason_and_does_not_fail() -> None:
    comparison = found(outcomes(purrs="passed"), outcomes(purrs="failed"), [LISTED])
    assert [each.known for each in comparison.differences] == [LISTED]
    assert not report(comparison).failed
    text = " ".join(" ".join(report(comparison).lines()).split())
    assert f"listed: {LISTED.test} {LISTED.reason}" in text


def test_a_listed_difference_that_no_longer_occurs_is_told() -> None:
    comparison = found(outcomes(purrs="passed"), outcomes(purrs="passed"), [LISTED])
    assert comparison.gone == (LISTED,)
    assert not report(comparison).failed
    assert f"NO LONGER: {LISTED.test}" in "\n".join(report(comparison).lines())


def test_a_listed_test_that_stock_does_not_pass_is_told() -> None:
    assert found(outcomes(naps="passed"), outcomes(naps="passed"), [LISTED]).unknown == (LISTED,)


def test_a_listed_test_of_a_module_that_was_not_run_is_not_told() -> None:
    other = Outcomes(tests={"dogs.tests.DogTests.test_barks": Outcome("passed")})
    comparison = found(other, other, [LISTED])
    assert (comparison.gone, comparison.unknown) == ((), ())


@pytest.mark.parametrize(
    "known",
    [
        Known(LISTED.test, LISTED.detail, modes=("transaction",)),
        Known(LISTED.test, LISTED.detail, django=("5.2",)),
    ],
)
def test_a_difference_that_is_listed_for_others_is_a_new_one(known: Known) -> None:
    assert found(outcomes(purrs="passed"), outcomes(purrs="failed"), [known]).new


def test_the_list_gives_one_kind_of_reason() -> None:
    assert KNOWN
    assert len({each.test for each in KNOWN}) == len(KNOWN)
    for each in KNOWN:
        assert each.reason.startswith(f"{KIND}: ")
        assert len(each.detail) > 20
        assert set(each.django) <= {"5.2", "6.0", "6.1"}


def test_the_page_has_the_list() -> None:
    text = (DOCS / "reference/django-suite.md").read_text()
    section = text.split("\n## The list\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(.*?)` \| (.*?) \|$", section, re.MULTILINE)
    assert rows == [(each.test, each.detail) for each in KNOWN]


def test_the_page_has_what_cannot_be_in_the_bridge() -> None:
    text = (DOCS / "reference/django-suite.md").read_text()
    section = text.split("\n## Async methods, and the bridge\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([a-z_.A-Z]*?)` \| (.*?) \|$", section, re.MULTILINE)
    assert rows == [(each.test, each.detail) for each in IN_BRIDGE]
    for each in IN_BRIDGE:
        assert each.applies("transaction", "6.1", "bridge")
        assert not each.applies("transaction", "6.1", "async")
        assert not each.applies("transaction", "6.1")


# -- a second look


def judged(*runs: Outcomes, stock: Outcomes) -> tuple[Ran, int]:
    left = list(runs)
    ran = judging.judge_mode(stock, lambda _: left.pop(0), "session", series="6.1")
    return ran, len(runs) - len(left)


def test_what_is_different_in_one_run_alone_is_named_and_does_not_fail() -> None:
    stock = outcomes(purrs="passed", naps="passed")
    first = outcomes(purrs="failed", naps="failed")
    ran, times = judged(first, outcomes(purrs="passed", naps="failed"), stock=stock)
    assert times == 2
    assert ran.comparison is not None
    assert [each.test[-5:] for each in ran.comparison.new] == ["_naps"]
    assert [each.test[-5:] for each in ran.unsteady] == ["purrs"]
    shown = report(ran.comparison)
    shown.runs[:] = [Ran(STOCK, stock), ran]
    assert "FLAKY: cats.tests.CatTests.test_purrs" in "\n".join(shown.lines())
    assert shown.as_json()["runs"][1]["unsteady"] == ["cats.tests.CatTests.test_purrs"]


@pytest.mark.parametrize("different", [0, judging.MOST + 1])
def test_no_second_look_at_none_and_at_many(different: int) -> None:
    names = [f"cats.tests.CatTests.test_{number}" for number in range(different)]
    stock = Outcomes(tests=dict.fromkeys(names, Outcome("passed")))
    ours = Outcomes(tests=dict.fromkeys(names, Outcome("failed")))
    ran, times = judged(ours, stock=stock)
    assert times == 1
    assert ran.comparison is not None
    assert len(ran.comparison.new) == different
