"""The second look at tests that have failed, tried in runs of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAIN = "import sys; from tests import again; sys.exit(again.run(sys.argv[1:]))"
FAILS_ONCE = """
from pathlib import Path

def test_{0}():
    seen = Path(__file__).with_name("{0}")
    if not seen.exists():
        seen.touch()
        raise AssertionError("the first time")
"""
FAILS = "def test_fails(): assert False\n"
PASSES = "def test_passes(): pass\n"
SKIPPED = "import pytest\ndef test_skips(): pytest.skip('no such library')\n"


def run(folder: Path, suite: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `suite` as `python3 -m tests` does, with nothing else of ours."""
    (folder / "pytest.ini").write_text(
        "[pytest]\nmarkers =\n    slow\n    core\naddopts = -p no:django -p no:randomly\n"
    )
    (folder / "test_suite.py").write_text(suite)
    return subprocess.run(
        [sys.executable, "-c", MAIN, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )


def once(*names: str) -> str:
    return "".join(FAILS_ONCE.format(name) for name in names)


def test_what_passes_alone_passes_and_is_named(tmp_path):
    result = run(tmp_path, once("a", "b", "c") + PASSES)

    assert result.returncode == 0, result.stdout + result.stderr
    assert "3 failed, 1 passed" in result.stdout
    named = result.stdout.partition("FLAKY")[2]
    assert named.count("test_suite.py::") == 3
    assert "test_suite.py::test_passes" not in named


@pytest.mark.parametrize(
    ("suite", "arguments"),
    [
        (once("a") + FAILS, []),
        (once("a", "b", "c", "d"), []),
        (once("model_a"), []),
        (once("a_stress"), []),
        (once("a"), ["-k", "a"]),
        (once("a"), ["test_suite.py"]),
        (once("a") + SKIPPED, []),
    ],
    ids=["one fails again", "many", "a model", "stress", "by a word", "by a file", "and a skip"],
)
def test_what_else_fails_has_failed(tmp_path, suite, arguments):
    result = run(tmp_path, suite, *arguments)

    assert result.returncode == 1, result.stdout + result.stderr
    assert "FLAKY" not in result.stdout


def test_a_module_that_cannot_be_imported_has_failed(tmp_path):
    (tmp_path / "test_broken.py").write_text("import nothing_of_that_name\n")
    result = run(tmp_path, once("a"))

    assert result.returncode == pytest.ExitCode.INTERRUPTED
    assert "FLAKY" not in result.stdout


def test_a_run_that_passes_is_not_repeated(tmp_path):
    result = run(tmp_path, PASSES)

    assert result.returncode == 0
    assert "Once more" not in result.stdout
