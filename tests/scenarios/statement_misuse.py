"""The unruly users of a pool in transaction mode, who do whatever can be done wrong."""

from __future__ import annotations

import gc
import random
import threading
from collections import deque
from contextlib import suppress
from typing import Any

from django.db import InterfaceError, OperationalError, connections, transaction

from django_poolkit import registry
from django_poolkit.pools.postgres import ConnectionPool
from tests.app.models import Item
from tests.scenarios.crowd import Crowd, in_a_fork
from tests.scenarios.sessions import ATTRIBUTES, RESIDUES
from tests.scenarios.statement_users import INSERT, StatementUsers, connection
from tests.scenarios.users import Broken


class StatementCrowd(StatementUsers):
    """All of them: the steady ones, and these."""

    def __init__(self, pool: ConnectionPool, crowd: Crowd) -> None:
        super().__init__(pool, crowd)
        self.attic: deque[Any] = deque()
        """Things whose last reference another thread is to drop."""

    def unruly(self, dice: random.Random) -> None:
        acts = (
            self.die, self.forget, self.spoil, self.seize, self.drop, self.give_away, self.leave,
            self.copy, self.begin, self.dawdle, self.pin, self.reuse, self.kill_oneself, self.hurry,
        )  # fmt: skip
        try:
            dice.choice(acts)(dice)
        finally:
            connection.close()

    def die(self, dice: random.Random) -> None:
        """End a thread inside a block, which nobody ends."""

        def short_life() -> None:
            with suppress(OperationalError):
                if dice.random() < 0.5:
                    transaction.atomic().__enter__()
                else:
                    transaction.set_autocommit(False)
                Item.objects.create(name=self.journal.doomed())
                if dice.random() < 0.5:
                    connection.cursor().execute("SET app.owner = 'dead'")

        thread = threading.Thread(target=short_life)
        thread.start()
        thread.join()

    def forget(self, dice: random.Random) -> None:
        """Commit something by hand, and leave autocommit off with a statement in it."""
        transaction.set_autocommit(False)
        with self.journal.entry("ab") as names:
            for name in names:
                Item.objects.create(name=name)
            transaction.commit()
        Item.objects.create(name=self.journal.doomed())

    def spoil(self, dice: random.Random) -> None:
        for residue in dice.sample(sorted(RESIDUES), 3):
            RESIDUES[residue](connection.cursor())

    def seize(self, dice: random.Random) -> None:
        """Take hold of the driver's connection, and do with it whatever one likes."""
        if dice.random() < 0.5:
            raw = connection.connection or connection.cursor().connection
        else:
            raw = connection.cursor().connection
        RESIDUES[dice.choice(sorted(RESIDUES))](raw)
        name = dice.choice(sorted(ATTRIBUTES))
        setattr(raw, name, ATTRIBUTES[name][0])

    def drop(self, dice: random.Random) -> None:
        """Drop cursors in a cycle, and go on."""
        cycle: list[Any] = [connection.cursor(), Item.objects.iterator(1)]
        cycle[0].execute("SELECT 1")
        next(cycle[1], None)
        cycle.append(cycle)
        del cycle
        self.iterate(dice)
        gc.collect(0)
        self.write(dice)
        self.nest_quietly()

    def give_away(self, dice: random.Random) -> None:
        """Have another thread drop the last cursor, while one goes on oneself."""
        for _ in range(5):
            cursor = connection.cursor()
            cursor.execute("SELECT 1")
            self.attic.append(cursor)
            del cursor
            self.nest_quietly()
            self.write(dice)

    def nest_quietly(self) -> None:
        with self.journal.entry("ab") as (first, second), transaction.atomic():
            Item.objects.create(name=first)
            Item.objects.create(name=second)

    def sweep(self, dice: random.Random) -> None:
        """Drop what others have given away, as a garbage collector would."""
        self.crowd.pause(0.002)
        self.attic.clear()

    def leave(self, dice: random.Random) -> None:
        """Leave named and raw cursors half read, and a block with one in it."""
        rows = Item.objects.iterator(1)
        next(rows, None)
        for _ in Item.objects.raw("SELECT * FROM app_item LIMIT 9"):
            break
        with suppress(Broken), transaction.atomic():
            next(Item.objects.iterator(1), None)
            Item.objects.create(name=self.journal.doomed())
            raise Broken

    def copy(self, dice: random.Random) -> None:
        """Abandon a COPY, or a stream, half way."""
        cursor = connection.cursor()
        if dice.random() < 0.5:
            cursor.cursor.copy("COPY (SELECT generate_series(1, 99999)) TO STDOUT").__enter__()
        else:
            next(cursor.cursor.stream("SELECT generate_series(1, 99999)"))

    def begin(self, dice: random.Random) -> None:
        """Begin a transaction as text, and leave it, or end it."""
        cursor = connection.cursor()
        cursor.execute("BEGIN")
        if dice.random() < 0.5:
            cursor.execute(INSERT, [self.journal.doomed()])
            return
        with self.journal.entry("ab") as names:
            for name in names:
                connection.cursor().execute(INSERT, [name])
            cursor.execute("COMMIT")

    def dawdle(self, dice: random.Random) -> None:
        with self.journal.entry("ab") as (first, second), transaction.atomic():
            Item.objects.create(name=first)
            self.crowd.pause(0.02)
            Item.objects.create(name=second)

    def pin(self, dice: random.Random) -> None:
        """Hold on by hand; afterwards it is given back, and as new."""
        with connection.pinned():
            RESIDUES["owner"](connection.cursor())
            self.nest_quietly()
            RESIDUES["temp_table"](connection.cursor())
        self.look(dice)

    def reuse(self, dice: random.Random) -> None:
        """Use a cursor after its lease, while others use the connection."""
        cursor = connection.cursor()
        cursor.execute("SELECT 1")
        connection.close()
        for use in (cursor.fetchone, lambda: cursor.execute(INSERT, [self.journal.doomed()])):
            try:
                use()
            except InterfaceError:
                continue
            raise AssertionError("a cursor worked after its lease")

    def kill_oneself(self, dice: random.Random) -> None:
        if dice.random() < 0.5:
            super().kill_oneself(dice)
        with transaction.atomic(), connection.cursor() as cursor:
            Item.objects.create(name=self.journal.doomed())
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    def fork(self, dice: random.Random) -> None:
        """Fork with a cursor open, or inside a block, which the child is not to go on with."""
        self.crowd.pause(dice.uniform(0.1, 0.4))
        try:
            with (
                suppress(OperationalError),
                self.journal.entry("ab") as (first, second),
                transaction.atomic(),
            ):
                Item.objects.create(name=first)
                assert in_a_fork(self.child)() == 0
                Item.objects.create(name=second)
        finally:
            connection.close()

    def child(self) -> None:
        # Django, too, would have a child go on with the parent's block.
        del connections["default"]
        while True:
            try:
                self.look(random.Random())
                with transaction.atomic():
                    Item.objects.create(name=self.journal.doomed())
                    assert Item.objects.filter(name__endswith="/x").count() == 1
                    transaction.set_rollback(True)
                break
            except OperationalError:  # the killer knows no mercy
                continue
            finally:
                connection.close()
        registry.pools.shut_down()
