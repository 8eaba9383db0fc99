"""The sites of `tests.benchmarks.web`, each with a database and an environment of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from django_poolkit.testing import Node
from django_poolkit.testing.pgbouncer import PgBouncer, find_pgbouncer
from example_project.processes import Child, ChildFailed, listen, url_of
from tests.benchmarks import failure, peers
from tests.benchmarks.faults import moved
from tests.benchmarks.peers import SIZE, Contestant, Unavailable

ROOT: Final = Path(__file__).parents[2]
SITES: Final = [Path(__file__).with_name(name) for name in ("web_site.py", "web_raw.py")]
THREADS: Final = 16
"""Of gunicorn: requests at once."""
START_SECONDS: Final = 60.0
TEMPLATE: Final = "web_template"

GUNICORN, UVICORN = "gunicorn", "uvicorn"
LOOP: Final = "ours, on the loop"
PREPARED: Final = "ours, transaction, prepare"
LOOP_PREPARED: Final = "ours, on the loop, prepare"
RAW, ARAW = "psycopg, no ORM", "asyncpg's pool, no ORM"
NATIVE: Final = Contestant(
    "django-async-backend",
    "django_async_backend.db.backends.postgresql",
    # As tests.benchmarks.async_orm has it: the environment is made once for both.
    package="django-async-backend uvloop",
)


@dataclass(frozen=True)
class Entry:
    """A contestant, and the server that its site is under."""

    server: str
    contestant: Contestant
    poolkit: dict[str, Any] | None = None
    views: str = "web_site"

    @property
    def ceiling(self) -> bool:
        """Whether its plain text is of interest: the others' is the same."""
        return self.contestant.name.startswith("ours") or self.contestant.name in (
            failure.NO_POOL, NATIVE.name,
        )  # fmt: skip


@dataclass(frozen=True)
class Site:
    """One that answers."""

    entry: Entry
    url: str
    pid: int
    """Of the process that answers."""
    database: str

    @property
    def kind(self) -> str:
        """Where its pages are: `sync` or `async`."""
        return "sync" if self.entry.server == GUNICORN else "async"


def entries(patience: float) -> list[Entry]:
    """Return all of them: all pools in sync views, those that differ there in async ones."""
    everyone = failure.contestants(patience)
    by_name = {each.name: each for each in everyone}
    sync = [
        Entry(GUNICORN, each, {} if each.name.startswith("ours") else None) for each in everyone
    ]
    ours, pool = by_name["ours, transaction"], by_name["Django's pool"]
    prepared = replace(ours, options={"pool": {**ours.options["pool"], "prepare": True}})
    enabled = {"ASYNC_ORM": {"ENABLED": True, "SLOW_SLICE": None}}
    plain = (failure.NO_POOL, pool.name, "Django's pool, health checks")
    bare = replace(pool, options={})  # its settings lead to the database, and that is all
    return [
        Entry(GUNICORN, replace(bare, name=RAW), views="web_raw"),
        *(each for each in sync if each.contestant.name != "ours, session, health checks"),
        Entry(GUNICORN, replace(prepared, name=PREPARED), {}),
        Entry(UVICORN, replace(bare, name=ARAW), views="web_raw"),
        *(Entry(UVICORN, by_name[name]) for name in plain),
        Entry(UVICORN, replace(NATIVE, options=pool.options)),
        Entry(UVICORN, replace(ours, name="ours, threads"), {}),
        Entry(UVICORN, replace(ours, name=LOOP), enabled),
        Entry(UVICORN, replace(prepared, name=LOOP_PREPARED), enabled),
    ]


def lent(contestant: Contestant, home: Path, *, fetch: bool) -> Path:
    """Make a folder that has a contestant's package, and nothing else of its environment.

    For one that runs with the Django and the psycopg of this environment, and needs its server.

    Raises Unavailable where it cannot be had; the text says why.
    """
    assert contestant.package is not None
    name = contestant.package.split()[0].replace("-", "_")
    environment = Path(peers.interpreter_of(contestant, fetch=fetch)).parents[1]
    [found] = environment.glob(f"lib/python*/site-packages/{name}")
    folder = home / name
    folder.mkdir(exist_ok=True)
    if not (folder / name).exists():
        (folder / name).symlink_to(found)
    return folder


