"""One PostgreSQL server of a local cluster: its life, its sessions, its settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django_poolkit.testing.errors import ClusterTimeout
from django_poolkit.testing.postmaster import Postmaster, StopMode
from django_poolkit.testing.waiting import wait_until

if TYPE_CHECKING:
    import psycopg

# Under this name our own short connections are seen, and left out of every count.
ADMIN_NAME = "poolkit-testing"

# ALTER SYSTEM takes the elements of these one by one, else 'a, b' is one name.
_LISTS = {
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A client's connection as the server sees it: a row of pg_stat_activity."""

    pid: int
    application_name: str
    dbname: str | None
    user: str | None
    state: str | None
    query: str
    backend_start: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a node is reached, and as whom."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    dbname: str


class Server:
    """One PostgreSQL server, whatever its role.

    All verbs block, all waits are bounded; one that runs out raises
    `ClusterTimeout` with the last lines of the server's log. A verb that asks
    the server opens a short connection for it, which `sessions()` leaves out.
    """

    def __init__(
        self, name: str, postmaster: Postmaster, address: Address, socket_directory: Path
    ) -> None:
        self.name = name
        """`primary`, `replica1`, `replica2` …"""
        self.address = address
        self.host = address.host
        self.port = address.port
        self.user = address.user
        """A superuser: a test may create extensions and terminate backends."""
        self.password = address.password
        self.dbname = address.dbname
        self.socket_directory = socket_directory
        """Use it as `host` to connect by UNIX socket (same port and password)."""
        self._postmaster = postmaster

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.host}:{self.port}>"

    # Connections

    def conninfo(self, dbname: str | None = None) -> dict[str, Any]:
        """Return host, port, user, password and dbname, as `psycopg.connect` takes them."""
        return {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "password": self.password,
            "dbname": dbname or self.dbname,
        }

    def django_settings(self, name: str | None = None) -> dict[str, str]:
        """Return NAME, USER, PASSWORD, HOST and PORT for an entry of DATABASES."""
        return {
            "NAME": name or self.dbname,
            "USER": self.user,
            "PASSWORD": self.password,
            "HOST": self.host,
            "PORT": str(self.port),
        }

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        """Open a connection in autocommit mode; `options` go to `psycopg.connect`."""
        import psycopg

        defaults: dict[str, Any] = {"autocommit": True, "connect_timeout": 10}
        return psycopg.connect(**self.conninfo() | defaults | options)

    def execute(self, query: Any, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Run one statement on a connection of its own and return all its rows."""
        with self.connect(application_name=ADMIN_NAME) as connection:
            cursor = connection.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []

    def _value(self, query: str, parameters: Any = None) -> Any:
        return self.execute(query, parameters)[0][0]

    # Life

    @property
    def running(self) -> bool:
        """True while the server process lives, ready or not, paused or not."""
        return self._postmaster.running

    @property
    def pid(self) -> int:
        """The id of the server process (the postmaster)."""
        return self._postmaster.pid

    def log_tail(self) -> str:
        """Return the last lines of the server's log."""
        return self._postmaster.log_tail()

    def start(self, timeout: float = 60.0) -> None:
        """Start a stopped server on the same port; return when it accepts connections."""
        self._postmaster.start(timeout)

    def stop(self, mode: StopMode = "fast", timeout: float = 60.0) -> None:
        """Stop the server: "smart" (wait for clients), "fast", or "immediate" (crash)."""
        self._postmaster.stop(mode, timeout)

    def restart(self, mode: StopMode = "fast", timeout: float = 60.0) -> None:
        """Stop and start the server; `timeout` holds for each of the two."""
        self.stop(mode, timeout)
        self.start(timeout)

    def pause(self) -> None:
        """Freeze the server (SIGSTOP): sockets stay open, nothing is answered."""
        self._postmaster.pause()

    def resume(self) -> None:
        """Wake a frozen server (SIGCONT)."""
        self._postmaster.resume()

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Block until a connection can be opened; the last attempt may take 2 s longer."""
        import psycopg

        # libpq knows no shorter one than two seconds.
        patience = max(2, min(10, int(timeout)))

        def answers() -> bool:
            try:
                with self.connect(application_name=ADMIN_NAME, connect_timeout=patience):
                    return True
            except psycopg.OperationalError:
                return False

        self._wait(answers, timeout, "it does not answer")

    def _wait(self, predicate: Any, timeout: float, what: str) -> None:
        wait_until(
            predicate,
            timeout,
            lambda: f"{self.name}: {what}; its log:\n{self.log_tail()}",
            error=ClusterTimeout,
        )

    # Sessions

    def sessions(
        self, application_name: str | None = None, dbname: str | None = None
    ) -> list[Session]:
        """Return the clients' connections, oldest first, optionally of one name or database."""
        rows = self.execute(
            "SELECT pid, application_name, datname, usename, state, query, backend_start"
            " FROM pg_stat_activity WHERE backend_type = 'client backend'"
            " AND application_name <> %s"
            " AND application_name = coalesce(%s, application_name)"
            " AND (%s::text IS NULL OR datname = %s) ORDER BY backend_start, pid",
            (ADMIN_NAME, application_name, dbname, dbname),
        )
        names = ("pid", "application_name", "dbname", "user", "state", "query", "backend_start")
        return [Session(**dict(zip(names, row, strict=True))) for row in rows]

    def kill_backend(self, pid: int) -> bool:
        """Terminate one backend and wait until it is gone; False if there was none."""
        return self._kill([pid]) == 1

    def kill_backends(self, application_name: str | None = None) -> int:
        """Terminate all clients' backends at once, wait until they are gone, return how many."""
        return self._kill([session.pid for session in self.sessions(application_name)])

    def _kill(self, pids: list[int]) -> int:
        with self.connect(application_name=ADMIN_NAME) as connection:

            def count(query: str) -> int:
                row = connection.execute(query, (pids,)).fetchone()
                return int(row[0]) if row else 0

            killed = count(
                "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid))"
                " FROM pg_stat_activity WHERE pid = ANY(%s)"
            )
            self._wait(
                lambda: not count("SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s)"),
                10.0,
                f"backends {pids} do not end",
            )
            return killed

    # Databases and settings

    def create_database(self, name: str) -> None:
        """Create an empty database."""
        self._statement("CREATE DATABASE {}", name)

    def drop_database(self, name: str) -> None:
        """Drop a database if it exists, ending the connections to it."""
        self._statement("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def _statement(self, template: str, name: str, *values: str) -> None:
        from psycopg import sql

        literals = sql.SQL(", ").join(map(sql.Literal, values))
        self.execute(sql.SQL(template).format(sql.Identifier(name), literals))

    def set(self, name: str, value: str | int | float | bool, *, restart: bool = False) -> None:
        """Set a server setting (ALTER SYSTEM), in force for every session that opens next.

        `restart` restarts the server (fast), which some settings need.

        Raises:
            ValueError: the setting needs a restart, and none was asked for.
        """
        self._check_restart(name, restart)
        text = ("on" if value else "off") if isinstance(value, bool) else str(value)
        parts = text.split(",") if name in _LISTS else [text]
        self._statement("ALTER SYSTEM SET {} = {}", name, *(part.strip() for part in parts))
        self._apply(restart)

    def reset(self, name: str, *, restart: bool = False) -> None:
        """Take back what `set` did to a setting.

        Raises:
            ValueError: the setting needs a restart, and none was asked for.
        """
        self._check_restart(name, restart)
        self._statement("ALTER SYSTEM RESET {}", name)
        self._apply(restart)

    def _check_restart(self, name: str, restart: bool) -> None:
        rows = self.execute("SELECT context FROM pg_settings WHERE name = lower(%s)", (name,))
        if rows == [("postmaster",)] and not restart:
            raise ValueError(f"{name} takes effect at a restart only: pass restart=True")

    def _apply(self, restart: bool) -> None:
        if restart:
            self.restart()
        else:
            self.reload()

    def reload(self, timeout: float = 10.0) -> None:
        """Make the server read its files again; return when new sessions see the change.

        Sessions that are open see it at their next statement.
        """
        before = self._value("SELECT pg_conf_load_time()")
        self.execute("SELECT pg_reload_conf()")
        # A new session is born with the postmaster's own settings and load time.
        self._wait(
            lambda: self._value("SELECT pg_conf_load_time()") > before,
            timeout,
            "the settings are not loaded",
        )
