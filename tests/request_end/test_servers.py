"""Real servers whose clients go away in the middle: no lease is lost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from django_poolkit.testing.waiting import wait_until

SERVERS = {
    "gunicorn-gthread": (
        *("gunicorn", "--no-control-socket", "-k", "gthread", "--threads", "8"),
        *("-b", "unix:{path}", "tests.request_end.site:wsgi"),
    ),
    # The grace is what it waits before it cancels the task of a client that has gone.
    "gunicorn-asgi": (
        *("gunicorn", "--no-control-socket", "-k", "asgi", "--asgi-disconnect-grace-period", "0"),
        *("-b", "unix:{path}", "tests.request_end.site:asgi"),
    ),
    "uvicorn": ("uvicorn", "--uds", "{path}", "tests.request_end.site:asgi"),
}
ROOT = Path(__file__).parent.parent.parent


class Site:
    """A server process, and what a client does to it."""

    def __init__(self, path: Path, process: subprocess.Popen[bytes]) -> None:
        self.path = path
        self.process = process

    def ask(self, target: str) -> socket.socket:
        """Send a request, and return the connection to read or drop."""
        request = f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        client = socket.socket(socket.AF_UNIX)
        try:
            client.settimeout(10.0)
            client.connect(str(self.path))
            client.sendall(request.encode())
        except OSError:
            client.close()
            raise
        return client

    def get(self, target: str) -> tuple[int, bytes]:
        """Return status and body of an answer."""
        with self.ask(target) as client:
            whole = b""
            while piece := client.recv(65536):
                whole += piece
        head, _, body = whole.partition(b"\r\n\r\n")
        return int(head.split()[1]), body

    def stats(self) -> dict[str, Any]:
        """Return how the pool of the server stands."""
        status, body = self.get("/status/")
        assert status == 200
        start, end = body.index(b"{"), body.rindex(b"}")  # the body may come in chunks
        found: dict[str, Any] = json.loads(body[start : end + 1])
        return found

    def drop(self, target: str) -> None:
        """Go away as soon as the request has a lease."""
        before = self.stats()["acquired"]
        with self.ask(target):
            wait_until(lambda: self.stats()["acquired"] > before, message=target)

    def up(self) -> bool:
        assert self.process.poll() is None, "the server has ended"
        try:
            self.ask("/status/").close()
        except OSError:
            return False
        return True


@pytest.fixture(params=sorted(SERVERS))
def site(request: pytest.FixtureRequest, transactional_db: None, tmp_path: Path) -> Iterator[Site]:
    """A running server before the test's database."""
    path = tmp_path / "s"
    database = connection.settings_dict
    environment = os.environ | {
        f"SITE_{key}": str(database[key]) for key in ("NAME", "HOST", "PORT", "USER", "PASSWORD")
    }
    environment["PYTHONPATH"] = str(ROOT)
    command = [part.format(path=path) for part in SERVERS[request.param]]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", *command], env=environment, cwd=tmp_path
    )
    site = Site(path, process)
    try:
        wait_until(site.up, 30.0)
        yield site
    finally:
        process.terminate()
        try:
            process.wait(15.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def is_home(site: Site) -> None:
    wait_until(lambda: site.stats()["used"] == 0, 10.0, lambda: f"lost: {site.stats()}")
    stats = site.stats()
    assert stats["leaks"] == 0
    assert stats["size"] <= 2


# A thread of a WSGI server hears of its client when it writes. Under ASGI Django reads a
# synchronous stream to its end before it sends anything.
DROPPED = {
    "wsgi": ("/sleep/?seconds=0.3", "/stream/", "/count/"),
    "asgi": ("/sleep/?seconds=0.3", "/asleep/", "/astream/", "/foreign_thread/", "/background/"),
}


def test_clients_that_go_away(site: Site) -> None:
    entry = str(site.process.args).rpartition(":")[2][:4]
    for target in DROPPED[entry] * 2:
        site.drop(target)
        is_home(site)
    assert site.get("/count/")[0] == 200


def test_an_exhausted_pool(site: Site) -> None:
    with ExitStack() as clients:
        sleepers = [clients.enter_context(site.ask("/sleep/?seconds=3")) for _ in range(2)]
        wait_until(lambda: site.stats()["used"] == 2)
        status, body = site.get("/count/")
        assert status == 503
        assert b"The server is busy" in body
        for sleeper in sleepers:
            assert sleeper.recv(65536).startswith(b"HTTP/1.1 200")
    is_home(site)
