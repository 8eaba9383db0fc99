"""The users of a pool: most behave, the others do whatever can be done wrong."""

from __future__ import annotations

import itertools
import random
import threading
from contextlib import suppress
from typing import Any

import psycopg
from django.db import OperationalError, connection, transaction
from psycopg.pq import TransactionStatus

from django_poolkit import registry
from django_poolkit.pools.postgres import ConnectionPool
from tests.app.models import Item
from tests.scenarios.crowd import Crowd, in_a_fork
from tests.scenarios.sessions import RESIDUES, UNTOUCHED, facts

SIZE = 8
LONG = 30.0


class Broken(Exception):
    """A caller's own error."""


class Book:
    """Who wrote what: what was committed has to be there, what was rolled back must not."""

    def __init__(self) -> None:
        self.numbers = itertools.count()
        self.kept: set[int] = set()
        self.unknown: set[int] = set()
        """Written by those who lost the server in the middle."""

    def check(self, rows: set[int]) -> None:
        assert self.kept <= rows, f"lost: {sorted(self.kept - rows)[:9]}"
        surplus = rows - self.kept - self.unknown
        assert not surplus, f"came from nowhere: {sorted(surplus)[:9]}"


def assert_untouched(raw: Any) -> None:
    """Nothing of those who had this connection before may be seen."""
    assert raw.pgconn.transaction_status == TransactionStatus.IDLE
    try:
        seen = facts(raw)
    except AssertionError:
        # Killed since it was acquired: that is no bleeding.
        raise psycopg.OperationalError("the backend is gone") from None
    assert seen == UNTOUCHED, f"{seen}: not as new"