def fill(node: Node) -> None:
    """Make the database that all get a copy of."""
    node.create_database(TEMPLATE)
    with node.connect(dbname=TEMPLATE) as connection:
        connection.execute("CREATE TABLE world (id bigint PRIMARY KEY, number int NOT NULL)")
        connection.execute(
            "INSERT INTO world SELECT g, 1 + random() * 9999 FROM generate_series(1, 10000) g"
        )
        connection.execute(
            "CREATE TABLE fortune (id bigint PRIMARY KEY, message varchar(2048) NOT NULL)"
        )
        connection.execute(
            "INSERT INTO fortune SELECT g, 'fortune ' || g || ' <b>for</b> those who wait'"
            " FROM generate_series(1, 12) g"
        )


def tools(folder: Path) -> Path:
    """Make a folder that has the site and gunicorn, and nothing else of this environment.

    The environments of the other pools do not have a server. It needs nothing but Python.
    """
    folder.mkdir()
    for name in ("gunicorn", "packaging"):
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.submodule_search_locations
        (folder / name).symlink_to(spec.submodule_search_locations[0])
    for script in SITES:
        (folder / script.name).symlink_to(script)
    return folder


@contextmanager
def serve(entry: Entry, number: int, node: Node, home: Path, *, fetch: bool) -> Iterator[Site]:
    """Serve a site until the end of the block.

    Raises Unavailable where it cannot be had; the text says why.
    """
    if entry.contestant.name == failure.BOUNCER and find_pgbouncer() is None:
        raise Unavailable("PgBouncer is not installed")
    there_too, python = [str(home / "tools")], sys.executable
    variables = {"WEB_POOLKIT": json.dumps(entry.poolkit), "WEB_VIEWS": entry.views}
    if entry.contestant.name == NATIVE.name:
        there_too.append(str(lent(entry.contestant, home, fetch=fetch)))
        variables["WEB_APP"] = "django_async_backend"
    else:
        python = peers.interpreter_of(entry.contestant, fetch=fetch)
    variables["PYTHONPATH"] = os.pathsep.join(there_too)
    database = f"web_{number}"
    node.execute(f"CREATE DATABASE {database} TEMPLATE {TEMPLATE}")
    there: Any = moved(node, node.host, node.port)
    there.dbname = database
    with ExitStack() as stack:
        if entry.contestant.name == failure.BOUNCER:
            there = stack.enter_context(PgBouncer(there, default_pool_size=SIZE))
        listener = stack.enter_context(listen())
        variables["WEB_DATABASE"] = json.dumps(entry.contestant.database(there))
        child = Child(
            f"the site of {entry.contestant.name}",
            _command(entry.server, python, listener.fileno(), home),
            log=home / f"site-{number}.log",
            environment=variables,
            pass_fds=[listener.fileno()],
        )
        stack.callback(child.stop)
        url = url_of(listener)
        yield Site(entry, url, _process(child, url), database)


def _command(server: str, python: str, listener: int, home: Path) -> list[str]:
    if server == UVICORN:
        return [python, "-m", "example_project.one_process", str(listener), "web_site:asgi"]
    options = ["--workers", "1", "--worker-class", "gthread", "--threads", str(THREADS)]
    options += ["--bind", f"fd://{listener}", "--chdir", str(home / "tools")]
    options += ["--log-level", "warning", "--timeout", "120", "--graceful-timeout", "3"]
    # 25 and later leave a socket in the home folder unless told not to.
    if int(version("gunicorn").partition(".")[0]) >= 25:
        options.append("--no-control-socket")
    return [python, "-P", "-m", "gunicorn", "web_site:wsgi", *options]


def _process(child: Child, url: str) -> int:
    """Wait until a site answers; return the process that does."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            child.check()
            with urllib.request.urlopen(url, timeout=5.0) as answer:
                return int(answer.read())
        except ChildFailed as error:
            print(error, file=sys.stderr)
            raise Unavailable("its site did not start; the end of its log stands above") from None
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                raise Unavailable(f"its site does not answer: {error}") from error
        time.sleep(0.05)
