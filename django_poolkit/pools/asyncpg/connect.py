"""Physical connects: what is sent with them, and what is looked at after."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import re
import socket
import warnings
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timezone, tzinfo
from typing import Any, Final

import asyncpg

from django_poolkit.pools.asyncpg.codecs import agree_with_django
from django_poolkit.pools.asyncpg.config import AsyncpgConfig
from django_poolkit.pools.asyncpg.hosts import dial
from django_poolkit.pools.asyncpg.physical import Physical
from django_poolkit.pools.credentials import Answer, Credentials
from django_poolkit.pools.errors import CredentialsError, PoolConfigError, PoolWarning

logger = logging.getLogger("django_poolkit.pool")

_LONGEST: Final = 200
# Seconds. A connect that takes longer has no caller left who would wait for it.
_LONGEST_CONNECT: Final = 30.0
_TCP: Final = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a pool leads to, and what its connections begin with."""

    connect: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Arguments of `asyncpg.connect()`. A password may be a function, and may be awaitable."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Server settings that each lease begins with, `TimeZone` and `role` among them."""
    sockets: Mapping[str, int] = field(default_factory=dict)
    """libpq's `keepalives`, and its kin."""
    zone: tzinfo | None = timezone.utc  # noqa: UP017
    """In which times are read; None for naive ones, in `naive_zone`."""
    naive_zone: tzinfo | None = None
    application_name: Callable[[], str] | None = None
    """What connections are named, where nobody names them otherwise."""


class Connector:
    """Makes the connections of one pool, on whichever event loop runs."""

    def __init__(self, target: Target, config: AsyncpgConfig) -> None:
        self._target = target
        self._config = config
        # Set by whichever connect meets such a server first; a race costs a second warning.
        self._refuses_settings = False
        self._warned = False
        self._source: Credentials | None = None
        self.made: dict[asyncpg.Connection[Any], str] = {}
        """Connections under way, with what is to be run after each of their resets."""

    async def connect(self, *args: Any, **given: Any) -> asyncpg.Connection[Any]:
        """Return a new connection whose settings and codecs are in force.

        The signature is that of asyncpg's pools, which call it. Raises what asyncpg does.
        """
        target, options = self._target, dict(self._config.connection)
        wanted = {**target.settings, **(options.get("server_settings") or {})}
        init = options.pop("init", None)
        connect = options.pop("connect", None) or asyncpg.connect
        patience = min(_LONGEST_CONNECT, max(2.0, self._config.timeout))
        arguments = {"timeout": patience, **target.connect, **options, **given}
        refused: Answer | None = None
        while True:
            answer = await self._credentials(arguments)
            try:
                return await self._connect_as(connect, arguments, wanted, init)
            except asyncpg.InvalidAuthorizationSpecificationError:
                # What was kept may be out of date: it is asked for once more, and no oftener.
                if answer is None or refused is not None or not self._source_refused(answer):
                    raise
                refused = answer

    async def _credentials(self, arguments: dict[str, Any]) -> Answer | None:
        """Put into `arguments` what a function supplies; return it where it is kept."""
        password = self._target.connect.get("password")
        if not callable(password):
            return None
        wait = float(arguments["timeout"] or _LONGEST_CONNECT)
        if inspect.iscoroutinefunction(password):
            arguments["password"] = str(await _told(self._bounded(password, wait)))
            return None
        if self._source is None:
            self._source = Credentials(password, origin="PASSWORD", name=str(self._config.name))
        place = {"dbname": arguments.get("database"), **arguments, "password": None}
        answer: Answer = await _told(asyncio.to_thread(self._source.get, place, wait))
        arguments.update(answer.params)
        return answer

    @staticmethod
    async def _bounded(password: Callable[[], Awaitable[Any]], wait: float) -> Any:
        try:
            async with asyncio.timeout(wait) as limit:
                return await password()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise CredentialsError(f"PASSWORD has given nothing for {wait:.1f} s") from error

    def _source_refused(self, answer: Answer) -> bool:
        return self._source is not None and self._source.refused(answer)

    async def _connect_as(
        self,
        connect: Callable[..., Any],
        arguments: dict[str, Any],
        wanted: Mapping[str, str],
        init: Callable[..., Any] | None,
    ) -> asyncpg.Connection[Any]:
        target = self._target
        plain = {} if target.application_name is None else {
            "application_name": target.application_name()
        }  # fmt: skip
        plain.update({key: wanted[key] for key in wanted.keys() & _ALWAYS_TAKEN})
        connection: asyncpg.Connection[Any] | None = None
        if not self._refuses_settings:
            try:
                arguments["server_settings"] = {**plain, **wanted}
                connection = await dial(connect, arguments)
            except asyncpg.PostgresError as error:
                if "unsupported startup parameter" not in str(error):
                    raise
                self._refuses_settings = True
        if connection is None:
            arguments["server_settings"] = plain
            connection = await dial(connect, arguments)
        try:
            restore = await self._prepare(connection, wanted, init, arguments["timeout"])
        except BaseException:
            connection.terminate()
            raise
        if restore:
            self.made[connection] = restore
        return connection

    async def _prepare(
        self,
        connection: asyncpg.Connection[Any],
        wanted: Mapping[str, str],
        init: Callable[..., Any] | None,
        seconds: float | None,
    ) -> str:
        """Have settings and codecs in force; return what is to be run after each reset."""
        target = self._target
        try:
            # A server may fall silent after it has let one in, and a hook hang: who waits for the
            # place of this connection would wait for either.
            async with asyncio.timeout(seconds) as limit:
                restore = await self._complete(connection, wanted)
                _tune(connection, target.sockets)
                if self._config.codecs == "django":
                    await agree_with_django(connection, target.zone, target.naive_zone)
                if init is not None:
                    await init(connection)
        except TimeoutError as error:
            if not limit.expired():
                raise
            text = f"the connection was not ready, its 'init' included, within {seconds:g} s"
            raise TimeoutError(text) from error
        return restore

    def describe(self, proxy: Any) -> Physical:
        """Return what the pool is to know of a connection that asyncpg's pool has given out."""
        connection, holder = proxy._con, proxy._holder
        proxy._detach()
        physical = Physical(connection, holder)
        physical.restore = self.made.pop(connection, "")
        return physical

    async def _complete(
        self, connection: asyncpg.Connection[Any], wanted: Mapping[str, str]
    ) -> str:
        """Set by statement what a pooler refused or dropped; return that statement."""
        dropped = "TimeZone" in wanted and not _same(
            str(getattr(connection.get_settings(), "TimeZone", "")), wanted["TimeZone"]
        )
        if not (self._refuses_settings or dropped):
            return ""
        lacking = {key: wanted[key] for key in wanted if key not in _ALWAYS_TAKEN}
        if not lacking or "options" in lacking:
            raise (
                PoolConfigError(
                    "a pooler in front of the server drops start-up options, and those of "
                    "OPTIONS['options'] cannot be set otherwise; write them as server_settings"
                )
                if lacking
                else PoolConfigError("the server did not take the time zone")
            )
        names = ", ".join(sorted(lacking))
        statement = "; ".join(
            f"SELECT pg_catalog.set_config({_quoted(name)}, {_quoted(value)}, false)"
            for name, value in lacking.items()
        )
        await connection.execute(statement)
        if not self._warned:
            self._warned = True
            text = (
                f"pool {self._config.name!r}: {names} did not reach the server with the connection "
                "(a pooler in between drops start-up parameters), so it is set by statement."
            )
            try:
                warnings.warn(text, PoolWarning, stacklevel=2)
            except PoolWarning:
                logger.warning("event=options_dropped %s", text)
        return statement


