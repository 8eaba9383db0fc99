"""Workers: real processes that use pools and show their figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from django_poolkit.testing import Node
from tests.metrics.support import Samples, parsed

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0


class Worker:
    """A process of `tests/metrics/site.py`."""

    def __init__(self, database: dict[str, Any], environment: dict[str, str], **given: Any) -> None:
        given["database"] = database
        self._process = subprocess.Popen(
            # Deprecations of other packages are theirs; a fork of one with threads is the test's.
            [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "tests.metrics.site"],
            cwd=ROOT,
            env=os.environ | {"SITE": json.dumps(given)} | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._ended, self._errors = False, ""

    def ask(self, command: str) -> Any:
        """Have a command carried out, and return its answer."""
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(f"{command}\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())
        except (BrokenPipeError, ValueError):
            self._ended = True
            _, self._errors = self._process.communicate(timeout=PATIENCE)
            raise AssertionError(self._errors[-4000:]) from None

    def scrape(self) -> Samples:
        """Return the samples of its page, as the parser reads them."""
        return parsed(self.ask("scrape"))

    def kill(self) -> None:
        """Kill it as the kernel does where memory is short."""
        self._ended = True
        self._process.kill()
        self._process.communicate(timeout=PATIENCE)

    def end(self) -> str:
        """Let it end as a server's worker does, and return what it wrote to standard error."""
        if not self._ended:
            self._ended = True
            _, self._errors = self._process.communicate(timeout=PATIENCE)
            assert self._process.returncode == 0, self._errors[-4000:]
        return self._errors


@pytest.fixture
def start(primary: Node) -> Iterator[Callable[..., Worker]]:
    """Return a function that starts workers. `folder` is where their figures meet."""
    workers: list[Worker] = []

    def start_one(folder: Path | None = None, **given: Any) -> Worker:
        pool = {"max_size": 4, "mode": "session"}
        database = {
            **primary.django_settings(),
            "ENGINE": given.pop("engine", "django_poolkit.backends.postgresql"),
            "OPTIONS": {"pool": pool},
        }
        environment = {"PROMETHEUS_MULTIPROC_DIR": str(folder)} if folder else {}
        workers.append(Worker(database, environment, **given))
        return workers[-1]

    yield start_one
    for worker in workers:
        worker.end()
