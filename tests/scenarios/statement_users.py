"""The users of a pool in transaction mode who behave: each thing they do is a thing to prove."""

from __future__ import annotations

import random
import threading
from contextlib import suppress
from typing import Any

from django.db import DatabaseError, OperationalError, transaction
from django.db import connection as default_connection

from django_poolkit.pools.postgres import ConnectionPool
from tests.app.models import Item
from tests.scenarios.crowd import Crowd
from tests.scenarios.journal import Journal
from tests.scenarios.sessions import FACTS, UNTOUCHED
from tests.scenarios.users import LONG, Broken, PoolCrowd, assert_untouched

# Typed by django-stubs as any backend's.
connection: Any = default_connection

# Rows named NUMBER/x are never committed: whoever sees one is in a transaction not his own.
# And outside of one, each statement begins its own, which has written nothing yet.
ALONE = """
SELECT now() = statement_timestamp(), pg_current_xact_id_if_assigned() IS NULL,
       (SELECT count(*) FROM app_item WHERE name LIKE '%/x')
"""
INSERT = "INSERT INTO app_item (name, created) VALUES (%s, now())"


class HookFailed(Exception):
    """What an on_commit hook raises."""


class HookFailedInDatabase(HookFailed, DatabaseError):
    """The same, of the kind that makes Django roll back what has been committed."""


def assert_given_back() -> None:
    """Nothing needs a connection now, so none may be leased."""
    assert connection._lease is None, f"held: {connection._lease.pinned}"


class Hold:
    """A lease that has to last: until a cursor is closed, or a block ends."""

    def __init__(self) -> None:
        self._lease = connection._lease
        self._raw = self._lease.connection

    def assert_lasts(self) -> None:
        """Raise OperationalError where the backend has gone, which a failed rollback hides."""
        if connection._lease is not self._lease or connection.needs_rollback:
            assert self._raw.closed, "a lease has ended that was needed"
            raise OperationalError("the backend is gone")


class StatementUsers(PoolCrowd):
    """The steady ones. A step is a request that mixes what transaction mode has to tell apart."""

    def __init__(self, pool: ConnectionPool, crowd: Crowd) -> None:
        super().__init__(pool, crowd)
        self.journal = Journal()

    def steady(self, dice: random.Random) -> None:
        """The same work for each, one act after the other; between them nothing is held."""
        acts = (self.write, self.nest, self.iterate, self.keep_cursor)
        turn = self.crowd.steps[threading.current_thread().name] % (len(acts) + 1)
        try:
            self.look(dice)
            assert_given_back()
            if turn < len(acts):
                acts[turn](dice)
                assert_given_back()
            else:
                self.keep_state(dice)
        finally:
            connection.close()
        lease = self.pool.acquire(LONG)
        try:
            assert_untouched(lease.connection)
        finally:
            lease.release()

    def look(self, dice: random.Random) -> None:
        """See no state of others, no transaction of theirs, and no row from one."""
        with connection.cursor() as cursor:
            cursor.execute(FACTS)
            assert (seen := cursor.fetchone()) == UNTOUCHED, f"{seen}: not as new"
            cursor.execute(ALONE)
            assert (seen := cursor.fetchone()) == (True, True, 0), f"{seen}: not alone"

    def write(self, dice: random.Random) -> None:
        with self.journal.entry("a") as (name,):
            item = Item.objects.create(name=name)
        assert Item.objects.get(name=name).pk == item.pk
        if dice.random() < 0.5:
            with self.journal.entry("", [name]):
                assert item.delete()[0] == 1

    def nest(self, dice: random.Random) -> None:
        """Nested blocks, of which any may be rolled back, and a hook that may fail."""
        keep = dice.random() < 0.7
        with (
            suppress(Broken),
            self.journal.entry("abc") as (first, inner, last),
            suppress(HookFailed),
            transaction.atomic(),
        ):
            Item.objects.create(name=first)
            hold = Hold()
            with suppress(Broken), transaction.atomic():
                Item.objects.create(name=self.journal.doomed())
                raise Broken
            hold.assert_lasts()
            with transaction.atomic():
                Item.objects.create(name=inner)
            transaction.on_commit(lambda: self.hook(dice))
            Item.objects.create(name=last)
            if not keep:
                raise Broken
        assert Item.objects.filter(name__in=[first, inner, last]).count() == (3 if keep else 0)

    def hook(self, dice: random.Random) -> None:
        assert_given_back()
        with self.journal.entry("h") as (name,):
            Item.objects.create(name=name)
        match dice.randrange(4):
            case 0:
                raise HookFailed
            case 1:
                raise HookFailedInDatabase

    def iterate(self, dice: random.Random) -> None:
        """Read with a server's cursor, and write in its loop."""
        with self.journal.entry("abc") as names:
            Item.objects.bulk_create(Item(name=name) for name in names)
        hold = None
        for item in Item.objects.filter(name__in=names).order_by("name").iterator(1):
            hold = hold or Hold()
            match item.name[-1]:
                case "a":
                    with self.journal.entry("s", [item.name]) as (item.name,):
                        item.save()
                case "b":
                    with self.journal.entry("g") as (name,):
                        assert Item.objects.get_or_create(name=name)[1]
                case "c":
                    with (
                        suppress(Broken),
                        self.journal.entry("n", [item.name]) as (name,),
                        transaction.atomic(),
                    ):
                        Item.objects.filter(pk=item.pk).update(name=name)
                        if dice.random() < 0.5:
                            raise Broken
            hold.assert_lasts()

    def keep_cursor(self, dice: random.Random) -> None:
        """Hold a cursor open over blocks, and use it in them."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            pid = cursor.fetchone()
            hold = Hold()
            with suppress(Broken), transaction.atomic():
                Item.objects.create(name=self.journal.doomed())
                raise Broken
            hold.assert_lasts()
            with self.journal.entry("ab") as (first, second), transaction.atomic():
                Item.objects.create(name=first)
                cursor.execute(INSERT, [second])
            cursor.execute("SELECT pg_backend_pid()")
            assert cursor.fetchone() == pid

    def keep_state(self, dice: random.Random) -> None:
        """What one has set stays one's own until the end of the request."""
        key = dice.getrandbits(31)
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('app.owner', %s, false)", [str(key)])
            cursor.execute("SELECT pg_advisory_lock(%s)", [key])
        with self.journal.entry("ab") as (first, second), transaction.atomic():
            Item.objects.create(name=first)
            Item.objects.create(name=second)
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('app.owner'), pg_advisory_unlock(%s)", [key])
            assert cursor.fetchone() == (str(key), True)
