"""A Django project, deployed: served as by a service manager, looked at from somebody's shell."""

from __future__ import annotations

import hashlib
import json
import os
import pprint
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from django_poolkit.conf.control import ControlConfig
from django_poolkit.control.client import Answer, ask_all
from django_poolkit.testing import Node
from django_poolkit.testing.waiting import wait_until
from example_project.processes import Child

ROOT = Path(__file__).parents[2]
LONGEST_COMMAND = 90.0
PATIENCE = 60.0

ROLE = "teller"
# In a URL or a DSN it would break at each sign, or be written otherwise; each word gives it away.
_GIVEAWAYS = ("s3same", "p1ant", "0pen")
PASSWORD = "s3same%41p1ant@0pen"

_FILES = {
    "manage.py": """\
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "{package}.settings"
import {package}
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
""",
    # In place of an installation.
    "{package}/__init__.py": "import sys\nsys.path.append({root!r})\n",
    "{package}/settings.py": """\
from tests.servers.site.settings import *
DATABASES = {databases}
POOLKIT = {poolkit}
""",
    "{package}/wsgi.py": """\
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "{package}.settings"
from django_poolkit.wsgi import get_wsgi_application
application = get_wsgi_application()
""",
    # Who is served by this one queries as it is loaded, and keeps the connection.
    "{package}/opened.py": """\
from {package}.wsgi import application
import logging, threading
from django.db import connection
told = threading.Event()
class Told(logging.Handler):
    def emit(self, record):
        if "event=open" in record.getMessage():
            told.set()
# Behind the one that writes. A thread that has a stream's lock as uWSGI forks has it for ever.
logging.getLogger().addHandler(last := Told())
connection.cursor().execute("SELECT 1")
assert told.wait(30)
logging.getLogger().removeHandler(last)
""",
    "{package}/asgi.py": """\
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "{package}.settings"
from django_poolkit.asgi import get_asgi_application
application = get_asgi_application()
""",
    "{package}/celery.py": """\
import json, os
os.environ["DJANGO_SETTINGS_MODULE"] = "{package}.settings"
from celery import Celery
from django_poolkit.contrib import celery as poolkit_celery
app = Celery("shop", broker="filesystem://")
app.conf.broker_transport_options = {broker}
app.conf.update(json.loads(os.environ.get("CELERY", "{{}}")))
app.autodiscover_tasks(["tests.servers.site"])
poolkit_celery.install()
if "FIT" in os.environ:
    poolkit_celery.fit_pools()
""",
}


def create_role(node: Node) -> None:
    """Make the role that projects connect as."""
    node.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'")


