"""The shop under a real server: gunicorn with two workers, and the slow supplier beside it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import socket
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from django_poolkit.testing import Node
from django_poolkit.testing.pgbouncer import PgBouncer
from example_project.options import WORKERS
from example_project.processes import Child, ChildFailed, listen, url_of
from example_project.runs import UPSTREAM_SECONDS
from example_project.upstream import CONNECTIONS, PEAK

START_SECONDS = 60.0


@dataclass(frozen=True)
class Shape:
    """How the site is served."""

    pool_size: int
    """Connections of one worker, at most."""
    threads: int
    """Requests of one worker at once, at most."""
    pool_timeout: float = 3.0

    @property
    def connections(self) -> int:
        """Connections of the whole site to one database, at most."""
        return WORKERS * self.pool_size

    @property
    def shared(self) -> int:
        """Sessions of the server that PgBouncer lends, where that is in between."""
        return max(1, self.connections // 2)


def database_environment(primary: Node, replica: Node, name: str) -> dict[str, str]:
    """Return the variables that lead the shop's settings to its databases."""
    return {
        "SHOP_DB_NAME": name,
        "SHOP_DB_USER": primary.user,
        "SHOP_DB_PASSWORD": primary.password,
        "SHOP_PRIMARY_HOST": primary.host,
        "SHOP_PRIMARY_PORT": str(primary.port),
        "SHOP_REPLICA_HOST": replica.host,
        "SHOP_REPLICA_PORT": str(replica.port),
    }


@contextlib.contextmanager
def pgbouncer(primary: Node, sessions: int) -> Iterator[dict[str, str]]:
    """Run a PgBouncer that lends so many sessions; yield the variables that lead through it."""
    with PgBouncer(primary, default_pool_size=sessions) as bouncer:
        yield {"SHOP_PRIMARY_HOST": bouncer.host, "SHOP_PRIMARY_PORT": str(bouncer.port)}


@contextlib.contextmanager
def upstream(folder: Path, seconds: float = UPSTREAM_SECONDS) -> Iterator[str]:
    """Run a supplier that takes so many seconds for an answer; yield its URL."""
    listener = listen()
    command = [sys.executable, "-m", "example_project.upstream"]
    command += [str(listener.fileno()), str(seconds)]
    log = folder / f"upstream-{seconds:g}.log"
    with listener:
        child = Child(
            "the upstream", command, log=log, environment={}, pass_fds=[listener.fileno()]
        )
        try:
            yield url_of(listener)
        finally:
            child.stop()


def take_peak(upstream_url: str) -> int:
    """Return how many requests waited for a supplier at once since this was last asked.

    Blocks until it answers.
    """
    return int(_ask(upstream_url, PEAK)["peak"])


def take_connections(upstream_url: str) -> int:
    """Return how many connections a supplier has been sent requests by since this was last asked.

    Blocks until it answers.
    """
    return int(_ask(upstream_url, CONNECTIONS)["connections"])


def _ask(upstream_url: str, path: str) -> Mapping[str, int]:
    url = urllib.parse.urljoin(upstream_url, path)
    with urllib.request.urlopen(url, timeout=START_SECONDS) as answer:
        values: Mapping[str, int] = json.load(answer)
        return values


@contextlib.contextmanager
def site(
    listener: socket.socket, shape: Shape, environment: Mapping[str, str], log: Path
) -> Iterator[Child]:
    """Run the shop on `listener`, on threads; yield once it answers.

    Raises:
        ChildFailed: it did not start; the text holds the end of its log.
    """
    threads = ["--worker-class", "gthread", "--threads", str(shape.threads)]
    with _serve("wsgi", WORKERS, threads, listener, shape, environment, log) as child:
        yield child


@contextlib.contextmanager
def async_site(
    listener: socket.socket, shape: Shape, environment: Mapping[str, str], log: Path
) -> Iterator[Child]:
    """Run the shop on `listener`, on an event loop in one worker; else as `site()`."""
    with _serve("asgi", 1, ["--worker-class", "asgi"], listener, shape, environment, log) as child:
        yield child


@contextlib.contextmanager
def one_process(
    listener: socket.socket, application: str, environment: Mapping[str, str], log: Path
) -> Iterator[Child]:
    """Run an ASGI application on uvicorn, in the one process that is yielded once it answers.

    Raises:
        ChildFailed: it did not start; the text holds the end of its log.
    """
    command = [sys.executable, "-m", "example_project.one_process"]
    command += [str(listener.fileno()), application]
    fds = [listener.fileno()]
    child = Child("the site", command, log=log, environment=environment, pass_fds=fds)
    try:
        _wait_until_it_answers(child, url_of(listener))
        yield child
    finally:
        child.stop()


@contextlib.contextmanager
def _serve(
    interface: str,
    workers: int,
    options: Sequence[str],
    listener: socket.socket,
    shape: Shape,
    environment: Mapping[str, str],
    log: Path,
) -> Iterator[Child]:
    command = [sys.executable, "-m", "gunicorn", f"example_project.{interface}:application"]
    command += ["--bind", f"fd://{listener.fileno()}", "--workers", str(workers), *options]
    command += ["--graceful-timeout", "3", "--timeout", "60"]
    command += ["--log-level", "warning"]
    if _has_control_socket():
        command.append("--no-control-socket")
    child = Child(
        "the site",
        command,
        log=log,
        environment={
            **environment,
            "SHOP_POOL_SIZE": str(shape.pool_size),
            "SHOP_POOL_TIMEOUT": str(shape.pool_timeout),
        },
        pass_fds=[listener.fileno()],
    )
    try:
        _wait_until_it_answers(child, url_of(listener))
        yield child
    finally:
        child.stop()


def _has_control_socket() -> bool:
    # gunicorn 25 and later leave a socket in the home folder unless told not to.
    return importlib.util.find_spec("gunicorn.ctl") is not None


def _wait_until_it_answers(child: Child, url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        child.check()
        try:
            with urllib.request.urlopen(url, timeout=2.0) as response:
                response.read()
                return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                raise ChildFailed(f"the site does not answer: {error}\n{child.tail()}") from error
        time.sleep(0.05)
