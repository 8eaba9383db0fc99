"""An entry of `DATABASES` in asyncpg's words: libpq's parameters, and what Django adds to them."""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from django.core.exceptions import ImproperlyConfigured

from django_poolkit.conf.databases import pool_config
from django_poolkit.pools.config import SERVER_GUARDS

# By libpq's name, asyncpg's.
_RENAMED: Final = {"dbname": "database", "connect_timeout": "timeout"}
_AS_THEY_ARE: Final = (
    "user", "password", "passfile", "service", "target_session_attrs", "krbsrvname", "gsslib",
)  # fmt: skip
# asyncpg takes these from a URL alone, where certificates are concerned.
_OF_A_URL: Final = (
    "sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation",
    "ssl_min_protocol_version", "ssl_max_protocol_version",
)  # fmt: skip
_OF_THE_SOCKET: Final = (
    "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
)  # fmt: skip
# psycopg's and Django's own, of which nothing is for the server.
_OF_PSYCOPG: Final = frozenset({
    "autocommit", "context", "cursor_factory", "prepare_threshold", "server_side_binding",
    "client_encoding", "row_factory", "isolation_level", "pool", "hosts", "assume_role",
})  # fmt: skip
# What asyncpg does anyhow, by the value that says so.
_ANYHOW: Final = {"gssencmode": ("disable", "prefer"), "channel_binding": ("disable", "prefer"),
                  "sslcompression": ("0", 0), "load_balance_hosts": ("disable",)}  # fmt: skip


def connect_parameters(
    alias: str, params: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str], dict[str, int]]:
    """Return arguments of `asyncpg.connect()`, settings of the server, and options of the socket.

    `params` are psycopg's, as a database wrapper has them. Raises ImproperlyConfigured for what
    asyncpg cannot honour.
    """
    connect: dict[str, Any] = {}
    settings: dict[str, str] = {}
    sockets: dict[str, int] = {}
    url: dict[str, str] = {}
    for key, value in params.items():
        if value is None or key in _OF_PSYCOPG:
            continue
        if key in _OF_A_URL:
            url[key] = str(value)
        elif key in _OF_THE_SOCKET:
            sockets[key] = int(value)
        elif key in ("host", "port"):
            connect[key] = _each(key, value)
        elif key in ("application_name", "options"):
            settings[key] = str(value)
        elif key in _RENAMED or key in _AS_THEY_ARE:
            connect[_RENAMED.get(key, key)] = value
        elif value not in _ANYHOW.get(key, ()):
            raise ImproperlyConfigured(
                f"DATABASES[{alias!r}]['OPTIONS'][{key!r}] cannot be honoured by asyncpg, so the "
                "alias can have no pool of asyncpg connections."
            )
    if "timeout" in connect:
        connect["timeout"] = max(2.0, float(connect["timeout"]))  # libpq's own least
    # A service is looked up by asyncpg only where there is a URL.
    connect["dsn"] = "postgresql://" + (f"?{urlencode(url)}" if url else "")
    if service := connect.get("service"):
        _refuse_unknown_service(alias, str(service))
    return connect, settings, sockets


def session_settings(wrapper: Any) -> dict[str, str]:
    """Return the settings of the server that Django's connections to an alias begin with."""
    options = wrapper.settings_dict["OPTIONS"]
    settings: dict[str, str] = {}
    if wrapper.timezone_name:
        settings["TimeZone"] = wrapper.timezone_name
    if role := options.get("assume_role"):
        settings["role"] = str(role)
    level = options.get("isolation_level")
    if level is not None:
        name = getattr(level, "name", None) or _LEVELS.get(level, str(level))
        settings["default_transaction_isolation"] = name.replace("_", " ").lower()
    config = pool_config(wrapper.alias, wrapper.settings_dict)
    guards = {} if config is None else config.guards or {}
    settings.update({key: str(guards[key]) for key in SERVER_GUARDS if key in guards})
    return settings


# psycopg's IsolationLevel, as numbers.
_LEVELS: Final = {1: "read uncommitted", 2: "read committed", 3: "repeatable read",
                  4: "serializable"}  # fmt: skip


def _each(key: str, value: object) -> Any:
    """Return one host or port, or the list of several."""
    parts = [part.strip() for part in str(value).split(",")]
    found: list[Any] = [int(part or 5432) for part in parts] if key == "port" else parts
    return found if len(found) > 1 else found[0]


def _refuse_unknown_service(alias: str, service: str) -> None:
    """asyncpg would pass over it in silence, and connect to somewhere else."""
    given = os.environ.get("PGSERVICEFILE")
    path = Path(given) if given else Path.home() / ".pg_service.conf"
    found = configparser.ConfigParser(interpolation=None)
    found.read(path)
    if service not in found.sections():
        raise ImproperlyConfigured(
            f"DATABASES[{alias!r}] names a service that is not in the connection service file "
            "asyncpg reads: PGSERVICEFILE, or else .pg_service.conf of the home directory."
        )
