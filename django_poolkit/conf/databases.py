"""`DATABASES`: which aliases are pooled, and how.

Reads the mapping that Django made of the setting, or one that a test changed; never repairs.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from django_poolkit.conf.hosts import hosts_of
from django_poolkit.conf.poolkit import bad_value_at
from django_poolkit.pools.config import SERVER_GUARDS, PoolConfig
from django_poolkit.pools.credentials import Source
from django_poolkit.pools.errors import PoolConfigError
from django_poolkit.pools.poolers import traits

ENGINES: Final = ("django_poolkit.backends.postgresql", "django_poolkit.backends.postgis")
# psycopg_pool's constructor takes them, but here the backend does.
_OURS_TO_SET: Final = ("conninfo", "kwargs", "connection_class", "open")

# libpq has none of these names; those of its own guards are right in either place.
_OF_THE_POOL: Final = frozenset(
    {"preset", *SERVER_GUARDS, *PoolConfig.__dataclass_fields__} - {"guards", "reset_callback"}
)

# What stands in OPTIONS beside them: psycopg.connect()'s parameters, Django's, and ours.
_OF_DJANGO: Final = (
    "autocommit", "context", "cursor_factory", "prepare_threshold", "row_factory",
    "assume_role", "isolation_level", "server_side_binding", "pool", "hosts",
)  # fmt: skip


def pool_config(alias: str, database: Mapping[str, Any]) -> PoolConfig | None:
    """Return the pool's options of one alias, None where it is not pooled.

    `database` is the alias's entry in `DATABASES`. Raises ImproperlyConfigured with the path
    of the setting.
    """
    path = f"DATABASES[{alias!r}]"
    value = database.get("OPTIONS", {}).get("pool", True)
    if value is None or value is False:
        return None
    if value is True:
        value = {}
    if not isinstance(value, Mapping):
        what = "must be True, False or a dict of options"
        raise bad_value_at(f"{path}['OPTIONS']['pool']", value, what)
    _refuse_misplaced(path, database.get("OPTIONS", {}))
    if database.get("CONN_MAX_AGE", 0) != 0:
        raise ImproperlyConfigured(
            "Pooling doesn't support persistent connections. "
            f"Set {path}['CONN_MAX_AGE'] to 0, or {path}['OPTIONS']['pool'] to False."
        )
    for key in _OURS_TO_SET:
        if key in value:
            raise ImproperlyConfigured(
                f"{path}['OPTIONS']['pool'][{key!r}] is not yours to set: the connection's "
                f"parameters are the other entries of {path}."
            )
    try:
        config = PoolConfig.from_options(value, path=f"{path}['OPTIONS']['pool']")
    except PoolConfigError as error:
        raise ImproperlyConfigured(str(error)) from error
    _check_binding(path, config, database.get("OPTIONS", {}))
    if traits(config.pooler).loses and database.get("DISABLE_SERVER_SIDE_CURSORS") is False:
        raise ImproperlyConfigured(
            f"{path}['DISABLE_SERVER_SIDE_CURSORS'] is False, and {path}['OPTIONS']['pool']"
            f"['pooler'] {config.pooler!r} has no session for such cursors: remove the former."
        )
    return _with_credentials(path, config, database.get("PASSWORD"))


def _refuse_misplaced(path: str, options: Mapping[str, Any]) -> None:
    """Refuse options of the pool that stand beside it: libpq would, at the first connect."""
    for key in options:
        if key in _OF_THE_POOL:
            raise ImproperlyConfigured(
                f"{path}['OPTIONS'][{key!r}] is an option of the pool: write it as "
                f"{path}['OPTIONS']['pool'][{key!r}]."
            )


def _refuse_unknown(path: str, options: Mapping[str, Any]) -> None:
    """Refuse what nobody takes: libpq would say so at each connect, and each acquire wait for it.

    At the start, of our own engines: one that is derived from them may take options of its own.
    """
    from django_poolkit.pools.postgres import libpq  # loads the driver

    known = {*_OF_DJANGO, *libpq.options()}
    for key in options:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ImproperlyConfigured(
                f"{path}[{key!r}]: neither Django nor libpq {libpq.version()} has "
                f"such an option.{hint}"
            )


def _check_binding(path: str, config: PoolConfig, options: Mapping[str, Any]) -> None:
    """Refuse what could not prepare statements, and cursors that cannot be leased."""
    if config.prepare and options.get("server_side_binding") is False:
        raise ImproperlyConfigured(
            f"{path}['OPTIONS']['pool']['prepare'] needs ['OPTIONS']['server_side_binding'], which "
            "is False: remove that, or turn off 'prepare'."
        )
    if (factory := options.get("cursor_factory")) is not None:
        from django_poolkit.pools.postgres.leased_cursor import check_factory  # loads the driver

        try:
            check_factory(factory, prepare=bool(config.prepare))
        except PoolConfigError as error:
            raise ImproperlyConfigured(f"{path}['OPTIONS']{error}.") from None


def credentials_of(database: Mapping[str, Any]) -> Source | None:
    """Return the option `credentials` of an entry in `DATABASES`, None where it has none."""
    pool = database.get("OPTIONS", {}).get("pool")
    return pool.get("credentials") if isinstance(pool, Mapping) else None


def place_of_credentials(database: Mapping[str, Any]) -> str:
    """Return where in the entry stands who supplies the password, for errors."""
    own = credentials_of(database) is None
    return "['PASSWORD']" if own else "['OPTIONS']['pool']['credentials']"


def _with_credentials(path: str, config: PoolConfig, password: object) -> PoolConfig:
    """Return the config with a PASSWORD that is a function as what supplies the credentials."""
    if config.credentials is not None:
        if password:
            raise ImproperlyConfigured(
                f"{path}['OPTIONS']['pool']['credentials'] supplies the password, and "
                f"{path}['PASSWORD'] is another: remove one of them."
            )
        return config
    if not callable(password):
        return config
    try:
        return replace(config, credentials=password)
    except PoolConfigError as error:
        what = str(error).removeprefix("['credentials'] ")
        raise ImproperlyConfigured(f"{path}['PASSWORD'] {what}") from None


def copy_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of an entry of `DATABASES` so deep that no change to it reaches the copy."""
    copied = dict(settings)
    options = dict(settings["OPTIONS"])
    if isinstance(options.get("pool"), Mapping):
        options["pool"] = {**options["pool"]}
    if "hosts" in options:
        options["hosts"] = deepcopy(options["hosts"])
    copied["OPTIONS"] = options
    copied["TEST"] = deepcopy(settings.get("TEST"))
    return copied


