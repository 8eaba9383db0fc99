"""Web servers in front of a deployed project, and what the kernel says of their workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django_poolkit.testing.processes import is_alive
from django_poolkit.testing.waiting import wait_until
from example_project.processes import Child
from tests.servers.client import Client
from tests.servers.project import PATIENCE, ROOT, Project

SERVERS = {
    "gthread": ("gunicorn", "--no-control-socket", "-k", "gthread", "--threads", "4"),
    "sync": ("gunicorn", "--no-control-socket", "-k", "sync", "--preload"),
    "uvicorn": ("uvicorn", "--no-access-log"),
}
# As a module of Python's: the wheel is uWSGI as a library, and needs no compiler.
_UWSGI = (
    "tests.servers.uwsgi", "--master", "--need-app", "--disable-logging",
    "--min-worker-lifetime", "1", "--worker-reload-mercy", "30",
    "--hook-master-start", "unix_signal:15 gracefully_kill_them_all",
)  # fmt: skip
_THREADS = ("--enable-threads", "--threads", "4")
UWSGI = {
    "forked": (*_UWSGI, *_THREADS),
    "lazy": (*_UWSGI, *_THREADS, "--lazy-apps"),
    "no threads": (*_UWSGI, "--lazy-apps"),
}


class Site:
    """A project, its web server, and a client of that."""

    def __init__(
        self, project: Project, kind: str, server: Child, client: Client, size: int
    ) -> None:
        self.project = project
        self.kind = kind
        self.client = client
        self.size = size
        """How many workers there are."""
        self._server = server

    def workers(self) -> set[int]:
        """Send requests until each worker has opened its pool; return who they are."""
        seen: set[int] = set()

        def all_seen() -> bool:
            self._server.check()
            replies = [self.client.start("/slow/?seconds=0.05") for _ in range(4 * self.size)]
            for reply in (each.result(PATIENCE) for each in replies):
                assert reply.status == 200, (reply, self._server.tail())
                seen.add(reply.pid)
            return len(seen) >= self.size

        wait_until(all_seen, PATIENCE, lambda: f"of {self.size} only {seen} answer")
        assert len(seen) == self.size
        return seen

    def fill(self, most: int) -> None:
        """Send requests until each worker has once had as many leases as it can have."""
        full: set[int] = set()

        def all_full() -> bool:
            replies = [self.client.start("/slow/?seconds=0.3") for _ in range(8 * self.size)]
            while not all(reply.done() for reply in replies):
                pools = self.project.pools()
                full.update(pid for pid, pool in pools.items() if pool["used"] == most)
            return len(full) == self.size

        wait_until(all_full, PATIENCE, lambda: f"only {full} of {self.project.pools()}")

    def ask_to_stop(self) -> None:
        """Tell the server to stop, as a service manager does; return at once."""
        os.kill(self._server.pid, signal.SIGTERM)

    def is_quiet(self) -> bool:
        """Tell whether nothing is leased, nor about to be connected."""
        pools = self.project.pools().values()
        return not any(pool["used"] or pool["waiters"] or pool["connecting"] for pool in pools)


@contextmanager
def serve(project: Project, kind: str, size: int, *more: str, **environment: str) -> Iterator[Site]:
    """Have a server of one kind serve the project, with so many workers."""
    path = project.home / "s"
    where: tuple[str, ...]
    if kind == "uvicorn":
        where = ("--workers", str(size), "--uds", str(path), f"{project.package}.asgi:application")
    elif kind in UWSGI:
        where = ("--processes", str(size), "--http-socket", str(path))
        where += ("--module", f"{project.package}.opened")
        environment["PYTHONPATH"] = str(ROOT)
    else:
        where = ("--workers", str(size), "--bind", f"unix:{path}", f"{project.package}.wsgi")
    server = project.serve(*(SERVERS | UWSGI)[kind], *more, *where, **environment)
    client = Client(path)

    def answers() -> bool:
        server.check()
        return client.get("/quick/").status == 200

    try:
        wait_until(answers, PATIENCE, server.tail)
        yield Site(project, kind, server, client, size)
    finally:
        client.close()


def kill(pid: int) -> None:
    """Kill a process as the kernel does where memory is short, and wait until it is gone."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), PATIENCE, f"{pid} lives on")


def held(pid: int) -> tuple[int, int]:
    """Return how many files and threads a process has."""
    process = Path("/proc") / str(pid)
    return len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))
