"""What the settings of other pools are here, and what is not to be seen of them."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from django.db.utils import ConnectionHandler

from django_poolkit.conf.databases import ENGINES, pool_config, verify_database
from django_poolkit.conf.moves import Kept, Left, Move
from django_poolkit.conf.moving import moved
from django_poolkit.conf.peers import PEERS
from django_poolkit.control import migrating
from django_poolkit.control.tables import draw
from django_poolkit.testing import Node

OURS = "django_poolkit.backends.postgresql"
SECRETS = {"NAME": "s3-name", "HOST": "s3-host", "USER": "s3-user", "PASSWORD": "s3-word"}


def check(connection: Any) -> None:
    """A callable of the project's."""


def move(engine: str, **entry: Any) -> Move:
    found = moved("default", {**SECRETS, "ENGINE": engine, **entry})
    assert isinstance(found, Move), found
    return found


def becomes(found: Move) -> dict[str, tuple[str, str]]:
    return {change.what: (change.was, change.becomes) for change in found.changes}


def pasted(found: Move, entry: dict[str, Any]) -> dict[str, Any]:
    """Return the entry after the settings that are shown have been run below it."""
    names = {"DATABASES": {"default": entry}}
    exec(migrating.settings_text([found]), names)
    return names["DATABASES"]["default"]


# -- Django's own


def test_djangos_pool_keeps_what_is_written_and_its_bound():
    options = {"pool": {"min_size": 2, "timeout": 3, "max_idle": 60.0}}
    found = move("django.db.backends.postgresql", OPTIONS=options)
    assert found.to == OURS
    assert found.pool == {"min_size": 2, "timeout": 3, "max_idle": 60.0, "max_size": 2}
    assert becomes(found) == {"max_size": ("as min_size (2)", "2")}


def test_djangos_pool_by_its_defaults():
    found = move("django.contrib.gis.db.backends.postgis", OPTIONS={"pool": True})
    assert found.to == "django_poolkit.backends.postgis"
    assert found.pool == {"max_size": 4}
    assert becomes(found) == {
        "max_size": ("as min_size (4)", "4"),
        "min_size": ("4 (default)", "0 (default)"),
        "timeout": ("30 (default)", "5 (default)"),
    }


def test_no_pool_and_persistent_connections():
    found = move("django.db.backends.postgresql", CONN_MAX_AGE=None, CONN_HEALTH_CHECKS=True)
    assert found.pool == {}
    assert becomes(found) == {
        "max_size": ("one a thread, no bound", "10"),
        "CONN_MAX_AGE": ("None", "0"),
        "CONN_HEALTH_CHECKS": ("True", "not needed"),
    }


def test_what_cannot_be_written_out_is_referred_to_and_what_is_refused_is_left_out():
    pool = {"max_size": 3, "check": check, "reset": check, "name": "s3-pool", "conninfo": "s3-dsn"}
    entry = {**SECRETS, "ENGINE": "django.db.backends.postgresql", "OPTIONS": {"pool": pool}}
    found = moved("default", entry)
    assert isinstance(found, Move)
    assert found.pool["check"] == Kept(("OPTIONS", "pool", "check"))
    assert becomes(found)["conninfo"] == ("a str", "refused")
    new = pasted(found, entry)["OPTIONS"]["pool"]
    assert new == {"max_size": 3, "check": check, "reset": check, "name": "s3-pool"}


# -- the others


def test_django_db_connection_pool():
    options = {"POOL_SIZE": 5, "MAX_OVERFLOW": 15, "RECYCLE": 300, "TIMEOUT": 7}
    found = move("dj_db_conn_pool.backends.postgresql", POOL_OPTIONS=options)
    assert found.pool == {"max_size": 20, "min_size": 5, "timeout": 7, "max_lifetime": 300}
    assert becomes(found)["max_size"] == ("POOL_SIZE 5 and MAX_OVERFLOW 15", "20")
    assert "PRE_PING" in becomes(found)


def test_django_db_connection_pool_by_its_defaults():
    found = move("dj_db_conn_pool.backends.postgis")
    assert found.pool == {"max_size": 20}
    assert found.gone_above == ()
    assert becomes(found)["max_lifetime"] == ("900 (default)", "3600 (default)")
    assert becomes(found)["timeout"] == ("30 (default)", "5 (default)")


@pytest.mark.parametrize("options", [{"POOL_SIZE": 0}, {"MAX_OVERFLOW": -1}, {"POOL_SIZE": "5"}])
def test_a_queue_pool_without_a_bound_gets_one(options: dict[str, Any]):
    found = move("dj_db_conn_pool.backends.postgresql", POOL_OPTIONS=options)
    assert "max_size" not in found.pool
    assert becomes(found)["max_size"] == ("no bound", "10")


def test_options_as_sqlalchemy_spells_them_are_understood_and_told():
    options = {"pool_size": 2, "max_overflow": 1, "pool_recycle": -1, "echo": True, "odd": 1}
    found = move("dj_db_conn_pool.backends.postgresql", POOL_OPTIONS=options)
    assert found.pool == {"max_size": 3, "min_size": 2}
    assert becomes(found)["max_lifetime"] == ("RECYCLE off", "3600.0")
    assert any("1 has no counterpart" in note for note in found.notes)
    assert any("4 had no effect" in note for note in found.notes)


