"""Real servers: each worker asks its upstream by connections that it keeps, and ends silently."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from django_poolkit.testing.waiting import wait_until
from tests.celery_queue import leave_tasks
from tests.http.upstream import Upstream

ROOT = Path(__file__).parents[2]
SERVERS = {
    "gthread": (
        *("gunicorn", "--no-control-socket", "-k", "gthread", "--threads", "16", "--workers", "2"),
        *("--preload", "-b", "unix:{path}", "tests.http.site:wsgi"),
    ),
    "gunicorn-asgi": (
        *("gunicorn", "--no-control-socket", "-k", "asgi", "-b", "unix:{path}"),
        "tests.http.site:asgi",
    ),
    "uvicorn": ("uvicorn", "--uds", "{path}", "tests.http.site:asgi"),
    "uvicorn-2": ("uvicorn", "--workers", "2", "--uds", "{path}", "tests.http.site:asgi"),
    "granian": ("granian", "--interface", "asgi", "--uds", "{path}", "tests.http.site:asgi"),
    "hypercorn": ("hypercorn", "--bind", "unix:{path}", "tests.http.site:asgi"),
    "daphne": ("daphne", "-u", "{path}", "tests.http.site:asgi"),
}
TWO = ("gthread", "uvicorn-2")


class Site:
    """A server, and what is asked of it."""

    def __init__(self, path: Path, process: subprocess.Popen[str]) -> None:
        self.path = path
        self.process = process

    def get(self, target: str) -> dict[str, Any]:
        """Return what a view says."""
        connection = http.client.HTTPConnection("site", timeout=30)
        with socket.socket(socket.AF_UNIX) as connection.sock:
            connection.sock.connect(str(self.path))
            connection.request("GET", target)
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200, body
            found: dict[str, Any] = json.loads(body)
            return found

    def stop(self) -> str:
        """End it, and return all that it has said."""
        self.process.terminate()
        _, said = self.process.communicate(timeout=60)
        return said


@contextmanager
def serve(kind: str, tmp_path: Path, upstream: Upstream, **environment: str) -> Iterator[Site]:
    path = tmp_path / "s"
    command = [part.format(path=path) for part in SERVERS[kind]]
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**os.environ, "UPSTREAM": upstream.url(), **environment},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    site = Site(path, process)

    def answers() -> bool:
        assert process.poll() is None
        try:
            return bool(site.get("/look/")["status"] == 200)
        except OSError:
            return False

    with ExitStack() as stack:
        stack.callback(process.communicate)
        stack.callback(process.kill)
        wait_until(answers, 60)
        yield site


def silent(said: str) -> bool:
    words = ("Unclosed", "unclosed", "never awaited", "Traceback", "destroyed", "Warning")
    return not any(word in said for word in words)


@pytest.mark.parametrize("kind", SERVERS)
def test_each_worker_keeps_its_connections_and_ends_without_a_word(
    kind: str, tmp_path: Path, upstream: Upstream
) -> None:
    views = ["/sync/"] if kind == "gthread" else ["/sync/", "/async/", "/nested/"]
    with serve(kind, tmp_path, upstream) as site, ThreadPoolExecutor(50) as executor:
        for view in views:
            found = list(executor.map(lambda _, view=view: site.get(view), range(200)))
            assert {each["status"] for each in found} == {200}
            assert not any(each["errors"] for each in found)
        last = {each["pid"]: site.get("/look/") for each in found}
        # At most four for each loop: the server's own, and the one in the background.
        most = 4 if kind == "gthread" else 8
        assert all(each["connects"] <= most for each in (*found, *last.values()))
        assert upstream.connections <= (2 * most if kind in TWO else most)
        said = site.stop()
    assert silent(said), said
    wait_until(lambda: upstream.connections == 0)


@pytest.mark.parametrize("kind", [kind for kind in SERVERS if kind != "daphne"])  # it cuts them
def test_who_waits_for_the_upstream_as_the_server_is_told_to_end_is_answered(
    kind: str, tmp_path: Path, upstream: Upstream
) -> None:
    views = ["/sync/"] if kind == "gthread" else ["/sync/", "/async/", "/nested/"]
    with (
        serve(kind, tmp_path, upstream, UPSTREAM=upstream.url("/hold")) as site,
        ThreadPoolExecutor(len(views)) as executor,
    ):
        asked = [executor.submit(site.get, view) for view in views]
        wait_until(lambda: upstream.held == len(views), 60)
        site.process.terminate()
        threading.Timer(0.5, upstream.let_go).start()
        assert [each.result(60)["status"] for each in asked] == [200] * len(views)
        _, said = site.process.communicate(timeout=60)
    assert silent(said), said
    wait_until(lambda: upstream.connections == 0)


def test_workers_work_that_were_forked_after_the_first_use(
    tmp_path: Path, upstream: Upstream
) -> None:
    with serve("gthread", tmp_path, upstream, BEFORE_FORK="1") as site:
        with ThreadPoolExecutor(16) as executor:
            found = list(executor.map(lambda _: site.get("/sync/"), range(200)))
        assert {each["status"] for each in found} == {200}
        # The parent's one connection is nobody else's.
        assert all(1 <= each["connects"] <= 4 for each in found)
        said = site.stop()
    assert silent(said), said
    wait_until(lambda: upstream.connections == 0)


def test_an_async_view_under_wsgi_works_by_a_loop_of_its_own(
    tmp_path: Path, upstream: Upstream
) -> None:
    with serve("gthread", tmp_path, upstream) as site:
        for _ in range(3):
            assert site.get("/async/")["status"] == 200
            assert site.get("/nested/")["status"] == 200
            # Django ends that loop with the request, and with it what was opened there.
            assert site.get("/look/")["size"] == 0
        assert silent(site.stop())
    wait_until(lambda: upstream.connections == 0)


def test_each_process_of_a_celery_worker_keeps_its_connections(
    tmp_path: Path, upstream: Upstream
) -> None:
    notes, queue = tmp_path / "notes", tmp_path / "queue"
    notes.touch()
    queue.mkdir()
    ways = dict.fromkeys(("data_folder_in", "data_folder_out", "control_folder"), str(queue))
    words = ["celery", "-A", "tests.http.work", "worker", "--pool", "prefork"]
    worker = subprocess.Popen(
        [sys.executable, "-m", *words, "--concurrency", "2", "--loglevel", "WARNING"],
        cwd=ROOT,
        env={
            **os.environ,
            "UPSTREAM": upstream.url(),
            "BEFORE_FORK": "1",
            "QUEUE": json.dumps({**ways, "polling_interval": 0.05}),
            "NOTES": str(notes),
        },
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    with ExitStack() as stack:
        stack.callback(worker.communicate)
        stack.callback(worker.kill)
        leave_tasks(queue, "ask", times=20)
        wait_until(lambda: notes.read_text().count("\n") == 20 or worker.poll() is not None, 60)
        found = [json.loads(line) for line in notes.read_text().splitlines()]
        assert [each["status"] for each in found] == [200] * 20
        assert {each["connects"] for each in found} == {1}
        assert worker.pid not in {each["pid"] for each in found}
        worker.terminate()
        _, said = worker.communicate(timeout=60)
    assert silent(said.replace("SecurityWarning", "")), said  # tests may run as root
    wait_until(lambda: upstream.connections == 0)
