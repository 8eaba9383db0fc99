"""The site of these tests in front of real servers, and who asks it for its health."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django_poolkit.conf.control import ControlConfig
from django_poolkit.control.client import ask_all
from django_poolkit.testing.waiting import wait_until
from example_project.processes import Child

PATIENCE = 60.0
TOKEN = "correct-horse-battery"
# As a load balancer sends them, to a page that a user asks for.
USER = {"Host": "shop.example", "X-Forwarded-Proto": "https"}
# As a kubelet sends them.
KUBELET = {"Host": "10.42.0.17:8000", "User-Agent": "kube-probe/1.33", "Accept": "*/*"}

_ASGI, _WSGI = "tests.health.site.asgi:application", "tests.health.site.wsgi:application"
_GUNICORN = ("gunicorn", "--no-control-socket", "--bind", "unix:{path}")
KINDS: dict[str, tuple[str, ...]] = {
    "uvicorn": ("uvicorn", "--no-access-log", "--uds", "{path}", _ASGI),
    "uvicorn-2": ("uvicorn", "--no-access-log", "--workers", "2", "--uds", "{path}", _ASGI),
    "gunicorn-wsgi": (*_GUNICORN, "-k", "gthread", "--threads", "16", _WSGI),
}
OTHERS: dict[str, tuple[str, ...]] = {
    "gunicorn-sync": (*_GUNICORN, "-k", "sync", _WSGI),
    "gunicorn-asgi": (*_GUNICORN, "-k", "asgi", _ASGI),
    "gunicorn-uvicorn": (*_GUNICORN, "-k", "uvicorn_worker.UvicornWorker", _ASGI),
    "granian": ("granian", "--interface", "asgi", "--uds", "{path}", _ASGI),
    "hypercorn": ("hypercorn", "--bind", "unix:{path}", _ASGI),
    "daphne": ("daphne", "-u", "{path}", _ASGI),
    "uvicorn-tcp": ("uvicorn", "--port", "{port}", _ASGI),
    "gunicorn-tcp": ("gunicorn", "--no-control-socket", "--bind", "127.0.0.1:{port}", _WSGI),
}
"""Of these each is asked once how it is."""


@dataclass(frozen=True)
class Reply:
    """An answer as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float

    @property
    def data(self) -> Any:
        """The body of a JSON answer."""
        return json.loads(self.body)

    @property
    def whole(self) -> str:
        """All of it, to be searched."""
        return f"{self.status} {self.headers} {self.body.decode()}"


class Server:
    """One server of the site: its process, and ways to ask it."""

    def __init__(
        self, kind: str, databases: Mapping[str, Any], health: Mapping[str, Any], **poolkit: Any
    ) -> None:
        self.kind = kind
        self.size = 2 if kind.endswith("-2") else 1
        # A path of a socket must be short.
        self.home = Path(tempfile.mkdtemp(prefix="pkh-", dir="/tmp"))
        self.path = self.home / "s"
        control = {"DIRECTORY": str(self.home / "c"), "STEERING": True}
        self.poolkit = {
            "CONTROL": control,
            "HEALTH": {"PATH": "/health/", "TOKEN": TOKEN, **health},
            "LIFESPAN": {"POOLS": "lazy"},
            **poolkit,
        }
        self.environment = {
            "SITE_DATABASES": json.dumps(databases),
            "SITE_POOLKIT": json.dumps(self.poolkit),
            "SITE_BROKER": str(self.home / "broker"),
            "DJANGO_SETTINGS_MODULE": "tests.health.site.settings",
            "PYTHONUNBUFFERED": "1",
        }
        self.port = _free_port() if kind.endswith("-tcp") else None
        everything = {**KINDS, **OTHERS}[kind]
        words = [word.format(path=self.path, port=self.port) for word in everything]
        command = ["nice", sys.executable, "-W", "ignore", "-m", *words]
        log = self.home / "log"
        self.child = Child(kind, command, log=log, environment=self.environment)
        self._askers = ThreadPoolExecutor(64)

    @property
    def log(self) -> str:
        """Whatever it has printed."""
        return (self.home / "log").read_text(errors="replace")

    def close(self) -> None:
        """End it."""
        self._askers.shutdown()
        self.child.stop(1.0)
        shutil.rmtree(self.home, ignore_errors=True)

    # -- requests

    def ask(self, target: str, method: str = "GET", **headers: str) -> Reply:
        """Ask once, with these headers and no others."""
        started = time.monotonic()
        lines = [f"{method} {target} HTTP/1.0", *(f"{k}: {v}" for k, v in headers.items())]
        with self._connect() as client:
            client.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
            whole = b""
            while piece := client.recv(65536):
                whole += piece
        seconds = time.monotonic() - started
        head, _, body = whole.partition(b"\r\n\r\n")
        status, *fields = head.decode("latin-1").split("\r\n")
        pairs = (line.split(": ", 1) for line in fields)
        return Reply(int(status.split()[1]), {k.lower(): v for k, v in pairs}, body, seconds)

    def _connect(self) -> socket.socket:
        if self.port is not None:
            return socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE)
        try:
            client.connect(str(self.path))
        except OSError:
            client.close()
            raise
        return client

    def probe(self, group: str) -> Reply:
        """Ask as a kubelet does: for a status, without a right to more."""
        return self.ask(f"/health/{group}", **KUBELET)

    def details(self, group: str) -> Any:
        """Ask with the token; return what there is to know."""
        headers = {**KUBELET, "Authorization": f"Bearer {TOKEN}"}
        return self.ask(f"/health/{group}", **headers).data

    def check(self, group: str, name: str) -> Any:
        """Return what a group says of one check."""
        return self.details(group)["checks"][name]

    def start(self, target: str) -> Future[Reply]:
        """Ask as a user does, without waiting for the answer."""
        return self._askers.submit(self.ask, target, **USER)

    def many(self, group: str, count: int) -> list[Reply]:
        """Probe so many times at once."""
        return [each.result(PATIENCE) for each in
                [self._askers.submit(self.probe, group) for _ in range(count)]]  # fmt: skip

    # -- waiting

    def wait_up(self) -> None:
        """Wait until it answers."""

        def up() -> bool:
            self.child.check()
            try:
                return self.probe("live").status == 200
            except OSError:
                return False

        wait_until(up, PATIENCE, self.child.tail, interval=0.05)

    def wait_for(self, group: str, status: int, reason: str | None = None) -> None:
        """Wait until a group answers so."""

        def so() -> bool:
            if self.probe(group).status != status:
                return False
            found = self.details(group)["checks"].values()
            return reason is None or reason in [each["reason"] for each in found]

        wait_until(so, PATIENCE, lambda: f"{self.details(group)}\n{self.log[-3000:]}")

    def workers(self) -> dict[int, int]:
        """Return the workers, and how many threads the kernel says each has."""
        seen: set[int] = set()

        def all_seen() -> bool:
            replies = [self.start("/process/") for _ in range(8)]
            seen.update(reply.result(PATIENCE).data["pid"] for reply in replies)
            return len(seen) >= self.size

        wait_until(all_seen, PATIENCE, lambda: f"only {seen}")
        return {pid: len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in seen}

    # -- steering

    def order(self, command: str, **arguments: Any) -> None:
        """Give an order to every worker, as `poolctl` does."""
        config = ControlConfig(directory=self.home / "c", service="site", steering=True)
        answers = ask_all(config, command, arguments)
        assert len(answers) == self.size, answers
        assert all(answer.error is None for answer in answers), answers


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