class Project:
    """A project in a folder of its own, with a settings module that no other has.

    Whatever its processes say is kept, to be searched for the password.
    """

    def __init__(
        self,
        home: Path,
        node: Node,
        pool: Mapping[str, Any],
        control: Mapping[str, Any],
        asyncpg: dict[str, Any],
    ) -> None:
        self.home = home.resolve()
        self._node = node
        self.package = f"shop{secrets.token_hex(3)}"
        self.said: dict[str, str] = {}
        """What commands and pages said, by what was asked."""
        self._children: list[Child] = []
        settings = {"NAME": node.dbname, "HOST": node.host, "PORT": str(node.port)}
        database = {
            "ENGINE": "django_poolkit.backends.postgresql",
            **settings,
            "USER": ROLE,
            "PASSWORD": PASSWORD,
            "OPTIONS": {"pool": dict(pool)},
        }
        self.queue = {f"data_folder_{way}": str(self.home / "queue") for way in ("in", "out")}
        self.queue["control_folder"] = str(self.home / "queue")
        facts = {
            "root": str(ROOT),
            "package": self.package,
            "databases": pprint.pformat({"default": database}),
            "poolkit": pprint.pformat(
                {"CONTROL": dict(control), **({"ASYNCPG": {"default": asyncpg}} if asyncpg else {})}
            ),
            "broker": pprint.pformat({**self.queue, "polling_interval": 0.05}),
        }
        for folder in (self.package, "queue", "tmp", "logs"):
            (self.home / folder).mkdir()
        for name, text in _FILES.items():
            (self.home / name.format(**facts)).write_text(text.format(**facts))

    @property
    def directory(self) -> Path:
        """Where the sockets are, by what the reference says."""
        module = f"{self.package}.settings"
        found = hashlib.sha256(f"{self.home / self.package}\0{module}".encode()).hexdigest()
        return Path(f"/tmp/poolkit-{os.geteuid()}-{found[:8]}")

    # -- its services

    def serve(self, *command: str, **environment: str) -> Child:
        """Start a module of Python's as a service manager does: with hardly any environment."""
        facts = {"PATH": os.environ["PATH"], "TMPDIR": str(self.home / "tmp"), **environment}
        words = [f"{name}={value}" for name, value in facts.items()]
        script = 'cd "$0" && exec env -i "$@"'
        log = self.home / "logs" / str(len(self._children))
        child = Child(
            command[0],
            ["sh", "-c", script, str(self.home), *words, sys.executable, "-m", *command],
            log=log,
            environment={},
        )
        self._children.append(child)
        return child

    def end(self) -> None:
        """Stop the services, and remove what they may have left."""
        for child in self._children:
            child.stop(patience=1.0)
        sessions = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE %s"
        for [pid] in self._node.execute(sessions, (f"pk:%:{self.package}",)):
            self._node.kill_backend(pid)
        shutil.rmtree(self.directory, ignore_errors=True)

    def giveaways(self) -> list[str]:
        """Return where a part of the password was said."""
        texts = {f"log {path.name}": path.read_text() for path in self.home.glob("logs/*")}
        texts |= self.said
        return [
            f"{where}: {line}"
            for where, text in texts.items()
            for line in text.splitlines()
            if any(secret in line for secret in _GIVEAWAYS)
        ]

    # -- from another shell

    def manage(self, *arguments: str, code: int = 0) -> str:
        """Run `manage.py` as somebody does who has logged in; return what it printed."""
        done = self.finished(self.begin(*arguments))
        assert done.returncode == code, (
            f"{done.args}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done.stdout

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `manage.py`."""
        elsewhere = self.home / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(elsewhere),
            "LANG": "C.UTF-8",
            "TMPDIR": str(elsewhere),
            "XDG_RUNTIME_DIR": str(elsewhere),
        }
        return subprocess.Popen(
            [sys.executable, str(self.home / "manage.py"), *arguments],
            env=environment,
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finished(self, process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
        """Wait for a command of `begin()`, and keep what it said."""
        out, err = process.communicate(timeout=LONGEST_COMMAND)
        assert isinstance(process.args, Sequence)
        words = " ".join(map(str, process.args[2:]))
        self.said[f"{len(self.said)} {words}"] = out + err
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def status(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """Return what `poolstatus --format json` says."""
        text = self.manage("poolstatus", "--format", "json", *arguments, code=code)
        found: dict[str, Any] = json.loads(text)
        return found

    # -- without the time that a new Python takes

    def ask(self, command: str = "status", **arguments: Any) -> list[Answer]:
        """Ask all processes as the commands do."""
        config = ControlConfig(directory=self.directory, service=self.package, steering=True)
        answers = ask_all(config, command, arguments)
        self.said[f"{len(self.said)} {command}"] = str(answers)
        return answers

    def processes(self, **arguments: Any) -> dict[int, dict[str, Any]]:
        """Return what each process says of itself."""
        answers = self.ask(**arguments)
        assert all(answer.error is None for answer in answers), answers
        return {answer.pid: dict(answer.result or {}) for answer in answers}

    def pools(self) -> dict[int, dict[str, Any]]:
        """Return the pool of each process that has one."""
        return {pid: p["pools"][0] for pid, p in self.processes().items() if p["pools"]}

    def lease(self, where: str, **facts: Any) -> dict[str, Any]:
        """Wait for a lease in a view or a program, and return it."""

        def found() -> list[dict[str, Any]]:
            every = [lease for p in self.processes(leases=True).values() for lease in p["leases"]]
            wanted = {"where": where, **facts}
            return [lease for lease in every if lease.items() >= wanted.items()]

        return wait_until(found, PATIENCE, lambda: f"no lease {where}, {facts}: {self.ask()}")[0]
