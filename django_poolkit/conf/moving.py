"""`DATABASES` of a project that pools elsewhere, or not at all: the same as options of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django.conf import settings

from django_poolkit.conf.databases import ENGINES
from django_poolkit.conf.moves import Kept, Left, Move, Word
from django_poolkit.conf.peers import PEERS
from django_poolkit.pools.config import PoolConfig
from django_poolkit.pools.errors import PoolConfigError

_PGBOUNCER: Final = "6432"


def moves() -> list[Move | Left]:
    """Return what each alias of the project's `DATABASES` becomes. Opens and changes nothing."""
    return [moved(alias, database) for alias, database in settings.DATABASES.items()]


def moved(alias: str, database: Mapping[str, Any]) -> Move | Left:
    """Return what one entry of `DATABASES` becomes."""
    engine = str(database.get("ENGINE", ""))
    if engine in ENGINES:
        return Left(alias, engine, "is pooled here already")
    if engine not in PEERS:
        return Left(alias, engine, _why_left(engine))
    source, to, translate = PEERS[engine]
    move = Move(alias=alias, engine=engine, source=source, to=to)
    translate(move, database)
    _persistence(move, database)
    _verify(move)
    port, options = str(database.get("PORT", "")), database.get("OPTIONS", {})
    move.may_be_pooler = bool(
        port == _PGBOUNCER
        or database.get("DISABLE_SERVER_SIDE_CURSORS")
        or options.get("prepare_threshold", 0) is None
    )
    return move


def _why_left(engine: str) -> str:
    if engine.endswith(("mysql", "oracle", "sqlite3", "spatialite", "dummy")) or not engine:
        return "is no PostgreSQL"
    return (
        "is not known here: where its DatabaseWrapper is one of Django's for PostgreSQL, put "
        "PooledDatabaseWrapperMixin in front of it, in an engine of your own"
    )


def _persistence(move: Move, database: Mapping[str, Any]) -> None:
    age = database.get("CONN_MAX_AGE", 0)
    if age != 0:
        move.change(
            "CONN_MAX_AGE", age, 0, "the pool keeps connections; max_lifetime bounds their age"
        )
    if database.get("CONN_HEALTH_CHECKS"):
        move.change("CONN_HEALTH_CHECKS", True, Word("not needed"), "each acquire has the probe")


def _verify(move: Move) -> None:
    """Take note of what would be refused here."""
    plain = {key: value for key, value in move.pool.items() if not isinstance(value, Kept)}
    try:
        PoolConfig.from_options(plain)
    except PoolConfigError as error:
        move.notes.append(f"It would be refused: {error}. Mend that first.")
