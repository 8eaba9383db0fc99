"""The site of these tests in front of real servers, as processes on this machine."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django_poolkit.testing import Node
from django_poolkit.testing.waiting import wait_until
from example_project.processes import Child
from tests.lifespan.site import journal
from tests.servers.client import Client, Reply

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0

_GUNICORN = ("gunicorn", "--no-control-socket", "--bind", "unix:{path}")
_ASGI, _WSGI = "tests.lifespan.site.asgi:application", "tests.lifespan.site.wsgi:application"
# By kind: the module of Python's, its arguments, and what sets the number of workers.
KINDS: dict[str, tuple[str, ...]] = {
    "uvicorn": ("uvicorn", "--uds", "{path}", _ASGI),
    "uvicorn-2": ("uvicorn", "--workers", "2", "--uds", "{path}", _ASGI),
    "granian": ("granian", "--interface", "asgi", "--uds", "{path}", _ASGI),
    "gunicorn-uvicorn": (*_GUNICORN, "-k", "uvicorn_worker.UvicornWorker", _ASGI),
    "gunicorn-asgi": (*_GUNICORN, "-k", "asgi", _ASGI),
    "hypercorn": ("hypercorn", "--bind", "unix:{path}", _ASGI),
    "daphne": ("daphne", "-u", "{path}", _ASGI),
    "gunicorn-wsgi": (*_GUNICORN, "-k", "gthread", "--threads", "4", _WSGI),
}


class Server:
    """One server of the site: its process, a client of it, and what its workers wrote down."""

    def __init__(self, kind: str, home: Path, environment: Mapping[str, str], *more: str) -> None:
        self.kind = kind
        self.path = home / "s"
        self._control = home / "c"
        self._journal = home / "journal"
        self._log = home / "log"
        command = [*(word.format(path=self.path) for word in KINDS[kind]), *more]
        facts = {
            "SITE_JOURNAL": str(self._journal),
            "DJANGO_SETTINGS_MODULE": "tests.lifespan.site.settings",
            "PYTHONUNBUFFERED": "1",
            **environment,
        }
        self.child = Child(
            kind, ["nice", sys.executable, "-m", *command], log=self._log, environment=facts
        )
        self.client = Client(self.path)

    # -- what it says

    def get(self, target: str) -> dict[str, Any]:
        """Ask, and return the answer, which must be a good one."""
        return self.body(self.client.get(target))

    def body(self, reply: Reply) -> dict[str, Any]:
        """Return what a good answer says."""
        assert reply.status == 200, (reply, self.log)
        found: dict[str, Any] = json.loads(reply.body)
        return found

    @property
    def log(self) -> str:
        """Whatever it has printed."""
        return self._log.read_text(errors="replace")

    @property
    def journal(self) -> list[journal.Entry]:
        """Whatever its workers have written down, in order."""
        return journal.read(self._journal)

    def events(self, pid: int | None = None) -> list[str]:
        """Return what was written down, by one worker or by all."""
        return [entry.event for entry in self.journal if pid in (None, entry.pid)]

    def at(self, event: str) -> float:
        """Return when something was first written down."""
        return next(entry.at for entry in self.journal if entry.event == event)

    @property
    def sockets(self) -> list[str]:
        """The control sockets that are there of its workers."""
        return sorted(path.name for path in self._control.glob("*.sock"))

    # -- its life

    def up(self) -> bool:
        """Tell whether it answers. Raises ChildFailed where it has ended."""
        self.child.check()
        return self.client.get("/pid/").status == 200

    def wait_up(self) -> None:
        """Wait until it answers."""
        wait_until(self.up, PATIENCE, self.child.tail, interval=0.05)

    def wait_for(self, event: str, times: int = 1) -> None:
        """Wait until something has been written down."""
        wait_until(
            lambda: self.events().count(event) >= times,
            PATIENCE,
            lambda: f"{event!r} is not in {self.events()}\n{self.log}",
        )

    def workers(self, size: int) -> set[int]:
        """Ask until each of so many workers has answered; return who they are."""
        seen: set[int] = set()

        def all_seen() -> bool:
            asked = [self.client.start("/pid/") for _ in range(4 * size)]
            replies = [each.result(PATIENCE) for each in asked]
            # One that is recycled resets connections that it has not accepted yet.
            seen.update(reply.pid for reply in replies if reply.status == 200)
            return len(seen) >= size

        wait_until(all_seen, PATIENCE, lambda: f"of {size} only {seen}\n{self.log}")
        return seen

    def tell(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Send a signal to the process that was started; return when."""
        os.kill(self.child.pid, number)
        return time.monotonic()

    def ended(self, seconds: float = PATIENCE) -> int:
        """Wait until that process has ended; return its exit code."""
        try:
            return self.child._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.kind} lives on\n{self.events()}\n{self.log}") from None

    def stop(self) -> None:
        """End whatever is left of it."""
        self.client.close()
        self.child.stop(0.1)


class Farm:
    """Starts servers, and ends them."""

    def __init__(self, database: Node) -> None:
        self._databases = {
            "default": {
                "ENGINE": "django_poolkit.backends.postgresql",
                "NAME": database.dbname,
                "USER": database.user,
                "PASSWORD": database.password,
                "HOST": database.host,
                "PORT": str(database.port),
                "OPTIONS": {"pool": {"max_size": 4}},
            }
        }
        self._servers: list[Server] = []
        self._numbers = itertools.count()
        # A path of a socket must be short.
        self._home = Path(tempfile.mkdtemp(prefix="pkl-", dir="/tmp"))

    def start(
        self,
        kind: str,
        plan: Mapping[str, Any],
        *more: str,
        database: Mapping[str, Any] | None = None,
        **lifespan: Any,
    ) -> Server:
        """Start a server with these resources, options of its own, and settings."""
        home = self._home / str(next(self._numbers))
        home.mkdir()
        databases = {"default": {**self._databases["default"], **(database or {})}}
        environment = {
            "SITE_PLAN": json.dumps(plan),
            "SITE_DATABASES": json.dumps(databases),
            "SITE_POOLKIT": json.dumps(
                {"LIFESPAN": lifespan, "CONTROL": {"DIRECTORY": str(home / "c")}}
            ),
        }
        server = Server(kind, home, environment, *more)
        self._servers.append(server)
        return server

    def path(self, name: str) -> Path:
        """Return a path for a file of a test."""
        return self._home / name

    def close(self) -> None:
        """End all servers."""
        for server in self._servers:
            server.stop()
        shutil.rmtree(self._home, ignore_errors=True)


@contextmanager
def farming(database: Node) -> Iterator[Farm]:
    """Have a farm for the length of a `with` block."""
    farm = Farm(database)
    try:
        yield farm
    finally:
        farm.close()