class PoolCrowd:
    """The steps of those who use the pool itself."""

    def __init__(self, pool: ConnectionPool, crowd: Crowd) -> None:
        self.pool, self.crowd = pool, crowd
        self.book = Book()

    def steady(self, dice: random.Random) -> None:
        """The same work for each: look, leave a mark, write, and give back."""
        lease = self.pool.acquire(LONG)
        raw = lease.connection
        number = next(self.book.numbers)
        try:
            assert_untouched(raw)
            self.book.unknown.add(number)
            raw.execute("SELECT set_config('app.owner', %s, false)", (str(number),))
            raw.execute("INSERT INTO stress VALUES (%s)", (number,))
            row = raw.execute("SELECT current_setting('app.owner')").fetchone()
            assert row == (str(number),)
            if number % 4 == 0:
                raw.execute("CREATE TEMP TABLE residue (x int)")
            if number % 3:
                raw.commit()
                self.book.kept.add(number)
                self.book.unknown.discard(number)
            # Else the transaction is left open: it is the pool that rolls it back.
        finally:
            lease.release()
        if number % 3 == 0:
            self.book.unknown.discard(number)

    def unruly(self, dice: random.Random) -> None:
        step = dice.choice(
            [
                self.drop,
                self.drop_connection,
                self.die,
                self.fail,
                self.hurry,
                self.spoil,
                self.discard,
                self.abandon_cursor,
                self.kill_oneself,
                self.dawdle,
            ]
        )
        step(dice)

    def drop(self, dice: random.Random) -> None:
        lease = self.pool.acquire()
        assert_untouched(lease.connection)
        RESIDUES[dice.choice(sorted(RESIDUES))](lease.connection)

    def drop_connection(self, dice: random.Random) -> None:
        assert_untouched(self.pool.getconn())

    def die(self, dice: random.Random) -> None:
        def short_life() -> None:
            with suppress(psycopg.OperationalError):
                lease = self.pool.acquire()
                RESIDUES["advisory_lock"](lease.connection)

        thread = threading.Thread(target=short_life)
        thread.start()
        thread.join()

    def fail(self, dice: random.Random) -> None:
        with self.pool.lease() as raw:
            raw.execute("LISTEN residue")
            raise Broken

    def hurry(self, dice: random.Random) -> None:
        lease = self.pool.acquire(dice.choice([0.0, 0.0005, 0.002, 0.01]))
        try:
            assert_untouched(lease.connection)
        finally:
            lease.release()

    def spoil(self, dice: random.Random) -> None:
        lease = self.pool.acquire()
        try:
            for residue in dice.sample(sorted(RESIDUES), 3):
                RESIDUES[residue](lease.connection)
            if dice.random() < 0.5:
                lease.connection.commit()
        finally:
            lease.release()

    def discard(self, dice: random.Random) -> None:
        lease = self.pool.acquire()
        try:
            assert_untouched(lease.connection)
        finally:
            lease.discard()

    def abandon_cursor(self, dice: random.Random) -> None:
        with self.pool.acquire() as raw:
            cursor = raw.cursor("residue", withhold=dice.random() < 0.5)
            cursor.execute("SELECT generate_series(1, 1000)")
            cursor.fetchone()

    def kill_oneself(self, dice: random.Random) -> None:
        with self.pool.acquire() as raw:
            raw.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    def dawdle(self, dice: random.Random) -> None:
        with self.pool.acquire():
            self.crowd.pause(0.02)

    def steer(self, dice: random.Random) -> None:
        """What an operator, and the housekeeper, may do at any moment."""
        self.crowd.pause(dice.uniform(0.05, 0.2))
        match dice.randrange(6):
            case 0:
                self.pool.recycle()
            case 1:
                low = dice.randint(0, 3)
                self.pool.resize(low, dice.randint(SIZE // 2, SIZE))
            case 2:
                self.pool.pause(0.5)  # a child born meanwhile is paused as well
                self.crowd.pause(0.02)
                self.pool.resume()
            case 3:
                self.pool.pause(0.05)
            case 4:
                self.pool.check()
            case 5:
                self.pool.keep_house()

    def fork(self, dice: random.Random) -> None:
        self.crowd.pause(dice.uniform(0.1, 0.4))
        assert in_a_fork(self.child)() == 0

    def child(self) -> None:
        """A fork at any moment: the child's pool works, and shares nothing."""
        while True:
            lease = self.pool.acquire(LONG)
            try:
                assert_untouched(lease.connection)
                lease.connection.execute("SET app.owner = 'child'")
                break
            except psycopg.OperationalError:  # the killer knows no mercy
                continue
            finally:
                lease.release()
        self.pool.close()


class OrmCrowd(PoolCrowd):
    """The same through Django: each step is a request, or a thread that forgets to end one."""

    def steady(self, dice: random.Random) -> None:
        number = next(self.book.numbers)
        try:
            connection.ensure_connection()
            raw = connection.connection
            assert_untouched(raw)
            with connection.cursor() as cursor:
                cursor.execute("SELECT set_config('app.owner', %s, false)", (str(number),))
            self.book.unknown.add(number)
            with suppress(Broken), transaction.atomic():
                Item.objects.create(name=str(number))
                if number % 3 == 0:
                    raise Broken
            if number % 3:
                self.book.kept.add(number)
            self.book.unknown.discard(number)
            assert Item.objects.filter(name=str(number)).count() == bool(number % 3)
            with connection.cursor() as cursor:
                cursor.execute("SELECT current_setting('app.owner', true)")
                # A rollback that fails closes the connection, and Django takes another.
                assert connection.connection is not raw or cursor.fetchone() == (str(number),)
        finally:
            connection.close()

    def unruly(self, dice: random.Random) -> None:
        try:
            dice.choice([self.die, self.die, self.spoil, self.fail, self.kill_oneself, self.leave])(
                dice
            )
        finally:
            connection.close()

    def die(self, dice: random.Random) -> None:
        """End a thread in the middle of a transaction, which nobody closes."""

        def short_life() -> None:
            with suppress(OperationalError):
                transaction.set_autocommit(False)
                Item.objects.create(name="-1")

        thread = threading.Thread(target=short_life)
        thread.start()
        thread.join()

    def spoil(self, dice: random.Random) -> None:
        for residue in dice.sample(sorted(RESIDUES), 3):
            connection.ensure_connection()
            RESIDUES[residue](connection.cursor())

    def fail(self, dice: random.Random) -> None:
        with transaction.atomic():
            Item.objects.create(name="-1")
            with connection.cursor() as cursor:
                cursor.execute("SET search_path TO pg_catalog")
            raise Broken

    def kill_oneself(self, dice: random.Random) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    def leave(self, dice: random.Random) -> None:
        """Leave a named cursor, and autocommit off with a statement in it."""
        next(Item.objects.iterator(1), None)
        transaction.set_autocommit(False)
        Item.objects.create(name="-1")

    def child(self) -> None:
        """A fork at any moment, where nothing but Django's own verbs are known."""
        while True:
            try:
                connection.ensure_connection()
                assert_untouched(connection.connection)
                Item.objects.count()
                break
            except (OperationalError, psycopg.OperationalError):
                continue
            finally:
                connection.close()
        registry.pools.shut_down()
