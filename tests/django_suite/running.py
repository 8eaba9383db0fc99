"""Run Django's suite on one backend, in a process of its own, and follow it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from django_poolkit.testing import Node
from tests.django_suite.outcomes import Outcomes, Reader
from tests.django_suite.source import Source, SuiteError
from tests.django_suite.variants import Variant, Way

ROOT = Path(__file__).resolve().parents[2]
STALLED = 600.0
"""Seconds without a test beginning or ending, or a line of output, after which a run has hung."""
_LOOK = 0.5

Say = Callable[[Outcomes, float], None]
"""Told now and then how far a run is, and after how many seconds."""


@dataclass(frozen=True)
class Task:
    """What is run on every backend in the same way."""

    source: Source
    labels: tuple[str, ...]
    """Empty: all there are."""
    autocommit: bool = False
    """Whether TestCase does without its transaction."""
    parallel: int = 1
    """In how many processes the tests run."""
    way: Way = "threads"
    """How ours run."""

    def key(self, postgresql: str) -> str:
        """Return what the outcome on Django's own backend depends on, as a file name."""
        versions = [importlib.metadata.version(name) for name in ("psycopg", "asgiref", "sqlparse")]
        here = Path(__file__).parent
        parts = [
            self.source.digest,
            sys.version,
            postgresql,
            *versions,
            *((here / name).read_text() for name in ("recorder.py", "site.py", "wiping.py")),
            repr((sorted(self.labels), self.autocommit, self.parallel, os.geteuid() == 0)),
        ]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def run(task: Task, variant: Variant, node: Node, log: Path, say: Say) -> Outcomes:
    """Run the tests and return what became of them; the output goes to the file `log`.

    Blocks, for minutes. A run that hangs is ended.

    Raises:
        SuiteError: it did not come to its end, or ran nothing.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="poolkit-suite-") as scratch:
        notes = Path(scratch) / "notes"
        notes.touch()
        given = {
            "database": variant.database(node),
            "server": {"host": node.host, "port": node.port},
            "autocommit": task.autocommit,
            "way": variant.way,
            "notes": str(notes),
        }
        environ = {name: value for name, value in os.environ.items() if name[:6] != "DJANGO"}
        environ |= {
            "POOLKIT_DJANGO_SUITE": json.dumps(given),
            "PYTHONPATH": str(ROOT),
            "TMPDIR": scratch,
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                _command(task),
                cwd=task.source.tests,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            reader = Reader(notes)
            try:
                hung = _follow(process, reader, log, lambda done: say(done, _since(started)))
            finally:
                _end(process)
    outcomes = reader.outcomes
    outcomes.seconds = _since(started)
    if outcomes.finished and outcomes.tests:
        return outcomes
    if hung:
        what = f"did nothing for {STALLED:.0f} s"
    elif outcomes.finished:
        what = "found no tests"
    else:
        what = f"ended with status {process.returncode}"
    raise SuiteError(f"{variant.name}: the run {what}{_how_far(outcomes, log)}")


def _command(task: Task) -> Sequence[str]:
    command = [sys.executable, "runtests.py", "--settings", "tests.django_suite.site"]
    return [*command, "--noinput", f"--parallel={task.parallel}", *sorted(task.labels)]


def _since(started: float) -> float:
    return time.monotonic() - started


def _follow(
    process: subprocess.Popen[bytes], reader: Reader, log: Path, say: Callable[[Outcomes], None]
) -> bool:
    """Read until the run has ended, or has hung: then return True."""
    heard, length = time.monotonic(), 0
    while True:
        ended = process.poll() is not None
        # The databases of many modules are long in the making, and no test is under way.
        if reader.read() or log.stat().st_size != length:
            heard, length = time.monotonic(), log.stat().st_size
        say(reader.outcomes)
        if ended:
            return False
        if time.monotonic() - heard > STALLED:
            return True
        with suppress(subprocess.TimeoutExpired):
            process.wait(_LOOK)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the run and whatever it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(10.0)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _how_far(outcomes: Outcomes, log: Path) -> str:
    where = outcomes.under_way or "the making of the databases"
    said = log.read_text(errors="replace").splitlines()[-12:]
    return "\n".join(
        [
            f", after {len(outcomes.tests):,} tests, in {where}",
            *(f"  | {line[:300]}" for line in said),
            f"The whole output is in {log}",
        ]
    )