async def _told(asked: Awaitable[Any]) -> Any:
    """Return what a function supplies; have of its errors the class alone told."""
    try:
        return await asked
    except (CredentialsError, PoolConfigError):
        raise
    except Exception as error:
        # Also where it is one of those that are the server's words, or the network's, elsewhere.
        raise CredentialsError(f"PASSWORD has raised {type(error).__name__}") from error


_ALWAYS_TAKEN: Final = frozenset({"application_name"})


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'" if "\\" not in text else (
        " E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
    )  # fmt: skip


def _same(reported: str, wanted: str) -> bool:
    return reported.lower() == wanted.lower()


def _tune(connection: Any, options: Mapping[str, int]) -> None:
    """Have the kernel look after the socket, as libpq does unless it is told not to."""
    sock = connection._transport.get_extra_info("socket")
    if sock is None or getattr(sock, "family", None) == socket.AF_UNIX:
        return
    with suppress(OSError, AttributeError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(options.get("keepalives", 1)))
        for key, name in _TCP.items():
            if key in options:
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), int(options[key]))


_HOST: Final = re.compile(r"""(host|user|role|database) (name )?("[^"]*"|'[^']*')""")


def summarise(error: BaseException, *secrets: str) -> str:
    """Return class, SQLSTATE and first line of a failed connect, without address and secrets."""
    kind = type(error).__name__
    state = getattr(error, "sqlstate", None)
    if isinstance(error, OSError) and not isinstance(error, TimeoutError):
        # Its own text names the address; what the number means does not.
        return f"{kind}: {os.strerror(error.errno) if error.errno else 'no connection'}"
    if isinstance(error, (CredentialsError, PoolConfigError)):
        return f"{kind}: {error}"
    if not isinstance(error, (asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)):
        return kind  # of what a function of the settings raised, nothing may be repeated
    lines = str(error).strip().splitlines()
    text = _HOST.sub(r"the \1", lines[0] if lines else "no answer in time")
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return f"{kind}{f' [{state}]' if state else ''}: {text[:_LONGEST]}"
