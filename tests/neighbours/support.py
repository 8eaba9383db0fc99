"""Sites of their own, in a process of their own: other packages change all of Django."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from django_poolkit.testing import Node

ROOT = Path(__file__).parents[2]
RESTART = "RESTART"

Drive = Callable[..., dict[str, Any]]


def drive(
    module: str, variable: str, given: dict[str, Any], *, node: Node | None = None
) -> dict[str, Any]:
    """Run a program; `given` reaches it as JSON in `variable`. Return the JSON it prints.

    Where it says `RESTART` on a line, `node` is restarted as by a crash; it goes on by a line.
    """
    with tempfile.TemporaryFile("w+") as errors:
        program = subprocess.Popen(
            [sys.executable, "-X", "dev", "-m", module],
            cwd=ROOT,
            env=os.environ | {variable: json.dumps(given)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        # Whoever waits for a line of a program that hangs waits for its end.
        watch = threading.Timer(150.0, program.kill)
        watch.start()
        try:
            said = _last_line(program, node)
            code = program.wait()
        finally:
            watch.cancel()
            program.kill()
            program.communicate()
        errors.seek(0)
        assert code == 0, errors.read()[-4000:]
    found: dict[str, Any] = json.loads(said)
    return found


def _last_line(program: subprocess.Popen[str], node: Node | None) -> str:
    assert program.stdin is not None
    assert program.stdout is not None
    last = ""
    for line in program.stdout:
        if line.strip() != RESTART:
            last = line
            continue
        assert node is not None, "the program wants a server restarted"
        node.restart("immediate")
        print("done", file=program.stdin, flush=True)
    return last


def ask_for_restart() -> None:
    """Have the server restarted by who runs this program. Blocks until it is up again."""
    print(RESTART, flush=True)
    assert sys.stdin.readline() == "done\n"


@contextmanager
def own_database(node: Node, name: str, *, mode: str) -> Iterator[dict[str, Any]]:
    """Make a database; yield its entry of `DATABASES`, on a pool of two. Drop it at the end."""
    node.create_database(name)
    yield {
        **node.django_settings(),
        "NAME": name,
        "ENGINE": "django_poolkit.backends.postgresql",
        "OPTIONS": {"pool": {"mode": mode, "max_size": 2, "timeout": 30.0}},
    }
    node.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def locked(entry: Mapping[str, Any], key: int) -> Iterator[Callable[[], set[int]]]:
    """Hold an advisory lock, from beside all pools, in a database by its entry of `DATABASES`.

    Yields what returns the server processes that wait for one.
    """
    query = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    address = {"host": entry["HOST"], "port": entry["PORT"], "dbname": entry["NAME"]}
    account = {"user": entry["USER"], "password": entry["PASSWORD"]}
    with psycopg.connect(**address, **account, autocommit=True) as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", [key])
        yield lambda: {pid for (pid,) in holder.execute(query)}
