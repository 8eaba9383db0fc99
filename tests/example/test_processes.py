"""Children end with their parent, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from django_poolkit.testing.waiting import wait_until
from example_project.processes import Child, ChildFailed, listen, url_of
from example_project.serving import upstream

ROOT = Path(__file__).parents[2]


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def start(tmp_path: Path, script: str) -> Child:
    return Child("it", ["sh", "-c", script], log=tmp_path / "log", environment={"WORD": "hello"})


def pid_in(path: Path) -> int:
    wait_until(lambda: path.exists() and path.read_text().strip(), 10, f"{path} is not written")
    return int(path.read_text())


def test_stop_ends_the_child_and_what_it_started(tmp_path):
    script = f"sleep 600 & echo $! >{tmp_path}/grandchild; wait"
    child = start(tmp_path, script)
    grandchild = pid_in(tmp_path / "grandchild")
    child.stop()

    assert not alive(child.pid)
    wait_until(lambda: not alive(grandchild), 10, "the grandchild lives on")


def test_stop_ends_what_does_not_listen(tmp_path):
    child = start(tmp_path, f"trap '' TERM; echo $$ >{tmp_path}/ready; while :; do sleep 0.1; done")
    pid_in(tmp_path / "ready")
    child.stop(patience=0.1)

    assert not alive(child.pid)


def test_a_child_that_has_ended_is_told_with_the_end_of_its_log(tmp_path):
    child = start(tmp_path, "echo $WORD; exit 3")
    child._process.wait()

    with pytest.raises(ChildFailed, match=r"it ended with status 3\n  \| hello\nlog: .*/log"):
        child.check()
    child.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel offers it on Linux only")
def test_a_child_ends_when_its_parent_is_killed(tmp_path):
    code = (
        "import time; from pathlib import Path; from example_project.processes import Child;"
        f"child = Child('it', ['sleep', '600'], log=Path({str(tmp_path / 'log')!r}),"
        f" environment={{}}); Path({str(tmp_path / 'child')!r}).write_text(str(child.pid));"
        "time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        child = pid_in(tmp_path / "child")
        assert alive(child)
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()

    wait_until(lambda: not alive(child), 10, "the child lives on")


def test_a_port_that_is_taken_is_passed_over():
    with listen() as first:
        port = first.getsockname()[1]
        with listen(port) as second:
            assert second.getsockname()[1] != port
            assert url_of(second).startswith("http://127.0.0.1:")


def test_the_upstream_answers_and_ends(tmp_path):
    with upstream(tmp_path) as url, urllib.request.urlopen(f"{url}?sku=p1", timeout=10) as answer:
        assert b'"days"' in answer.read()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=10)
