"""One transaction for both: what either did stays, or goes, with Django's `atomic()`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import sqlalchemy
from django.contrib.auth.models import Group
from django.db import connection as default_connection
from django.db import connections, transaction
from django.db.backends.postgresql.base import DatabaseWrapper
from sqlalchemy import JSON, Connection, bindparam, exc, select, text
from sqlalchemy.orm import Session

from django_poolkit.aio import bridged
from django_poolkit.contrib.sqlalchemy import create_engine, shared_connection
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing import Node
from tests.app.models import Item
from tests.neighbours.sqlalchemy.support import Thing, in_both_modes, names, stored

connection: Any = default_connection

pytestmark = pytest.mark.usefixtures("pool")


def add(held: Connection, name: str | None) -> None:
    held.execute(sqlalchemy.insert(Thing).values(name=name))


@in_both_modes
def test_both_see_what_neither_has_committed(pool: ConnectionPool) -> None:
    with transaction.atomic():
        Item.objects.create(name="django")
        with shared_connection() as held:
            assert list(held.scalars(names)) == ["django"]
            add(held, "sqlalchemy")
            assert stored() == ["django", "sqlalchemy"]
        Item.objects.create(name="later")
        assert pool.stats().used == 1
    assert stored() == ["django", "later", "sqlalchemy"]


def test_the_block_decides_whatever_sqlalchemy_has_committed(pool: ConnectionPool) -> None:
    with pytest.raises(LookupError), transaction.atomic():
        Item.objects.create(name="django")
        with shared_connection() as held:
            add(held, "sqlalchemy")
            held.commit()
        raise LookupError
    assert stored() == []


@in_both_modes
def test_the_first_to_use_the_block_may_be_sqlalchemy(pool: ConnectionPool) -> None:
    with transaction.atomic():
        with shared_connection() as held:
            add(held, "sqlalchemy")
        assert pool.stats().used == 1
        Item.objects.create(name="django")
    assert stored() == ["django", "sqlalchemy"]


def test_a_rollback_of_sqlalchemys_takes_its_own_work_back_alone() -> None:
    with transaction.atomic():
        Item.objects.create(name="django")
        with shared_connection() as held:
            add(held, "kept")
            held.commit()
            add(held, "lost")
            held.rollback()
            add(held, "kept as well")
    assert stored() == ["django", "kept", "kept as well"]


def test_an_error_in_sqlalchemy_leaves_djangos_transaction_usable() -> None:
    with transaction.atomic():
        Item.objects.create(name="django")
        with pytest.raises(exc.IntegrityError), shared_connection() as held:
            add(held, "lost")
            add(held, None)
        assert stored() == ["django"]
    assert stored() == ["django"]


def test_a_session_of_the_orm_commits_to_the_block() -> None:
    with pytest.raises(LookupError), transaction.atomic():
        with shared_connection() as held, Session(bind=held) as session:
            session.add(Thing(name="a"))
            session.commit()
            session.add(Thing(name="b"))
            with pytest.raises(exc.IntegrityError), session.begin_nested():
                session.add(Thing(name=None))
                session.flush()
            session.commit()
            session.add(Thing(name="c"))
            session.flush()
            session.rollback()
            assert list(session.scalars(names)) == ["a", "b"]
        assert stored() == ["a", "b"]
        raise LookupError
    assert stored() == []


def test_savepoints_of_both_nest() -> None:
    with transaction.atomic(), shared_connection() as held:
        add(held, "outer")
        with pytest.raises(LookupError), transaction.atomic():
            Item.objects.create(name="lost")
            with shared_connection() as inner:
                add(inner, "lost too")
            raise LookupError
        with held.begin_nested() as savepoint:
            add(held, "lost")
            savepoint.rollback()
    assert stored() == ["outer"]


@in_both_modes
def test_each_side_adapts_in_its_own_way(pool: ConnectionPool) -> None:
    with transaction.atomic():
        with shared_connection() as held:
            assert held.scalar(select(bindparam("a", {"b": [1]}, JSON))) == {"b": [1]}
            assert held.execute(text("SELECT '{\"b\": 1}'::jsonb")).scalar() == {"b": 1}
            with connection.cursor() as cursor:
                cursor.execute("SELECT '{\"b\": 1}'::jsonb")
                assert cursor.fetchone() == ('{"b": 1}',)
            rows = held.execution_options(stream_results=True).execute(
                text("SELECT generate_series(1, 3)")
            )
            assert rows.scalars().all() == [1, 2, 3]
        assert Group.objects.count() == 0


def test_on_commit_waits_for_the_block() -> None:
    called: list[str] = []
    with transaction.atomic(), shared_connection() as held:
        add(held, "a")
        transaction.on_commit(lambda: called.append("now"))
        held.commit()
        assert called == []
    assert called == ["now"]


def test_it_wants_a_block_and_lasts_no_longer() -> None:
    with pytest.raises(transaction.TransactionManagementError, match="inside `with transaction"):
        shared_connection().__enter__()
    with transaction.atomic():
        with shared_connection() as held:
            with pytest.raises(exc.InvalidRequestError, match="isolation level"):
                held.execution_options(isolation_level="SERIALIZABLE")
            with pytest.raises(exc.InvalidRequestError, match="one phase"):
                held.begin_twophase()
        block = shared_connection()
        late = block.__enter__()
    with pytest.raises(exc.InterfaceError, match="has ended"):
        late.execute(select(1))
    block.gen.close()


def test_a_block_that_is_to_be_rolled_back_is_used_no_more() -> None:
    with transaction.atomic():
        with shared_connection() as held:
            transaction.set_rollback(True)
            with pytest.raises(transaction.TransactionManagementError):
                held.execute(select(1))
        with (
            pytest.raises(transaction.TransactionManagementError),
            shared_connection(),
        ):
            pytest.fail("it was let in")


@in_both_modes
def test_a_killed_backend_ends_the_block(pool: ConnectionPool, primary: Node) -> None:
    with pytest.raises(exc.OperationalError), transaction.atomic():
        Item.objects.create(name="lost")
        with shared_connection() as held:
            primary.kill_backend(connection.connection.info.backend_pid)
            held.execute(select(1))
    connection.close()
    assert stored() == []


@in_both_modes
def test_session_state_that_it_leaves_is_reset(pool: ConnectionPool) -> None:
    with transaction.atomic(), shared_connection() as held:
        held.execute(text("SET work_mem = '7MB'"))
    connection.close()
    with connection.cursor() as cursor:
        cursor.execute("SHOW work_mem")
        assert cursor.fetchone() != ("7MB",)


def test_djangos_own_engine_will_do() -> None:
    ours: Any = connections["default"]
    ours.close()
    djangos = DatabaseWrapper({**ours.settings_dict, "OPTIONS": {}}, "default")
    connections["default"] = djangos
    try:
        with transaction.atomic():
            Item.objects.create(name="django")
            with shared_connection() as held:
                add(held, "sqlalchemy")
        assert stored() == ["django", "sqlalchemy"]
    finally:
        djangos.close()
        connections["default"] = ours


@in_both_modes
def test_in_the_bridge_it_is_the_tasks_own(pool: ConnectionPool) -> None:
    def both() -> list[str]:
        with transaction.atomic():
            Item.objects.create(name="django")
            with shared_connection() as held:
                add(held, "sqlalchemy")
                return list(held.scalars(names))

    async def main() -> list[str]:
        return await bridged(both)()

    assert asyncio.run(main()) == ["django", "sqlalchemy"]
    assert pool.stats().used == 0


def test_an_engine_in_the_bridge_waits_as_a_task(pool: ConnectionPool) -> None:
    engine = create_engine()
    with engine.connect():
        pass

    def slow() -> None:
        with engine.begin() as held:
            held.execute(text("SELECT pg_sleep(0.2)"))
            together.append(pool.stats().used)

    async def main() -> None:
        await asyncio.gather(bridged(slow)(), bridged(slow)())

    together: list[int] = []
    asyncio.run(main())
    assert max(together) == 2  # in one thread