def verify_databases() -> None:
    """Check every entry of `DATABASES` that concerns pools. Opens nothing.

    Raises ImproperlyConfigured for the first that cannot be honoured.
    """
    for alias, database in settings.DATABASES.items():
        verify_database(alias, database)


def verify_database(alias: str, database: Mapping[str, Any]) -> None:
    """Check one entry of `DATABASES`, as `verify_databases()` does for all."""
    engine = database.get("ENGINE", "")
    if engine in ENGINES:
        if pool_config(alias, database) is not None:
            _refuse_unknown(f"DATABASES[{alias!r}]['OPTIONS']", database.get("OPTIONS", {}))
        hosts_of(alias, database)
    elif engine.startswith("django.db.backends."):
        _refuse_hosts(alias, engine, database.get("OPTIONS", {}))
        _refuse_foreign_engine(alias, engine, database.get("OPTIONS", {}).get("pool"))


def _refuse_hosts(alias: str, engine: str, options: Mapping[str, Any]) -> None:
    if "hosts" in options:
        raise ImproperlyConfigured(
            f"DATABASES[{alias!r}]['OPTIONS']['hosts'] is an option of django_poolkit, but its "
            f"ENGINE is {engine!r}. Set ENGINE to {ENGINES[0]!r}, or remove the option."
        )


def _refuse_foreign_engine(alias: str, engine: str, pool: object) -> None:
    """Refuse our options on an engine of Django's, where they would be ignored or misread."""
    pools_there = engine in ("django.db.backends.postgresql", "django.db.backends.oracle")
    ours: list[str] = []
    if isinstance(pool, Mapping):
        theirs = {
            "min_size", "max_size", "timeout", "max_waiting", "max_lifetime", "max_idle",
            "reconnect_timeout", "reconnect_failed", "num_workers", "check", "configure", "reset",
            "name", "close_returns",
        }  # fmt: skip
        known = {"preset", *PoolConfig.__dataclass_fields__}
        ours = sorted(str(key) for key in pool if key in known - theirs)
    if ours or (pool and not pools_there):
        what = f"has options of django_poolkit ({', '.join(ours)})" if ours else "is set"
        raise ImproperlyConfigured(
            f"DATABASES[{alias!r}]['OPTIONS']['pool'] {what}, but its ENGINE is {engine!r}. "
            f"Set ENGINE to {ENGINES[0]!r}, or remove the option."
        )
