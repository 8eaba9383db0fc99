"""Physical connects: bounded, with the session's defaults in the start-up packet, verified.

What is set by start-up options is what RESET ALL goes back to, and costs no round trip. An
old PgBouncer refuses such options, or drops them without a word: so what arrived is looked
at, and what did not is set by statement, with one warning that names the setting.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePath
from time import monotonic
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from django_poolkit.pools.config import SERVER_GUARDS, Prepare
from django_poolkit.pools.credentials import Credentials
from django_poolkit.pools.errors import CredentialsError, PoolConfigError, PoolWarning
from django_poolkit.pools.postgres import poolers
from django_poolkit.pools.postgres.connection import PoolConnection
from django_poolkit.pools.postgres.fence import Fence
from django_poolkit.pools.postgres.leased_cursor import check_factory
from django_poolkit.pools.postgres.plans import Plans
from django_poolkit.pools.postgres.spelled import same

# The states of a server that say so only in words: a failed connect carries no SQLSTATE
# (libpq 18, PQconnectPoll). The words are those of lc_messages = C or English.
_STATES: Final = (
    (re.compile(r"password authentication failed|no password supplied"), "28P01"),
    (re.compile(r"(PAM|LDAP|RADIUS|GSSAPI|SSPI|OAuth|certificate) authentication failed"), "28000"),
    (re.compile(r'no pg_hba\.conf entry|role "[^"]*" does not exist|not permitted to'), "28000"),
    (re.compile(r'permission denied for database'), "42501"),
    (re.compile(r'database "[^"]*" does not exist'), "3D000"),
    (re.compile(r"too many (clients|connections)|connection slots are reserved"), "53300"),
    (re.compile(r"the database system is|cannot connect now"), "57P03"),
    (re.compile(r"timeout expired"), "08001"),
    (re.compile(r"[Cc]onnection refused|No such file"), "08001"),
    (re.compile(r"could not (connect|translate)|failed to resolve"), "08001"),
    (re.compile(r"closed the connection unexpectedly|[Cc]onnection reset"), "08006"),
)  # fmt: skip
logger = logging.getLogger("django_poolkit.pool")

_ADDRESS: Final = re.compile(
    r'connection to server (at|on socket) "[^"]*"( \([^)]*\))?(, port \d+)? failed: '
)
_HOST: Final = re.compile(r"""host (name )?('[^']*'|"[^"]*")""")
_LONGEST: Final = 200
# Seconds. A connect that takes longer has no caller left who would wait for it.
_LONGEST_CONNECT: Final = 30.0
# With these a server refuses who one is: a password was changed, or a token has expired.
_REFUSALS: Final = ("28P01", "28000")


@dataclass(frozen=True, slots=True)
class SessionDefaults:
    """What every lease of a pool begins with, as settings of the server."""

    settings: Mapping[str, str] = field(default_factory=dict)
    """Server settings by name, `TimeZone` and `role` among them."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Which line of the project's settings asked for each, for the warning."""

    def with_guards(self, guards: Mapping[str, str | int]) -> SessionDefaults:
        """Return the same with PostgreSQL's own guards added, `statement_timeout` and its kin."""
        own = {name: str(value) for name, value in guards.items() if name in SERVER_GUARDS}
        return SessionDefaults({**self.settings, **own}, self.origins)

    def options(self, existing: str | None) -> str | None:
        """Return the start-up option string, the user's own in front."""
        parts = [existing] if existing else []
        for name, value in self.settings.items():
            # PostgreSQL splits the string at white space, and takes a backslash for an escape
            # (pg_split_opts in its postinit.c).
            escaped = re.sub(r"([\\\s])", r"\\\1", value, flags=re.ASCII)
            parts.append(f"-c {name}={escaped}")
        return " ".join(parts) or None

    def statements(self) -> bytes:
        """Return the same as SET statements, in one text."""
        return "; ".join(
            sql.SQL("SET {} = {}").format(sql.Identifier(name), sql.Literal(value)).as_string()
            for name, value in self.settings.items()
        ).encode()