def test_django_pg_real_pool_leases_by_the_statement():
    found = move("django_pg_real_pool", OPTIONS={"pool": {"min_size": 1, "max_size": 6}})
    assert found.pool == {"mode": "transaction", "min_size": 1, "max_size": 6}
    found = move("django_pg_real_pool.dj_db_conn_pool", POOL_OPTIONS={"POOL_SIZE": 3})
    assert found.pool == {"mode": "transaction", "max_size": 13, "min_size": 3}


def test_geventpool():
    options = {"MAX_CONNS": 20, "REUSE_CONNS": 5, "connect_timeout": 3}
    entry = {
        **SECRETS,
        "ENGINE": "django_db_geventpool.backends.postgresql_psycopg2",
        "OPTIONS": options,
    }
    found = moved("default", entry)
    assert isinstance(found, Move)
    assert found.pool == {"max_size": 20}
    assert becomes(found)["timeout"] == ("waits for ever", "5.0")
    assert any("psycopg 3" in note for note in found.notes)
    assert pasted(found, entry)["OPTIONS"] == {"connect_timeout": 3, "pool": {"max_size": 20}}


def test_django_prometheus_is_djangos_pool_and_a_word_about_its_metrics():
    found = move("django_prometheus.db.backends.postgresql", OPTIONS={"pool": {"max_size": 9}})
    assert found.pool == {"max_size": 9}
    assert any("PooledDatabaseWrapperMixin" in note for note in found.notes)


# -- what is common to all


@pytest.mark.parametrize(
    "hint",
    [{"PORT": 6432}, {"DISABLE_SERVER_SIDE_CURSORS": True},
     {"OPTIONS": {"prepare_threshold": None}}],
)  # fmt: skip
def test_a_pooler_in_between_is_suspected_and_not_declared(hint: dict[str, Any]):
    found = move("django.db.backends.postgresql", **hint)
    assert found.may_be_pooler
    assert "pooler" not in found.pool
    assert '# "pooler": "pgbouncer-transaction"' in migrating.settings_text([found])
    assert not move("django.db.backends.postgresql", PORT="5432").may_be_pooler


def test_what_would_be_refused_is_said_without_its_value():
    found = move("django.db.backends.postgresql", OPTIONS={"pool": {"min_size": 5, "max_size": 2}})
    assert any("is below" in note for note in found.notes)
    found = move("django.db.backends.postgresql", OPTIONS={"pool": {"maxsize": 2}})
    assert any("Did you mean 'max_size'" in note for note in found.notes)


@pytest.mark.parametrize("engine", [*ENGINES, "django.db.backends.sqlite3", "shop.backend", ""])
def test_an_alias_of_another_kind_is_left(engine: str):
    found = moved("default", {"ENGINE": engine})
    assert isinstance(found, Left)
    assert ("Mixin" in found.why) == (engine == "shop.backend")


ENTRIES: dict[str, dict[str, Any]] = {
    "django": {"OPTIONS": {"pool": {"max_size": 2, "check": check}}},
    "sqlalchemy": {"POOL_OPTIONS": {"POOL_SIZE": 1, "MAX_OVERFLOW": 1}},
    "gevent": {"OPTIONS": {"MAX_CONNS": 2, "REUSE_CONNS": 1}},
    "none": {"CONN_MAX_AGE": 600, "CONN_HEALTH_CHECKS": True},
    "hinted": {"PORT": 6432, "OPTIONS": {"pool": True}},
}


# What geventpool takes of OPTIONS is refused by libpq for everybody else.
PAIRS = [
    pytest.param(engine, entry, id=f"{engine}-{name}")
    for engine in PEERS
    for name, entry in ENTRIES.items()
    if name != "gevent" or "geventpool" in engine
]


@pytest.mark.parametrize(("engine", "entry"), PAIRS)
def test_what_is_shown_can_be_pasted_and_holds_no_secret(engine: str, entry: dict[str, Any]):
    entry = {**SECRETS, "ENGINE": engine, **entry}
    before = copy.deepcopy(entry)
    found = moved("default", entry)
    assert isinstance(found, Move)
    assert entry == before, "nothing is changed by looking"
    text = migrating.settings_text([found])
    shown = draw(migrating.tables([found]), color=False) + text
    shown += json.dumps(migrating.document([found]))
    assert "s3-" not in shown
    new = pasted(found, entry)
    verify_database("default", new)
    assert pool_config("default", new) is not None
    assert {key: new[key] for key in SECRETS} == SECRETS


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("engine", "entry"),
    [
        ("django.db.backends.postgresql", ENTRIES["django"]),
        ("dj_db_conn_pool.backends.postgresql", ENTRIES["sqlalchemy"]),
        ("django_db_geventpool.backends.postgresql_psycopg3", ENTRIES["gevent"]),
        ("django_pg_real_pool", {"OPTIONS": {"pool": {"max_size": 2}}}),
        ("django_prometheus.db.backends.postgresql", ENTRIES["none"]),
    ],
)
def test_the_settings_that_are_shown_reach_a_server(
    engine: str, entry: dict[str, Any], primary: Node
):
    entry = {
        "ENGINE": engine, "NAME": primary.dbname, "HOST": primary.host, "PORT": primary.port,
        "USER": primary.user, "PASSWORD": primary.password, **entry,
    }  # fmt: skip
    found = moved("default", entry)
    assert isinstance(found, Move)
    connection: Any = ConnectionHandler({"default": pasted(found, entry)})["default"]
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            assert cursor.fetchone() == (1,)
        assert connection.pool.config.max_size == found.pool.get("max_size", 10)
        by_statement = found.pool.get("mode") == "transaction"
        assert connection.pool.stats().used == (0 if by_statement else 1)
    finally:
        connection.close()
        connection.close_pool()
