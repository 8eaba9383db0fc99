"""A real PgBouncer in front of a node, where the program is installed."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from configparser import RawConfigParser
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from django_poolkit.testing.binaries import temporary_directory
from django_poolkit.testing.errors import ClusterError, ClusterTimeout
from django_poolkit.testing.runuser import ServerUser
from django_poolkit.testing.server import Server
from django_poolkit.testing.waiting import wait_until

_PLACES: Final = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin")
_TRIES: Final = 3
_LOG_LINES: Final = 20
_SETTINGS: Final = """
[databases]
* =

[pgbouncer]
auth_type = scram-sha-256
pool_mode = transaction
default_pool_size = 4
max_client_conn = 1000
"""
# PgBouncer does not end with whoever started it. So there is one who waits for that, at the other
# end of a pipe: it leads into its standard input, and is closed with the last who has it.
_WATCHED: Final = 'exec 3<&0; (read gone <&3; kill -KILL $$) & exec "$0" "$1" 3<&- </dev/null'


def find_pgbouncer() -> Path | None:
    """Return the program: `POOLKIT_PGBOUNCER`, else the one of the system; None without any.

    Raises ClusterError where that variable names no program.
    """
    if named := os.environ.get("POOLKIT_PGBOUNCER"):
        if not os.access(named, os.X_OK) or Path(named).is_dir():
            raise ClusterError("POOLKIT_PGBOUNCER names no program that can be run")
        return Path(named)
    found = shutil.which("pgbouncer", path=os.pathsep.join((os.environ["PATH"], *_PLACES)))
    return Path(found) if found else None


def require_pgbouncer() -> Path:
    """Return the program. Raises ClusterError where there is none."""
    if (program := find_pgbouncer()) is None:
        raise ClusterError(
            "there is no PgBouncer here: install the package `pgbouncer`, or name the program by "
            "POOLKIT_PGBOUNCER"
        )
    return program


class PgBouncer:
    """PgBouncer in front of one server, on a port of this machine's loopback. Use as a context.

    `text` is a `pgbouncer.ini`, whose databases are led to that server, and whose addresses and
    files to places of this run; without it, one that lends by transaction. `settings` are of its
    section `pgbouncer`, and come over those. `users` are roles that may come in beside the node's
    own, with their passwords.

    Raises ClusterError where there is no such program, or it does not start.
    """

    def __init__(
        self,
        node: Server,
        *,
        text: str = _SETTINGS,
        users: Mapping[str, str] | None = None,
        **settings: object,
    ) -> None:
        self._node = node
        self._users = {node.user: node.password, **(users or {})}
        self._ini = RawConfigParser(delimiters=("=",), comment_prefixes=(";", "#"))
        self._ini.optionxform = str  # type: ignore[assignment,method-assign]
        self._ini.read_string(text)
        self._ini["pgbouncer"].update({key: str(value) for key, value in settings.items()})
        self.host = "127.0.0.1"
        self.port = 0
        """Where it listens, once it has been started."""
        self._process: subprocess.Popen[bytes] | None = None
        self._directory: Path | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<PgBouncer {self.host}:{self.port} in front of {self._node!r}>"

    # Where it is

    def conninfo(self, dbname: str | None = None) -> dict[str, Any]:
        """Return host, port, user, password and dbname, as `psycopg.connect` takes them."""
        return {**self._node.conninfo(dbname), "host": self.host, "port": self.port}

    def django_settings(self, name: str | None = None) -> dict[str, str]:
        """Return NAME, USER, PASSWORD, HOST and PORT for an entry of DATABASES."""
        found = self._node.django_settings(name)
        return {**found, "HOST": self.host, "PORT": str(self.port)}

    # Its console

    def console(self, command: str) -> list[dict[str, Any]]:
        """Run a command of its console, as `SHOW POOLS` or `RECONNECT`; return the rows."""
        import psycopg

        # The console knows the simple protocol alone.
        with psycopg.connect(
            **self.conninfo("pgbouncer"), autocommit=True, cursor_factory=psycopg.ClientCursor
        ) as connection:
            cursor = connection.execute(command)
            if cursor.description is None:
                return []
            names = [column.name for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

    @property
    def version(self) -> tuple[int, int]:
        """The first two numbers of its version."""
        (row,) = self.console("SHOW VERSION")
        numbers = re.search(r"(\d+)\.(\d+)", next(iter(row.values())))
        assert numbers is not None
        return int(numbers[1]), int(numbers[2])

    # Its life

    def start(self, timeout: float = 30.0) -> None:
        """Start it, and block until it listens."""
        program = require_pgbouncer()
        for left in reversed(range(_TRIES)):
            try:
                self._start(program, timeout)
                return
            except ClusterError as error:
                self.stop()
                if not left or "already in use" not in str(error):
                    raise

    def stop(self) -> None:
        """End it at once, with all connections. One that does not run is no error."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
        directory, self._directory = self._directory, None
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)

    def _start(self, program: Path, timeout: float) -> None:
        user = ServerUser.resolve()
        directory = Path(tempfile.mkdtemp(prefix="pk-pgb-", dir=temporary_directory(user)))
        self._directory = directory
        user.own(directory)
        self.port = _free_port()
        self._write(user, directory)
        log = directory / "log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHED, str(program), str(directory / "pgbouncer.ini")],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
                start_new_session=True,
                **user._identity,
            )
        process = self._process

        def tail() -> str:
            lines = log.read_text(errors="replace").splitlines()
            return "\n".join(lines[-_LOG_LINES:]) or "(the log is empty)"

        wait_until(
            lambda: process.poll() is not None or self._listens(),
            timeout,
            lambda: f"PgBouncer does not listen; its log:\n{tail()}",
            error=ClusterTimeout,
        )
        if process.poll() is not None:
            raise ClusterError(f"PgBouncer ended at its start; its log:\n{tail()}")

    def _listens(self) -> bool:
        try:
            socket.create_connection((self.host, self.port), 1.0).close()
        except OSError:
            return False
        return True

    def _write(self, user: ServerUser, directory: Path) -> None:
        def quoted(text: str) -> str:
            return '"' + text.replace('"', '""') + '"'

        lines = (f"{quoted(name)} {quoted(word)}\n" for name, word in self._users.items())
        user.write(directory / "userlist.txt", "".join(lines))
        databases, own = self._ini["databases"], self._ini["pgbouncer"]
        for name, words in databases.items():
            kept = [w for w in (words or "").split() if not re.match(r"(host|port)\s*=", w)]
            here = [f"host={self._node.host}", f"port={self._node.port}"]
            databases[name] = " ".join([*here, *kept])
        own.update(
            listen_addr=self.host,
            listen_port=str(self.port),
            unix_socket_dir="",
            auth_file=str(directory / "userlist.txt"),
            admin_users=self._node.user,
        )
        # What it says goes where its first words go.
        for key in ("logfile", "pidfile", "user"):
            own.pop(key, None)
        path = directory / "pgbouncer.ini"
        user.write(path, "")
        with path.open("w") as file:
            self._ini.write(file)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
