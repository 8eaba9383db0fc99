"""A worker that is stopped in its tracks: named on the page, which does not wait for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from django.test import Client

from django_poolkit.control import collect
from django_poolkit.dashboard import looking
from django_poolkit.testing.waiting import wait_until

PAGE = "/admin/poolkit/"
# A process of the same project: it has a pool, and lives until its input ends.
WORKER = """
import json, os, sys
from tests import settings
settings.DATABASES = {"default": json.loads(os.environ["DATABASE"])}
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
import django
django.setup()
from django.db import connection
connection.ensure_connection()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def worker(site: None) -> Iterator[int]:
    keys = ("ENGINE", "NAME", "USER", "PASSWORD", "HOST", "PORT")
    database = {key: connections.settings["default"][key] for key in keys}
    with subprocess.Popen(
        [sys.executable, "-c", WORKER],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "DATABASE": json.dumps(database)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process.pid
        finally:
            process.send_signal(signal.SIGCONT)
            process.stdin.close()
            process.wait(60.0)


def stop(pid: int) -> None:
    """Stop a process, and wait until it has."""
    os.kill(pid, signal.SIGSTOP)
    stat = Path(f"/proc/{pid}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", 30.0)


def seen(client: Client) -> dict[str, Any]:
    """Return what a new look finds."""
    looking.forget()
    found: dict[str, Any] = client.get(PAGE, headers={"Accept": "application/json"}).json()
    return found


def test_a_worker_that_is_stopped_is_named_and_the_page_does_not_wait_for_it(
    visit: Callable[..., Client], worker: int
) -> None:
    client = visit("view_pools")

    def answers() -> bool:
        return worker in [process["pid"] for process in seen(client)["processes"]]

    wait_until(answers, 60.0)
    stop(worker)
    begun = time.monotonic()
    found = seen(client)
    seconds = time.monotonic() - begun
    [problem] = [each for each in found["problems"] if each["pid"] == worker]
    assert problem["text"] == "does not answer: no answer within 1 s"
    assert (problem["bad"], found["status"]) == (True, "degraded")
    # The others are there, with their figures.
    assert [process["pid"] for process in found["processes"]] == [os.getpid()]
    assert [each["pid"] for pool in found["pools"] for each in pool["workers"]] == [os.getpid()]
    assert seconds < 3 * collect.LOOK
    page = client.get(PAGE).content.decode()
    assert f"Process {worker}: " in page
    assert "does not answer: no answer within 1 s" in page
    os.kill(worker, signal.SIGCONT)
    wait_until(answers, 60.0)
    assert not [each for each in seen(client)["problems"] if each["pid"] == worker]
