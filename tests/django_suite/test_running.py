"""A run is followed to its end, and one that has none is told from one that has."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import Any

import pytest

from django_poolkit.testing import Node
from tests.django_suite import __main__ as program
from tests.django_suite import labels, running
from tests.django_suite.outcomes import Outcome, Outcomes
from tests.django_suite.report import Report
from tests.django_suite.source import Source, SuiteError
from tests.django_suite.variants import STOCK, Variant

STARTED = """
    import json, os, subprocess, sys, time
    given = json.loads(os.environ["POOLKIT_DJANGO_SUITE"])

    def note(**event):
        with open(given["notes"], "a") as file:
            file.write(json.dumps(event) + "\\n")

    note(total=2)
    note(start="cats.test_purrs")
    note(test="cats.test_purrs", status="passed")
    note(start="cats.test_naps")
"""


def run(
    tmp_path: Path, node: Node, then: str, variant: Variant = STOCK, said: list[Any] | None = None
) -> Outcomes:
    """Run a program in the place of Django's."""
    (tmp_path / "tests").mkdir()
    program = textwrap.dedent(STARTED) + textwrap.dedent(then)
    (tmp_path / "tests" / "runtests.py").write_text(program)
    task = running.Task(Source(tmp_path, "digest"), ("cats",))
    told: list[Any] = [] if said is None else said

    def say(done: Outcomes, seconds: float) -> None:
        told.append((done.total, len(done.tests)))

    return running.run(task, variant, node, tmp_path / "log", say)


def test_what_a_run_writes_down_is_what_became_of_it(tmp_path: Path, primary: Node) -> None:
    said: list[Any] = []
    then = """
        note(test="cats.test_naps", status="failed", detail="part 1")
        note(test="cats.test_naps", status="passed")
        note(leases=7)
        note(finished=True)
    """
    done = run(tmp_path, primary, then, said=said)
    assert done.tests == {
        "cats.test_purrs": Outcome("passed"),
        "cats.test_naps": Outcome("failed", "part 1"),
    }
    assert (done.leases, done.total, said[-1]) == (7, 2, (2, 2))
    done.save(tmp_path / "kept.json")
    assert Outcomes.load(tmp_path / "kept.json") == done


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_run_is_given_the_mode(tmp_path: Path, primary: Node, mode: Any) -> None:
    then = """
        note(test=json.dumps(given["database"]["OPTIONS"]), status="passed")
        note(test=given["database"]["ENGINE"], status="passed")
        note(finished=True)
    """
    done = run(tmp_path, primary, then, Variant(mode))
    assert f'{{"pool": {{"mode": "{mode}"}}}}' in done.tests
    assert "django_poolkit.backends.postgresql" in done.tests


def test_a_run_that_dies_is_no_result(tmp_path: Path, primary: Node) -> None:
    with pytest.raises(SuiteError) as caught:
        run(tmp_path, primary, "print('out of cats'); sys.exit(3)")
    first, *rest = str(caught.value).splitlines()
    assert first == "stock: the run ended with status 3, after 1 tests, in cats.test_naps"
    assert rest == ["  | out of cats", f"The whole output is in {tmp_path / 'log'}"]


def test_a_run_without_tests_is_no_result(tmp_path: Path, primary: Node) -> None:
    with pytest.raises(SuiteError, match="found no tests"):
        run(tmp_path, primary, 'open(given["notes"], "w").close(); note(finished=True)')


def test_a_run_that_hangs_is_ended_with_all_that_it_has_started(
    tmp_path: Path, primary: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "STALLED", 1.0)
    then = """
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(child.pid, flush=True)
        child.wait()
    """
    with pytest.raises(SuiteError, match=r"did nothing for 1 s, after 1 tests, in cats.test_naps"):
        run(tmp_path, primary, then)
    child = int((tmp_path / "log").read_text())
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def suite(tmp_path: Path) -> Source:
    for name in (*labels.TELLING, *labels.ORM, "gis_tests", "inspectdb", "version"):
        folder = tmp_path / "tests" / name.partition(".")[0]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").touch()
    return Source(tmp_path, "digest")


def test_a_set_is_what_this_django_and_this_server_have_of_it(tmp_path: Path) -> None:
    source = suite(tmp_path)
    assert labels.choose(["telling"], source, icu=True).labels == labels.TELLING
    database = labels.choose(["database"], source, icu=False)
    assert "queries" in database.labels
    assert database.left_out == ("inspectdb",)
    whole = labels.choose(["whole"], source, icu=True)
    assert {"inspectdb", "version"} <= set(whole.labels)
    assert "gis_tests" not in whole.labels
    (tmp_path / "tests/update/__init__.py").unlink()
    assert "update" not in labels.choose(["orm"], source, icu=True).labels
    with pytest.raises(SuiteError, match=r"suite has no update\.tests;"):
        labels.choose(["update.tests", "queries"], source, icu=True)


@pytest.mark.parametrize("failed", [False, True])
def test_the_exit_code_and_the_report_say_the_same(
    failed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = Report({}, "telling", False, 1, ())
    monkeypatch.setattr(Report, "failed", failed)
    monkeypatch.setattr(program, "compare_all", lambda options: report)
    options = program.parser().parse_args(["--json", str(tmp_path / "report")])
    assert program.main(options) == int(failed)
    assert f'"failed": {str(failed).lower()}' in (tmp_path / "report").read_text()


def test_what_could_not_be_run_has_an_exit_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(options: argparse.Namespace) -> Report:
        raise SuiteError("no network")

    monkeypatch.setattr(program, "compare_all", fail)
    assert program.main(program.parser().parse_args([])) == 3
    assert capsys.readouterr().err == "error: no network\n"


def test_progress_is_told_now_and_then_and_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    say = program.Progress().of(STOCK)
    done = Outcomes(total=2)
    for seconds in (0.0, 1.0, 21.0):
        say(done, seconds)
    done.tests["cats.test_purrs"] = Outcome("failed")
    done.finished = True
    say(done, 22.0)
    say(done, 23.0)
    assert capsys.readouterr().err.splitlines() == [
        "stock: 0 of 2 tests after 0 s",
        "stock: 0 of 2 tests after 21 s",
        "stock: 1 of 2 tests after 22 s, 1 failed",
    ]
