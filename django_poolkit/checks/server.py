"""What the server says: how many connections it gives, and which timeouts it keeps.

For `check --database`. One connection an alias, one statement, and nothing is changed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from django.core import checks
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.db import Error

from django_poolkit.checks.aliases import Alias, asyncpg_pools, pooled
from django_poolkit.checks.catalogue import questions
from django_poolkit.checks.poolers import declared, may_be_pooler
from django_poolkit.conf import site

_RESERVED: Final = ("superuser_reserved_connections", "reserved_connections")
_GUARDS: Final = ("statement_timeout", "idle_in_transaction_session_timeout")
# The value that a session begins with: the server's, the database's, the role's, or the pool's own.
_ASKED: Final = """
SELECT pg_catalog.pg_backend_pid(),
  (SELECT rolconnlimit FROM pg_catalog.pg_roles WHERE rolname = session_user),
  (SELECT datconnlimit FROM pg_catalog.pg_database WHERE datname = current_database()),
  (SELECT pg_catalog.json_object_agg(name, reset_val)::text FROM pg_catalog.pg_settings
   WHERE name = ANY (%s))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What one server has said to one alias."""

    settings: dict[str, int]
    of_role: int
    """Connections that the role may have; -1 for any number."""
    of_database: int
    """Connections that the database may have; -1 for any number."""
    is_direct: bool
    """Whether no pooler stands in between, whose own limits would count."""

    def limit(self) -> tuple[int, str]:
        """Return how many connections there are for ordinary users, and by whose word."""
        most = self.settings["max_connections"]
        most -= sum(self.settings.get(name, 0) for name in _RESERVED)
        found = [(most, "max_connections, less what is reserved")]
        if self.of_role >= 0:
            found.append((self.of_role, "CONNECTION LIMIT of the role"))
        if self.of_database >= 0:
            found.append((self.of_database, "CONNECTION LIMIT of the database"))
        return min(found)


def budget(databases: Collection[str]) -> Iterator[CheckMessage]:
    """Compare what the pools of a host's workers may take with what the server gives."""
    told: set[tuple[str, str]] = set()
    for alias, server in _asked(databases):
        if isinstance(server, CheckMessage):
            yield server
            continue
        if may_be_pooler(alias) or not server.is_direct or (place := _place(alias)) in told:
            continue
        told.add(place)
        size, names = _together(alias)
        workers = site.web_workers()
        (most, why), need = server.limit(), size * (workers or 1)
        if need > most:
            said = f"WEB_CONCURRENCY is {workers}" if workers else "WEB_CONCURRENCY is not set"
            yield checks.Warning(
                f"The pools of {', '.join(names)} may take {size} connections a process, "
                f"{need} for {workers or 1} of them ({said}), and the server gives {most} "
                f"({why}).",
                hint="Lower 'max_size', or have fewer workers. Other hosts, task workers, "
                "commands, and the processes of a deployment beside the old ones, are not counted.",
                id="poolkit.W035",
            )


def poolers(databases: Collection[str]) -> Iterator[CheckMessage]:
    """Look whether a pooler stands in between, and whether the settings say so."""
    for alias, server in _asked(databases):
        if isinstance(server, CheckMessage):
            continue  # `budget` has said so
        pooler, place = declared(alias), alias.of_pool("pooler")
        if pooler is None and not server.is_direct:
            yield checks.Warning(
                f"A pooler stands between database {alias.name!r} and its server, and {place} does "
                "not say which. If it lends its sessions by transaction, session state is lost "
                "there without a word.",
                hint="Write 'pgbouncer-transaction', 'pgbouncer-session' or 'rds-proxy' there.",
                id="poolkit.W038",
            )
        elif pooler is not None and server.is_direct:
            yield checks.Info(
                f"{place} is {pooler!r}, and database {alias.name!r} leads to the server itself: "
                "what a pooler would lose is refused for nothing.",
                hint="Remove it where no pooler stands in between.",
                id="poolkit.I007",
            )


def timeouts(databases: Collection[str]) -> Iterator[CheckMessage]:
    """Look for databases that would let a statement, or a forgotten transaction, go on for ever."""
    for alias, server in _asked(databases):
        if isinstance(server, CheckMessage):
            continue  # `budget` has said so
        statement, idle = (server.settings.get(name, 0) for name in _GUARDS)
        if not statement:
            yield checks.Warning(
                f"{alias.of_pool('statement_timeout')} is not set, nor does the server bound "
                "statements for this role: one that hangs holds its connection for ever.",
                hint="Set it, with its unit, as '30s'; behind a pooler by ALTER ROLE … SET.",
                id="poolkit.W036",
            )
        if not idle:
            yield checks.Warning(
                f"{alias.of_pool('idle_in_transaction_session_timeout')} is not set, nor does the "
                "server bound it for this role: a transaction whose program hangs keeps its locks, "
                "and all that VACUUM would remove.",
                hint="Set it, with its unit, as '60s'; behind a pooler by ALTER ROLE … SET.",
                id="poolkit.W037",
            )


def _asked(databases: Collection[str]) -> Iterator[tuple[Alias, Server | CheckMessage]]:
    for alias, _ in pooled():
        if alias.name in databases:
            try:
                yield alias, _ask(alias.name)
            except ImproperlyConfigured:
                continue  # the pool cannot be made, by a setting of which another check speaks
            except Error as error:
                cause = type(error.__cause__ or error).__name__
                text = f"The server of database {alias.name!r} could not be asked: {cause}."
                hint = "`manage.py poolcheck` tries it, too, and says what is wrong."
                yield alias, checks.Info(text, hint=hint, id="poolkit.I006")


def _ask(alias: str) -> Server:
    with questions(alias) as (cursor, connection):
        cursor.execute(_ASKED, [["max_connections", *_RESERVED, *_GUARDS]])
        pid, of_role, of_database, settings = cursor.fetchone()
        return Server(
            settings={name: int(value) for name, value in json.loads(settings).items()},
            of_role=of_role,
            of_database=of_database,
            # A pooler makes up the number that it tells its clients.
            is_direct=pid == connection.connection.info.backend_pid,
        )


def _place(alias: Alias) -> tuple[str, str]:
    if "hosts" in alias.options:
        return alias.name, "hosts"  # one of several servers, each with such a pool
    return str(alias.settings["HOST"] or ""), str(alias.settings["PORT"] or "")


def _together(alias: Alias) -> tuple[int, list[str]]:
    """Return what the pools of all aliases on the same server may hold, and their names."""
    sizes: dict[object, int] = {}
    names: list[str] = []
    for other, config in pooled():
        if _place(other) == _place(alias) and not other.is_mirror:
            sizes[other.pool_key()] = config.max_size
            names.append(f"DATABASES[{other.name!r}]")
    for name, beside in asyncpg_pools():
        if f"DATABASES[{name!r}]" in names:
            sizes["asyncpg", name] = beside.max_size
            names.append(f"POOLKIT['ASYNCPG'][{name!r}]")
    return sum(sizes.values()), names
