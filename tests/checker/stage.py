"""The site's processes: a server of WSGI, one of ASGI, and a worker of jobs."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from django_poolkit.testing.waiting import wait_until
from example_project.processes import Child, listen
from tests.checker.servers import DATABASE, Servers

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0

MAX_AGE = 30.0
PIN = 5.0
MAX_LAG = 2.0


@dataclass(frozen=True, slots=True)
class Shape:
    """How the site is served, and what it is told."""

    servers: tuple[str, ...] = ("wsgi", "asgi")
    workers: int = 2
    aliases: str = "hosts"
    """`hosts`: one alias leads to both replicas. `aliases`: one to each."""
    choice: str = "visitor"
    jobs: bool = True
    """Whether there is a worker of jobs."""
    looks: tuple[float, float] | None = None
    """Seconds from one look at the servers to the next, if they are not to be as ever."""
    max_lag: float = MAX_LAG
    planted: str = ""
    """A defect, by its name."""


@dataclass(slots=True)
class Stage:
    """A site that runs."""

    home: Path
    environment: dict[str, str]
    places: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Host and port of each server."""
    children: list[Child] = field(default_factory=list)
    _read_to: int = 0

    def check(self) -> None:
        """Raise ChildFailed if one of the processes has ended."""
        for child in self.children:
            child.check()

    def jobs_done(self) -> Iterator[dict[str, Any]]:
        """Yield what jobs have found since this was asked last."""
        path = self.home / "worker.log"
        if not path.exists():
            return
        with path.open("rb") as log:
            log.seek(self._read_to)
            for line in log:
                if not line.endswith(b"\n"):
                    break  # not all of it is there yet
                self._read_to += len(line)
                if line.startswith(b"{"):
                    yield json.loads(line)


def facts_of(servers: Servers, home: Path, shape: Shape) -> dict[str, Any]:
    """Return what the site's settings are told."""
    for name in ("cache", "queue", "control"):
        (home / name).mkdir(exist_ok=True)
    primary = servers.primary
    return {
        "name": DATABASE,
        "user": primary.user,
        "password": primary.password,
        "ports": {slot: gate.port for slot, gate in servers.gates.items()},
        **{name: str(home / name) for name in ("cache", "queue", "control")},
        "max_age": MAX_AGE,
        "pin": PIN,
        "max_lag": shape.max_lag,
        "looks": shape.looks,
        "shape": shape.aliases,
        "choice": shape.choice,
        "planted": shape.planted,
    }


@contextmanager
def staged(servers: Servers, shape: Shape, names: Sequence[str]) -> Iterator[Stage]:
    """Serve the site for the length of a block, with a user of each name.

    Without any, tables and users are taken to be there.
    """
    home = Path(tempfile.mkdtemp(prefix="pkc-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        environment = {"CHECKER": json.dumps(facts_of(servers, home, shape))}
        stage = Stage(home, environment)
        if names:
            _prepare(environment, names)
        for name in shape.servers:
            listener = stack.enter_context(listen())
            stage.places[name] = listener.getsockname()
            _serve(stage, stack, name, listener, shape)
        if shape.jobs:
            _start(stage, stack, "worker", ["tests.checker.site.worker"])
        for name in shape.servers:
            wait_until(partial(_answers, stage, name), PATIENCE, stage.children[0].tail)
        yield stage


def _prepare(environment: dict[str, str], names: Sequence[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.checker.site.prepare", *names],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"the tables could not be made:\n{done.stderr[-2000:]}")


def _serve(
    stage: Stage, stack: ExitStack, name: str, listener: socket.socket, shape: Shape
) -> None:
    count, number = str(shape.workers), listener.fileno()
    if name == "wsgi":
        command = ["gunicorn", "--no-control-socket", "-k", "gthread", "--threads", "8"]
        command += ["--workers", count, "--bind", f"fd://{number}", "--timeout", "120"]
        command += ["tests.checker.site.wsgi"]
    else:
        command = ["uvicorn", "--workers", count, "--fd", str(number), "--no-access-log"]
        command += ["--log-level", "warning", "tests.checker.site.asgi:application"]
    _start(stage, stack, name, command, (number,))


def _start(
    stage: Stage, stack: ExitStack, name: str, command: Sequence[str], fds: Sequence[int] = ()
) -> Child:
    child = Child(
        name,
        [sys.executable, "-m", *command],
        log=stage.home / f"{name}.log",
        environment={**stage.environment, "PYTHONPATH": str(ROOT)},
        pass_fds=fds,
    )
    stack.callback(child.stop, 2.0)
    stage.children.append(child)
    return child


def _answers(stage: Stage, name: str) -> bool:
    stage.check()
    host, port = stage.places[name]
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/nowhere", timeout=10.0):
            return True
    except urllib.error.HTTPError as error:
        return error.code == 404
    except OSError:
        return False
