"""An engine on Django's pool: a lease is a checkout, whatever happens in it."""

from __future__ import annotations

import gc
import select as select_module
import threading
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from typing import Any

import psycopg
import pytest
import sqlalchemy
from django.db import connection as default_connection
from psycopg.pq import TransactionStatus
from sqlalchemy import JSON, Engine, bindparam, event, exc, make_url, select, text
from sqlalchemy.orm import Session

from django_poolkit import PoolTimeout, connection_pools
from django_poolkit.backends import request as requests
from django_poolkit.contrib.sqlalchemy import create_engine
from django_poolkit.control import answers
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing import Node
from django_poolkit.testing.faults import TCPProxy
from django_poolkit.testing.waiting import wait_until
from tests.app.models import Item
from tests.docs_support import ROOT
from tests.neighbours.sqlalchemy.support import Thing, in_both_modes, names, stored

connection: Any = default_connection


@pytest.fixture
def engine(pool: ConnectionPool) -> Engine:
    """An engine on the pool."""
    return create_engine("default")


def driver_of(held: sqlalchemy.Connection) -> Any:
    return held.connection.driver_connection


def pid_of(held: sqlalchemy.Connection) -> int:
    pid: int = driver_of(held).info.backend_pid
    return pid


# -- the lease


@in_both_modes
def test_a_lease_lasts_as_long_as_a_checkout(pool: ConnectionPool, engine: Engine) -> None:
    assert pool.stats().acquired == 0  # an engine connects to nothing
    with engine.connect() as held:
        held.execute(select(1))
        assert pool.stats().used == 1
        held.commit()
        assert pool.stats().used == 1
    assert (pool.stats().used, pool.stats().idle) == (0, 1)


@in_both_modes
def test_django_and_sqlalchemy_use_the_same_connections(
    pool: ConnectionPool, engine: Engine
) -> None:
    with engine.connect() as held:
        pid = pid_of(held)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        assert cursor.fetchone() == (pid,)
    assert pool.stats().connects == 1


def test_the_lease_has_the_neighbours_name(pool: ConnectionPool, engine: Engine) -> None:
    with engine.connect() as held:
        held.execute(select(1))
        (lease,) = pool.leases()
        assert (lease.where, lease.statement, lease.status) == ("sqlalchemy", "SELECT", "intrans")
        assert lease.backend_pid == pid_of(held)
    scope = requests.RequestScope(method="GET", path="/nowhere")
    with requests.entered(scope), engine.connect():
        (lease,) = pool.leases()
        assert lease.where == "sqlalchemy, GET (no view)"


def test_it_is_seen_and_taken_away_from_outside(pool: ConnectionPool, engine: Engine) -> None:
    with engine.connect() as held:
        held.execute(select(1))
        (found,) = answers.status({"leases": True, "databases": ["default"]})["leases"]
        assert found["where"] == "sqlalchemy"
        answers.kill_lease({"pool": pool.name, "key": pool.leases()[0].key})
        wait_until(
            lambda: bool(select_module.select([driver_of(held)], [], [], 0)[0]), timeout=20.0
        )
        with pytest.raises(exc.OperationalError):
            held.execute(select(1))
        assert pool.stats().used == 0
    with engine.connect() as held:
        assert held.scalar(select(1)) == 1


def test_writes_are_committed_and_errors_leave_nothing(
    pool: ConnectionPool, engine: Engine
) -> None:
    with engine.begin() as held:
        held.execute(sqlalchemy.insert(Thing).values(name="kept"))
    with pytest.raises(exc.IntegrityError), engine.begin() as held:
        held.execute(sqlalchemy.insert(Thing).values(name="lost"))
        held.execute(sqlalchemy.insert(Thing).values(name=None))
    assert stored() == ["kept"]
    connection.close()
    assert pool.stats().used == 0


@in_both_modes
def test_what_is_not_committed_is_rolled_back_on_return(
    pool: ConnectionPool, engine: Engine
) -> None:
    with engine.connect() as held:
        held.execute(sqlalchemy.insert(Thing).values(name="lost"))
    raw = engine.raw_connection()
    raw.cursor().execute("INSERT INTO app_item (name, created) VALUES ('lost', now())")
    raw.close()
    assert stored() == []


def test_a_session_of_the_orm(pool: ConnectionPool, engine: Engine) -> None:
    with Session(engine) as session:
        session.add_all([Thing(name="a"), Thing(name="b")])
        assert pool.stats().used == 0  # it has not spoken to the server yet
        session.commit()
        assert pool.stats().used == 0  # its transaction ended, and with it the lease
        found = list(session.scalars(names))
        assert (found, pool.stats().used) == (["a", "b"], 1)
    assert pool.stats().used == 0
    assert stored() == ["a", "b"]


def test_a_connection_that_is_dropped_comes_home(pool: ConnectionPool, engine: Engine) -> None:
    held = engine.connect()
    held.execute(select(1))
    del held
    gc.collect()
    assert (pool.stats().used, pool.stats().leaks) == (0, 0)


