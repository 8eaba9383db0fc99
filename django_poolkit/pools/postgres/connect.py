"""Physical connects: bounded, with the session's defaults in the start-up packet, verified.

What is set by start-up options is what RESET ALL goes back to, and costs no round trip. What did
not arrive by them is seen to by `arrival`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePath
from time import monotonic
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from django_poolkit.pools.config import SERVER_GUARDS, Prepare
from django_poolkit.pools.credentials import Credentials
from django_poolkit.pools.errors import CredentialsError, PoolConfigError
from django_poolkit.pools.poolers import Pooler
from django_poolkit.pools.postgres.arrival import Arrival
from django_poolkit.pools.postgres.connection import PoolConnection
from django_poolkit.pools.postgres.fence import Fence
from django_poolkit.pools.postgres.leased_cursor import check_factory
from django_poolkit.pools.postgres.plans import Plans

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
_ADDRESS: Final = re.compile(
    r'connection to server (at|on socket) "[^"]*"( \([^)]*\))?(, port \d+)? failed: '
)
# PgBouncer, and RDS Proxy.
_NO_OPTIONS: Final = re.compile(r"unsupported startup parameter|support command-line options")
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
        pooler: Pooler | None = None,
    ) -> None:
        self._class = connection_class
        self.arrival = Arrival(defaults.settings, defaults.origins, name=name, pooler=pooler)
        """Sees to what a session is to begin with."""
        self.arrival.unsure = plans is not None  # those who only ask are not interested
        self.fence: Fence | None = None
        """What is demanded of the server, None for nothing."""
        self.lenient = False
        """Whether one that does not meet it will do, where there is no other."""
        self._timeout = timeout
        self._prepare = prepare
        # Of a session of one's own there is nothing to be tried.
        self._tries = prepare is True and pooler != "pgbouncer-session"
        self._plans = plans

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
        at_start = {} if by_statement else self.arrival.at_start
        if at_start:
            # So would those of the environment, which libpq takes where none are given.
            own = str(given.get("options") or os.environ.get("PGOPTIONS") or "")
            with_defaults = {**params, "options": SessionDefaults(at_start).options(own)}
            try:
                connection = self._class.connect(conninfo, **with_defaults)
            except psycopg.OperationalError as error:
                if not _NO_OPTIONS.search(str(error)):
                    raise
                self.arrival.refused = True
            else:
                self._complete(connection)
                return connection
        connection = self._class.connect(conninfo, **params)
        self._complete(connection, warn=not by_statement)
        return connection

    def _complete(self, connection: PoolConnection, *, warn: bool = True) -> None:
        """Bring a new connection to where each lease begins. Closes it on failure."""
        try:
            prepares = self._plans is not None and connection.prepare_threshold is not None
            if prepares:
                assert self._plans is not None
                connection.prepare_by(self._plans)
            self.arrival.complete(connection, prepares=prepares and self._tries, warn=warn)
        except BaseException:
            connection.close()
            raise


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
