"""`python3 -m tests --coverage`: which lines and branches of the package a run has passed.

In all processes: the tests start servers, commands and workers, and fork. What each has passed is
added up. How it is measured stands in `pyproject.toml`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parents[1] / ".poolkit" / "coverage"

_INTERRUPTS = "tests/scenarios/test_interrupts.py"
_LOCK = "tests/pools/bridge/test_lock.py"
# A tracer is loaded, recurses and forks beside the code, which these tests would take for it; and
# an interrupt may come while it has a lock, which nobody has any more then.
CHANGED_BY_IT = (
    "tests/conf/test_async_orm.py::test_a_project_that_does_not_turn_it_on_loads_none_of_it",
    "tests/conf/test_async_orm.py::test_a_start_without_greenlet_says_what_to_install",
    "tests/pools/bridge/test_driver.py::test_the_pools_load_no_bridge",
    f"{_LOCK}::test_connections_that_were_there_before_the_bridge_are_fitted",
    "tests/control/test_protocol.py::test_what_is_no_request_is_refused[too deep]",
    f"{_INTERRUPTS}::test_no_slot_is_lost_whatever_moment_an_interrupt_comes",
    f"{_INTERRUPTS}::test_an_interrupted_first_acquire_does_not_end_the_growth_of_a_pool",
)


def run(arguments: Sequence[str], folder: Path = FOLDER) -> int:
    """Run pytest with `arguments`, print what it passed, and write pages of it to `folder`.

    Returns the exit status of pytest; where that is 0 and everything was run, that of the report,
    which is 2 below the share that `pyproject.toml` demands.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Absolute: the processes that are measured work in folders of their own.
    environ = {**os.environ, "COVERAGE_FILE": str(folder / "coverage")}

    def coverage(*command: str) -> int:
        return subprocess.run(
            [sys.executable, "-m", "coverage", *command], env=environ, check=False
        ).returncode

    coverage("erase")
    unchanged = [f"--deselect={test}" for test in CHANGED_BY_IT]
    status = coverage("run", "-m", "pytest", "-p", "tests.skips", *unchanged, *arguments)
    coverage("combine", "--quiet")
    demanded = () if not arguments else ("--fail-under=0",)
    enough = coverage("report", *demanded)
    coverage("html", "--quiet", f"--directory={folder / 'html'}", "--fail-under=0")
    print(f"Line by line: {folder / 'html' / 'index.html'}", flush=True)
    return status or enough