class Connector:
    """Makes the connections of one pool. Used by its worker threads."""

    def __init__(
        self,
        connection_class: type[PoolConnection],
        defaults: SessionDefaults,
        *,
        name: str,
        timeout: float,
        prepare: Prepare = False,
        plans: Plans | None = None,
    ) -> None:
        self._class = connection_class
        self._defaults = defaults
        self.fence: Fence | None = None
        """What is demanded of the server, None for nothing."""
        self.lenient = False
        """Whether one that does not meet it will do, where there is no other."""
        self._name = name
        self._timeout = timeout
        self._prepare = prepare
        self._plans = plans
        # Set by whichever worker meets such a server first; a race costs a second warning.
        self._refuses_options = False
        self._warned: set[str] = set()

    def connect(
        self,
        conninfo: str,
        kwargs: Mapping[str, Any],
        *,
        secrets: list[str] | None = None,
        wait: float | None = None,
    ) -> PoolConnection:
        """Return a new connection whose defaults are in force.

        Blocks for libpq's `connect_timeout`, the acquire timeout where none is set; of that, for
        `wait` seconds at most while `credentials` are asked for, which `kwargs` may hold in place
        of a password. What they are goes into `secrets`. Raises psycopg.Error, and what
        `Credentials.get()` raises.
        """
        connect = partial(self._supplied, secrets=secrets, wait=wait)
        if self.fence is None or self.fence.least is None:
            return connect(conninfo, kwargs)
        return self.fence.connect(connect, conninfo, kwargs, lenient=self.lenient)

    def _supplied(
        self,
        conninfo: str,
        kwargs: Mapping[str, Any],
        *,
        secrets: list[str] | None,
        wait: float | None,
    ) -> PoolConnection:
        """Connect as who the parameters name, or the function that they hold for that."""
        params = dict(kwargs)
        credentials: Credentials | None = params.pop("credentials", None)
        check_factory(params.get("cursor_factory"), prepare=bool(self._prepare))
        if "connect_timeout" not in conninfo:
            patience = min(self._timeout, _LONGEST_CONNECT)
            params.setdefault("connect_timeout", max(2, round(patience)))
        if credentials is None:
            return self._connect(conninfo, params)
        given = {**conninfo_to_dict(conninfo), **params}
        allowed = float(given.get("connect_timeout") or _LONGEST_CONNECT)  # 0 is for ever to libpq
        deadline = monotonic() + (allowed if wait is None else min(wait, allowed))
        return self._connect_as(credentials, conninfo, given, params, deadline, secrets)

    def _connect_as(
        self,
        credentials: Credentials,
        conninfo: str,
        given: Mapping[str, Any],
        params: Mapping[str, Any],
        deadline: float,
        secrets: list[str] | None,
    ) -> PoolConnection:
        """Connect with what a function supplies, and once more where the server refuses that."""
        refused = None
        while True:
            answer = credentials.get(given, deadline - monotonic())
            if answer == refused:
                break
            if secrets is not None:
                secrets.append(answer.params["password"])
            try:
                return self._connect(conninfo, {**params, **answer.params})
            except psycopg.OperationalError as error:
                again = refused is None and sqlstate(error) in _REFUSALS
                if not (again and credentials.refused(answer)):
                    raise
                refused, failed = answer, error
        raise failed

    def _connect(self, conninfo: str, params: Mapping[str, Any]) -> PoolConnection:
        given = {**conninfo_to_dict(conninfo), **params}
        service = given.get("service") or os.environ.get("PGSERVICE")
        # A service's own start-up options would be hidden by ours, and cannot be read here.
        by_statement = service is not None and not given.get("options")
        if self._defaults.settings and not (self._refuses_options or by_statement):
            # So would those of the environment, which libpq takes where none are given.
            own = str(given.get("options") or os.environ.get("PGOPTIONS") or "")
            with_defaults = {**params, "options": self._defaults.options(own)}
            try:
                connection = self._class.connect(conninfo, **with_defaults)
            except psycopg.OperationalError as error:
                if "unsupported startup parameter" not in str(error):
                    raise
                self._refuses_options = True
            else:
                self._complete(connection)
                return connection
        connection = self._class.connect(conninfo, **params)
        self._complete(connection, warn=not by_statement)
        return connection

    def _complete(self, connection: PoolConnection, *, warn: bool = True) -> None:
        """Set by statement what the start-up packet did not bring. Closes on failure."""
        try:
            if self._plans is not None and connection.prepare_threshold is not None:
                connection.prepare_by(self._plans)
                if self._prepare is True:
                    poolers.refuse_untracked(connection, self._timeout)
            lacking = self._lacking(connection) if self._defaults.settings else []
            if lacking:
                statements = SessionDefaults(
                    {name: self._defaults.settings[name] for name in lacking}
                ).statements()
                _run(connection, statements)
                # RESET ALL would undo them: they are set again after each reset.
                connection._restore_sql = statements
                if warn:
                    self._warn(lacking)
        except BaseException:
            connection.close()
            raise

    def _lacking(self, connection: PoolConnection) -> list[str]:
        wanted = self._defaults.settings
        if self._refuses_options:
            return list(wanted)
        if set(wanted) == {"TimeZone"}:
            # The server reports it unasked, so the common case costs no round trip.
            reported = connection.pgconn.parameter_status(b"TimeZone") or b""
            return [] if same("TimeZone", reported.decode(), wanted["TimeZone"]) else ["TimeZone"]
        names = list(wanted)
        # Compared as the server spells it: '30s' and '30000ms' are one value to it.
        row = _run(
            connection,
            b"SELECT "
            + b", ".join(
                sql.SQL("pg_catalog.current_setting({})").format(n).as_string().encode()
                for n in names
            ),
        )
        lacking = []
        for index, name in enumerate(names):
            value = (row[0].get_value(0, index) or b"").decode()
            if not same(name, value, wanted[name]):
                lacking.append(name)
        return lacking

    def _warn(self, lacking: list[str]) -> None:
        new = [name for name in lacking if name not in self._warned]
        self._warned.update(new)
        for name in new:
            origin = self._defaults.origins.get(name, f"start-up option {name}")
            text = (
                f"pool {self._name!r}: {origin} did not reach the server with the connection "
                "(a pooler in between drops start-up options), so it is set by statement. "
                "Have the pooler pass or track `options`."
            )
            try:
                warnings.warn(text, PoolWarning, stacklevel=2)
            except PoolWarning:
                # A filter made it an error, which in this thread could only fail the connect.
                logger.warning("event=options_dropped %s", text)


