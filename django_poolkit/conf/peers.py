"""Other pools for Django, and what their settings are here.

What a project has written is translated. What it has left to the defaults of the other pool is left
to ours, but for the bound: `max_size` is what it was, since servers are sized by it. Said of
Django 6.1 with psycopg_pool 3.3, django-db-connection-pool 1.2.6, django-pg-real-pool 1.1.0,
django-db-geventpool 4.0.8 and django-prometheus 2.5.0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from django_poolkit.conf.databases import ENGINES
from django_poolkit.conf.moves import Kept, Move, Word, shown
from django_poolkit.pools.config import PoolConfig

_POSTGRESQL, _POSTGIS = ENGINES
# What psycopg_pool's constructor takes, and Django's wrapper passes on; here the wrapper sets it.
_REFUSED: Final = frozenset({"conninfo", "kwargs", "connection_class", "open"})
# Their defaults, where others are ours.
_PSYCOPG_MIN: Final = 4
_PSYCOPG_TIMEOUT: Final = 30.0
_QUEUE_SIZE: Final = 10
_QUEUE_OVERFLOW: Final = 10
_QUEUE_TIMES: Final = {"timeout": 30.0, "max_lifetime": 900.0}
_GEVENT_MOST: Final = 4
# All that django-db-connection-pool takes of POOL_OPTIONS, in capitals.
_TAKEN: Final = {"PRE_PING", "ECHO", "TIMEOUT", "RECYCLE", "POOL_SIZE", "MAX_OVERFLOW"}


def _djangos(move: Move, database: Mapping[str, Any]) -> None:
    """Translate what Django hands to psycopg_pool."""
    given = database.get("OPTIONS", {}).get("pool")
    if not given:
        move.change(
            "max_size", Word("one a thread, no bound"), _default("max_size"),
            "the bound of each process: `manage.py pooladvise` says what yours need",
        )  # fmt: skip
        return
    _psycopg_pool(move, given if isinstance(given, Mapping) else {})


def _psycopg_pool(move: Move, given: Mapping[str, Any]) -> None:
    own = {f"{key}": value for key, value in given.items() if key not in _REFUSED}
    low = own.get("min_size", _PSYCOPG_MIN)
    # There, no max_size, or None, is a pool of a fixed size.
    own["max_size"] = low if own.get("max_size") is None else own["max_size"]
    for key, value in own.items():
        plain = value is None or isinstance(value, (bool, int, float))
        move.pool[key] = value if plain else Kept(("OPTIONS", "pool", key))
    if given.get("max_size") is None:
        move.change("max_size", Word(f"as min_size ({shown(low)})"), own["max_size"], "written out")
    _defaults(move, {"min_size": _PSYCOPG_MIN, "timeout": _PSYCOPG_TIMEOUT})
    for key in sorted(_REFUSED.intersection(given)):
        why = "the connection's parameters are the other entries"
        if key in ("conninfo", "kwargs"):
            why += "; a password that changes is a function in PASSWORD, or `credentials`"
        move.change(key, given[key], Word("refused"), why)
    if "check" in given:
        move.change("check", given["check"], Word("kept"), "called after our own probe")
    if callable(given.get("reset")):
        move.change("reset", given["reset"], Word("kept"), "called in the releasing thread")


def _early(move: Move, database: Mapping[str, Any]) -> None:
    """Translate django-pg-real-pool on Django's pool."""
    given = database.get("OPTIONS", {}).get("pool")
    _psycopg_pool(move, given if isinstance(given, Mapping) else {})
    _by_statement(move)


def _by_statement(move: Move) -> None:
    move.pool = {"mode": Word("transaction"), **move.pool}
    move.change(
        "mode", Word("the lease ends with the cursor"), Word("transaction"),
        "the same, and what would leave session state behind holds its connection",
    )  # fmt: skip
    move.notes.append("DJANGO_PG_REAL_POOL_TELEMETRY has no reader any more: see the metrics.")


def _prometheus(move: Move, database: Mapping[str, Any]) -> None:
    """Translate django-prometheus, which leaves the pool to Django."""
    _djangos(move, database)
    module = move.engine.rpartition(".")[2]
    move.notes.append(
        "django_db_* of django-prometheus ends with its engine; poolkit_* stands on the same page. "
        "To have both, make an engine of your own: PooledDatabaseWrapperMixin in front of the "
        f"DatabaseWrapper of django_prometheus.db.backends.{module}.base."
    )


