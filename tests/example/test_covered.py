"""`python3 -m tests --coverage`, on a module whose tests start another process and fork."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import covered

PACKAGE = """
def here():
    return 1
def elsewhere():
    return 2
def forked():
    return 3
def nowhere():
    return 4
"""
SUITE = """
import os, subprocess, sys
from django_poolkit import halves

def test_a_part():
    assert halves.here() == 1
    code = "from django_poolkit import halves; halves.elsewhere()"
    subprocess.run([sys.executable, "-c", code], check=True)
    if not (child := os.fork()):
        halves.forked()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""
MAIN = """
import sys
from pathlib import Path
from tests import covered
sys.exit(covered.run(sys.argv[1:], Path("out")))
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return one with a package of this name, so that our configuration can be used."""
    root = Path(covered.__file__).parents[1]
    package = tmp_path / "django_poolkit"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "halves.py").write_text(PACKAGE)
    (tmp_path / "test_halves.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nmarkers = slow\naddopts = -p no:django -p no:randomly -p no:django_poolkit\n"
    )
    own = (root / "pyproject.toml").read_text()
    (tmp_path / "pyproject.toml").write_text(own[own.index("[tool.coverage.run]") :])
    (tmp_path / "tests").symlink_to(root / "tests")
    return tmp_path


def run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
    return subprocess.run(
        [sys.executable, "-c", MAIN, "-p", "no:cacheprovider", *arguments],
        cwd=checkout,
        env={**environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_what_other_processes_pass_counts_and_what_nobody_passes_is_named(checkout: Path) -> None:
    result = run(checkout, "test_halves.py")
    assert "1 passed" in result.stdout, result.stdout + result.stderr
    [line] = [each for each in result.stdout.splitlines() if "poolkit/halves.py" in each]
    missing = PACKAGE.splitlines().index("    return 4") + 1
    assert line.split()[-1] == str(missing)
    assert result.returncode == 0, "of a part nothing is demanded"
    assert (checkout / "out" / "html" / "index.html").exists()


def test_a_failure_of_the_tests_is_one_of_the_run(checkout: Path) -> None:
    (checkout / "test_halves.py").write_text("def test_fails(): assert False\n")
    assert run(checkout, "test_halves.py").returncode == 1


def test_the_tests_that_are_left_out_exist() -> None:
    for test in covered.CHANGED_BY_IT:
        path, _, name = test.partition("::")
        assert (
            f"def {name.partition('[')[0]}("
            in (Path(covered.__file__).parents[1] / path).read_text()
        )