def _run(connection: PoolConnection, statement: bytes) -> list[Any]:
    from django_poolkit.pools.postgres import probe, reset

    return probe.execute(connection, statement, reset.TIMEOUT)


def sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE of a failed connect, read from the words where it has no other."""
    if state := getattr(error, "sqlstate", None):
        return str(state)
    text = str(error)
    return next((state for pattern, state in _STATES if pattern.search(text)), None)


def summarise(error: BaseException, *secrets: str) -> str:
    """Return class, SQLSTATE and first line of a failed connect, without address and secrets.

    What a function of the settings has raised, as one that fetches the password, may say anything:
    of that, the class and the place alone.
    """
    if isinstance(error, (CredentialsError, PoolConfigError)):
        return f"{type(error).__name__}: {error}"
    if not isinstance(error, psycopg.Error):
        return f"{type(error).__name__}{_place(error)}"
    lines = str(error).strip().splitlines()
    text = _ADDRESS.sub("", lines[0] if lines else "").removeprefix("connection failed: ")
    text = _HOST.sub("the host", text)
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    state = sqlstate(error)
    kind = type(error).__name__
    return f"{kind}{f' [{state}]' if state else ''}: {text[:_LONGEST]}"


def _place(error: BaseException) -> str:
    """Return where an error was raised, empty where it has not been."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    if frame is None:
        return ""
    code = frame.tb_frame.f_code
    return f" raised in {code.co_name}, {PurePath(code.co_filename).name}:{frame.tb_lineno}"