def test_a_detached_connection_is_never_lent_again(pool: ConnectionPool, engine: Engine) -> None:
    with engine.connect() as held:
        pid = pid_of(held)
        held.detach()
    with engine.connect() as held:
        assert pid_of(held) != pid
    assert pool.stats().used == 0


def test_invalidation_closes_one_connection_and_goes_on_with_another(
    pool: ConnectionPool, engine: Engine
) -> None:
    with engine.connect() as held:
        pid = pid_of(held)
        held.invalidate()
        assert pool.stats().used == 0
        held.rollback()
        held.execute(select(1))
        assert pid_of(held) != pid
        assert pool.stats().used == 1


def test_an_exhausted_pool_says_so_through_sqlalchemy(
    pooled: Callable[..., ConnectionPool],
) -> None:
    pooled(max_size=1, timeout=0.1)
    engine = create_engine()
    with ThreadPoolExecutor(1) as thread, engine.connect():

        def second() -> None:
            with engine.connect():
                pass

        with pytest.raises(exc.OperationalError) as caught:
            thread.submit(second).result(20.0)
    assert isinstance(caught.value.orig, PoolTimeout)


def test_threads_take_turns(pool: ConnectionPool, engine: Engine) -> None:
    def insert(number: int) -> None:
        with Session(engine) as session, session.begin():
            session.add(Thing(name=f"{number:02}"))
            assert pool.stats().used <= 2

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(insert, range(40)))
    assert stored() == [f"{number:02}" for number in range(40)]


# -- what a lease leaves behind: nothing


@in_both_modes
def test_what_each_side_does_to_a_connection_is_undone_for_the_other(
    pool: ConnectionPool, engine: Engine
) -> None:
    engine = create_engine(isolation_level="SERIALIZABLE")
    with engine.connect() as held:
        pid = pid_of(held)
        level = held.execute(text("SHOW transaction_isolation")).scalar_one()
        held.execute(text("SET statement_timeout = '7s'"))
        held.commit()
        found = held.scalar(select(bindparam("a", {"b": [1]}, JSON)))
        assert (level, found) == ("serializable", {"b": [1]})
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_backend_pid(), current_setting('statement_timeout'),"
            " current_setting('transaction_isolation'), '{\"b\": 1}'::jsonb"
        )
        # Django reads JSON as text, and its own decoder does the rest.
        assert cursor.fetchone() == (pid, "0", "read committed", '{"b": 1}')
        assert connection.connection.autocommit
    connection.close()
    with engine.connect() as held:
        assert pid_of(held) == pid
        assert held.execute(text("SELECT '{\"b\": 1}'::jsonb")).scalar() == {"b": 1}


@in_both_modes
def test_events_see_each_checkout(pool: ConnectionPool, engine: Engine) -> None:
    seen: list[str] = []
    for name in ("first_connect", "connect", "checkout", "checkin", "close", "reset"):
        event.listen(engine, name, lambda *_, name=name: seen.append(name))

    @event.listens_for(engine, "connect")
    def adapt(dbapi_connection: Any, record: object) -> None:
        dbapi_connection.execute("SET search_path = pg_catalog")
        dbapi_connection.commit()
        dbapi_connection.adapters.register_loader("int8", psycopg.types.string.TextLoader)

    for _ in range(2):
        with engine.connect() as held:
            path = held.execute(text("SELECT current_setting('search_path'), 1::int8")).one()
            assert tuple(path) == ("pg_catalog", "1")
    assert seen[:1] == ["first_connect"]
    assert seen[1:] == ["connect", "checkout", "reset", "checkin", "close"] * 2
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('search_path'), 1::int8")
        assert cursor.fetchone() == ('"$user", public', 1)


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_return_costs_no_round_trip_but_for_what_is_open_or_left(
    mode: str, pooled: Callable[..., ConnectionPool], proxy: TCPProxy
) -> None:
    place = {"HOST": proxy.host, "PORT": str(proxy.port)}
    pool = pooled(mode=mode, max_size=1, bypass=60.0, entry=place)
    engine = create_engine()
    with engine.connect():
        pass  # SQLAlchemy gets to know the server
    resets = pool.stats().resets

    def asked(act: Callable[[sqlalchemy.Connection], object]) -> int:
        before = proxy.round_trips
        with engine.connect() as held:
            act(held)
        return proxy.round_trips - before

    def commits(held: sqlalchemy.Connection) -> None:
        held.execute(sqlalchemy.insert(Thing).values(name="a"))
        held.commit()

    assert asked(lambda held: None) == 0
    # BEGIN, the statement, and the end of the transaction.
    assert asked(lambda held: held.execute(select(1))) == 3
    assert asked(commits) == 3
    assert pool.stats().resets == resets
    assert asked(lambda held: held.execute(text("SET work_mem = '5MB'"))) == 4
    assert pool.stats().resets == resets + 1
    assert pool.stats().connects == 1


# -- failures