def _sqlalchemy(move: Move, database: Mapping[str, Any]) -> None:
    """Translate django-db-connection-pool: SQLAlchemy's QueuePool."""
    given = dict(database.get("POOL_OPTIONS") or {})
    # By SQLAlchemy's own names, too: `pool_size`, `pool_timeout`.
    said = {key.lower().removeprefix("pool_"): value for key, value in given.items()}
    size: Any = said.get("size", _QUEUE_SIZE)
    overflow: Any = said.get("max_overflow", _QUEUE_OVERFLOW)
    if not (_whole(size) and _whole(overflow)) or size < 1 or overflow < 0:
        move.change("max_size", Word("no bound"), _default("max_size"), "a pool here has a bound")
    else:
        move.pool["max_size"] = size + overflow
        was = Word(f"POOL_SIZE {size} and MAX_OVERFLOW {overflow}")
        move.change("max_size", was, size + overflow, "their sum")
        if "size" in said:
            move.pool["min_size"] = size
            move.change("min_size", Word(f"POOL_SIZE {size}"), size, "opened in advance here")
    if _number(said.get("timeout")):
        move.pool["timeout"] = said["timeout"]
    recycle: Any = said.get("recycle")
    if _number(recycle) and recycle > 0:
        move.pool["max_lifetime"] = recycle
        move.change("max_lifetime", Word(f"RECYCLE {recycle}"), recycle, "spread by up to 25 %")
    elif recycle is not None:
        move.change("max_lifetime", Word("RECYCLE off"), _default("max_lifetime"))
    _defaults(move, _QUEUE_TIMES)
    if said.get("pre_ping", True):
        move.change(
            "PRE_PING", Word("a round trip each time"), Word("the probe"),
            "no round trip for a connection that was used just now",
        )  # fmt: skip
    known = {"size", "max_overflow", "timeout", "recycle", "pre_ping"}
    if others := len(said.keys() - known - {"echo"}):
        move.notes.append(f"Of POOL_OPTIONS {others} has no counterpart here, and is left out.")
    if unseen := len([key for key in given if key not in _TAKEN]) - others:
        move.notes.append(
            f"Of POOL_OPTIONS {unseen} had no effect, by its spelling: it is written out here."
        )
    if "POOL_OPTIONS" in database:
        move.gone_above = ("POOL_OPTIONS",)
    move.notes.append("What dj_db_conn_pool.setup() changes in code is not seen here.")


def _early_sqlalchemy(move: Move, database: Mapping[str, Any]) -> None:
    """Translate django-pg-real-pool on django-db-connection-pool."""
    _sqlalchemy(move, database)
    _by_statement(move)


def _gevent(move: Move, database: Mapping[str, Any]) -> None:
    """Translate django-db-geventpool."""
    options = database.get("OPTIONS", {})
    most = options.get("MAX_CONNS", _GEVENT_MOST)
    move.pool["max_size"] = most if _whole(most) else _default("max_size")
    move.change("max_size", Word(f"MAX_CONNS {shown(most)}"), move.pool["max_size"], "a bound here")
    if "REUSE_CONNS" in options:
        move.change(
            "REUSE_CONNS", options["REUSE_CONNS"], Word("max_idle"),
            "all are kept, and closed when they have been idle for 600 s",
        )  # fmt: skip
    move.change("timeout", Word("waits for ever"), _default("timeout"), "then PoolTimeout, or 503")
    move.change("health", Word("SELECT 1 each time"), Word("the probe"), "mostly no round trip")
    move.gone = tuple(key for key in ("MAX_CONNS", "REUSE_CONNS") if key in options)
    move.notes.append(
        "It is for gevent. The pool here serves threads, and with ASYNC_ORM tasks of asyncio: "
        "change the worker class with the engine."
    )
    if move.engine.endswith("psycopg2"):
        move.notes.append("It uses psycopg2; psycopg 3 is needed here.")


def _defaults(move: Move, theirs: Mapping[str, float]) -> None:
    """Enter the defaults that are others here."""
    for key, value in theirs.items():
        if key not in move.pool and (ours := _default(key)) != value:
            said = any(change.what == key for change in move.changes)
            if not said:
                move.change(key, Word(f"{value:g} (default)"), Word(f"{ours:g} (default)"))


def _default(key: str) -> Any:
    return PoolConfig.default(key)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_Translate = Callable[[Move, Mapping[str, Any]], None]
_DJANGO: Final = "Django"
_QUEUEPOOL: Final = "django-db-connection-pool"
_GEVENTPOOL: Final = "django-db-geventpool"
PEERS: Final[Mapping[str, tuple[str, str, _Translate]]] = {
    "django.db.backends.postgresql": (_DJANGO, _POSTGRESQL, _djangos),
    "django.contrib.gis.db.backends.postgis": (_DJANGO, _POSTGIS, _djangos),
    "django_prometheus.db.backends.postgresql": ("django-prometheus", _POSTGRESQL, _prometheus),
    "django_prometheus.db.backends.postgis": ("django-prometheus", _POSTGIS, _prometheus),
    "dj_db_conn_pool.backends.postgresql": (_QUEUEPOOL, _POSTGRESQL, _sqlalchemy),
    "dj_db_conn_pool.backends.postgis": (_QUEUEPOOL, _POSTGIS, _sqlalchemy),
    "django_pg_real_pool": ("django-pg-real-pool", _POSTGRESQL, _early),
    "django_pg_real_pool.native": ("django-pg-real-pool", _POSTGRESQL, _early),
    "django_pg_real_pool.dj_db_conn_pool": (
        "django-pg-real-pool", _POSTGRESQL, _early_sqlalchemy,
    ),
    "django_db_geventpool.backends.postgresql_psycopg3": (_GEVENTPOOL, _POSTGRESQL, _gevent),
    "django_db_geventpool.backends.postgresql_psycopg2": (_GEVENTPOOL, _POSTGRESQL, _gevent),
    "django_db_geventpool.backends.postgis": (_GEVENTPOOL, _POSTGIS, _gevent),
}  # fmt: skip
"""By their ENGINE: whose it is, which of ours takes its place, and what translates."""
