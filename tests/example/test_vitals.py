"""What the system says of a process, held against one whose threads and memory are known."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from django_poolkit.testing.waiting import wait_until
from example_project.vitals import Watch, vitals

_WITH_THREADS = """
import sys, threading
hold = threading.Event()
threads = [threading.Thread(target=hold.wait) for _ in range(7)]
print("done", flush=True)
for line in sys.stdin:
    if line == "threads\\n":
        [thread.start() for thread in threads]
    elif line == "memory\\n":
        held = bytearray(64 * 2**20)
        held[:] = b"x" * len(held)
    else:
        hold.set()
        [thread.join() for thread in threads]
    print("done", flush=True)
"""


@pytest.fixture
def process():
    command = [sys.executable, "-c", _WITH_THREADS]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        # An interpreter that starts has files open that are closed again.
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        yield process
        process.kill()


def tell(process: subprocess.Popen[str], order: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    print(order, file=process.stdin, flush=True)
    assert process.stdout.readline() == "done\n"


def test_it_says_threads_memory_and_cpu(process):
    before = vitals(process.pid)
    tell(process, "threads")
    tell(process, "memory")
    after = vitals(process.pid)

    assert after.threads - before.threads == 7
    # Of its three and no more: it has opened nothing meanwhile.
    assert after.files == before.files >= 3
    assert after.memory - before.memory > 60 * 2**20


def test_a_watch_keeps_the_most_that_it_saw(process):
    with Watch(process.pid, every=0.005) as watch:
        tell(process, "threads")
        wait_until(lambda: watch.last.threads == 8, 30, lambda: f"{watch.last}")
        tell(process, "end")
        wait_until(lambda: watch.last.threads == 1, 30, lambda: f"{watch.last}")

    assert watch.before.threads == 1
    assert watch.threads == 8


def test_a_watch_counts_the_cpu_of_its_block():
    with Watch(os.getpid(), every=10.0) as watch:
        started = time.process_time()
        while time.process_time() < started + 0.3:
            pass

    # The last look is of the end, though the next one was not due.
    assert watch.cpu >= 0.25


def test_a_watch_ends_with_its_block_though_the_process_has_ended(process):
    before = threading.active_count()
    with Watch(process.pid, every=0.005):
        process.kill()
        process.wait()

    assert threading.active_count() == before


def test_a_process_that_is_not_there_is_an_error():
    with subprocess.Popen(["true"]) as process:
        process.wait()
    with pytest.raises(OSError, match=str(process.pid)):
        vitals(process.pid)