def test_a_backend_that_is_killed_in_a_transaction_costs_that_one_alone(
    pool: ConnectionPool, engine: Engine, primary: Node
) -> None:
    with engine.connect() as held:
        held.execute(sqlalchemy.insert(Thing).values(name="lost"))
        primary.kill_backend(pid_of(held))
        with pytest.raises(exc.OperationalError) as caught:
            held.execute(select(1))
        assert caught.value.connection_invalidated
        assert pool.stats().used == 0
        held.rollback()
        held.execute(sqlalchemy.insert(Thing).values(name="kept"))
        held.commit()
    assert stored() == ["kept"]


@in_both_modes
def test_a_server_restarted_between_two_checkouts_costs_nothing(
    pool: ConnectionPool, engine: Engine, primary: Node
) -> None:
    with engine.connect() as one, engine.connect() as other:
        dead = {pid_of(one), pid_of(other)}
    with engine.connect() as held:
        held.execute(sqlalchemy.insert(Thing).values(name="lost"))
        primary.restart()
        with pytest.raises(exc.OperationalError):
            held.commit()
    # The other connection was idle, and is dead as well: no checkout ever sees it.
    for _ in range(3):
        with engine.connect() as held:
            assert held.execute(select(1)).scalar() == 1
            assert pid_of(held) not in dead
    assert stored() == []


def test_no_ping_is_sent_for_a_connection_that_the_pool_has_looked_at(
    pooled: Callable[..., ConnectionPool], proxy: TCPProxy
) -> None:
    pooled(entry={"HOST": proxy.host, "PORT": str(proxy.port)}, bypass=60.0)
    engine = sqlalchemy.create_engine("postgresql+poolkit:///default", pool_pre_ping=True)
    with engine.connect():
        pass
    before = proxy.round_trips
    with engine.connect():
        pass
    assert proxy.round_trips == before
    proxy.drop()
    with engine.connect() as held:
        assert held.execute(select(1)).scalar() == 1


def test_a_half_made_checkout_gives_its_lease_back(pool: ConnectionPool, engine: Engine) -> None:
    with engine.connect():
        pass

    def fail(*_: object) -> None:
        raise LookupError

    for name in ("connect", "checkout"):
        event.listen(engine, name, fail)
        with pytest.raises(LookupError):
            engine.connect()
        event.remove(engine, name, fail)
        assert pool.stats().used == 0


def test_two_phases(pool: ConnectionPool, engine: Engine) -> None:
    with engine.connect() as held:
        held.begin_twophase()
        held.execute(sqlalchemy.insert(Thing).values(name="lost"))
    assert pool.stats().used == 0
    assert stored() == []


# -- what engines are made of


def test_a_url_says_no_more_than_the_alias(pool: ConnectionPool, engine: Engine) -> None:
    assert str(engine.url) == "postgresql+poolkit:///default"
    assert "poolstatus" in engine.pool.status()
    engine.dispose()
    with engine.connect():
        assert connection_pools["default"].stats().used == 1
    for url in ("postgresql+poolkit://u:secret@h/default", "postgresql+poolkit:///default?a=b"):
        with pytest.raises(exc.ArgumentError) as caught:
            sqlalchemy.create_engine(url)
        assert "secret" not in str(caught.value)


def test_the_dialect_is_found_by_its_url_alone() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (place,) = project["entry-points"]["sqlalchemy.dialects"].values()
    found = EntryPoint("postgresql.poolkit", place, "sqlalchemy.dialects").load()
    assert found is make_url("postgresql+poolkit:///default").get_dialect()


@pytest.mark.parametrize(
    "option", ["pool_size", "max_overflow", "pool_timeout", "connect_args", "poolclass", "creator"]
)
def test_an_option_that_belongs_elsewhere_is_refused(option: str) -> None:
    with pytest.raises(exc.ArgumentError, match=rf"{option}.*DATABASES\['default'\]"):
        create_engine("default", **{option: {}})


def test_an_alias_that_is_not_there_or_not_pooled(pooled: Callable[..., ConnectionPool]) -> None:
    with pytest.raises(exc.ArgumentError, match="no alias 'nowhere'"):
        create_engine("nowhere").connect()
    raw = sqlalchemy.create_engine(
        "postgresql+poolkit:///default", connect_args={"sslmode": "require"}
    )
    with pytest.raises(exc.ArgumentError, match=r"connect_args\['sslmode'\].*OPTIONS"):
        raw.connect()


def test_a_connection_may_end_in_another_thread(pool: ConnectionPool, engine: Engine) -> None:
    held = engine.connect()
    held.execute(sqlalchemy.insert(Thing).values(name="a"))

    def end() -> None:
        held.commit()
        held.close()

    thread = threading.Thread(target=end)
    thread.start()
    thread.join()
    assert pool.stats().used == 0
    assert stored() == ["a"]


def test_what_runs_beside_the_orm_is_at_rest_again(pool: ConnectionPool, engine: Engine) -> None:
    Item.objects.create(name="a")
    connection.close()
    with engine.connect() as held:
        rows = held.execution_options(stream_results=True).execute(names)
        assert rows.scalars().first() == "a"
        driver = driver_of(held)
    assert driver.pgconn.transaction_status == TransactionStatus.IDLE
