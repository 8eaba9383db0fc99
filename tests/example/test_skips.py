"""The rule about what a run of the tests may leave out, tried in runs of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.skips import AllowedSkip, read_allowed

SUITE = """
import pytest

def test_passes():
    pass

@pytest.mark.slow
def test_slow():
    pass

@pytest.mark.core
def test_core():
    pass

@pytest.mark.core
@pytest.mark.slow
def test_core_and_slow():
    pass
"""

ROOT = Path(__file__).parents[2]


def run(folder: Path, suite: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `suite` in a pytest of its own that knows the rule and nothing else of ours."""
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow\n    core\n")
    (folder / "test_suite.py").write_text(suite)
    command = [sys.executable, "-m", "pytest", "-p", "tests.skips", "-p", "no:django"]
    command += ["-p", "no:randomly", "-p", "no:cacheprovider", "-q", "-rA", *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )


def passed(output: str) -> set[str]:
    return {line.split("::")[1] for line in output.splitlines() if line.startswith("PASSED")}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {"test_passes", "test_core"}),
        (["--slow"], {"test_passes", "test_slow", "test_core", "test_core_and_slow"}),
        (["-m", "core"], {"test_core"}),
        (["-mcore"], {"test_core"}),
        (["-m", "core", "--slow"], {"test_core", "test_core_and_slow"}),
        (["-m", "slow"], {"test_slow", "test_core_and_slow"}),
        (["-m", "core or not core"], {"test_passes", "test_core"}),
    ],
)
def test_slow_tests_are_left_out_unless_asked_for(tmp_path, arguments, expected):
    result = run(tmp_path, SUITE, *arguments)

    assert result.returncode == 0, result.stdout + result.stderr
    assert passed(result.stdout) == expected


SKIPS = {
    "in a test": "import pytest\ndef test_a():\n    pytest.skip('no such library')\n",
    "by a mark": "import pytest\n@pytest.mark.skip(reason='no such library')\ndef test_a(): pass\n",
    "of a whole module": "import pytest\npytest.skip('no such library', allow_module_level=True)\n",
    "in a fixture": (
        "import pytest\n@pytest.fixture\ndef library(): pytest.skip('no such library')\n"
        "def test_a(library): pass\n"
    ),
}


@pytest.mark.parametrize("where", SKIPS)
def test_a_skip_that_is_not_on_the_list_fails_the_run(tmp_path, where):
    result = run(tmp_path, SKIPS[where] + "\n", "--continue-on-collection-errors")
    also_a_pass = run(tmp_path, SKIPS[where] + "\n")

    # A module that skips itself leaves no test: pytest's own code for that stands.
    assert result.returncode == (5 if where == "of a whole module" else 1)
    assert also_a_pass.returncode == result.returncode
    assert "allowed_skips.txt does not allow" in result.stdout
    assert "no such library" in result.stdout


def test_an_expected_failure_is_no_skip(tmp_path):
    suite = "import pytest\n@pytest.mark.xfail(strict=True)\ndef test_a(): assert False\n"

    assert run(tmp_path, suite).returncode == 0


def test_a_line_allows_only_its_tests_and_only_for_its_reason():
    line = AllowedSkip("tests/aio/*::test_bridge*", "greenlet is missing")

    assert line.covers("tests/aio/test_orm.py::test_bridge_reads", "Skipped: greenlet is missing")
    assert not line.covers("tests/aio/test_orm.py::test_other", "Skipped: greenlet is missing")
    assert not line.covers("tests/aio/test_orm.py::test_bridge_reads", "Skipped: broken")


def test_a_line_without_a_reason_is_refused(tmp_path):
    path = tmp_path / "allowed.txt"
    path.write_text("# comment\n\ntests/a.py::* -- no library\ntests/b.py::*\n")

    with pytest.raises(ValueError, match=r"allowed.txt: no 'TESTS -- REASON': tests/b.py"):
        read_allowed(path)


def test_the_list_of_this_project_can_be_read():
    assert all(line.tests and line.reason for line in read_allowed())
