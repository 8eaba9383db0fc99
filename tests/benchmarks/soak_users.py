"""Those who use the pools in `tests.benchmarks.soak`: requests, tasks, and some who misbehave."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import django.db
import psycopg
from django.db import close_old_connections, connections, transaction

from django_poolkit.pools.errors import PoolError
from django_poolkit.pools.postgres import ConnectionPool

ALIASES: Final = ("default", "statements")
EXPECTED: Final = (django.db.Error, psycopg.Error, PoolError)
"""What may happen to somebody whose server is restarted. All else is a finding."""
PAUSE: Final = 0.01
MARK: Final = "app.soak"


class Gate:
    """Lets users in one by one, and can have all of them rest."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        # Both guarded by _change.
        self._open = True
        self._inside = 0
        self.over = threading.Event()
        """Set once: nobody begins anything after that."""

    def enter(self) -> bool:
        """Wait until the gate is open; return False if it is all over."""
        with self._change:
            self._change.wait_for(lambda: self._open or self.over.is_set())
            if self.over.is_set():
                return False
            self._inside += 1
            return True

    def leave(self) -> None:
        """Say that one is done."""
        with self._change:
            self._inside -= 1
            self._change.notify_all()

    def shut(self, seconds: float) -> bool:
        """Let nobody in; return whether all were out within so many seconds."""
        with self._change:
            self._open = False
            return self._change.wait_for(lambda: not self._inside, seconds)

    def open(self) -> None:
        """Let all in again."""
        with self._change:
            self._open = True
            self._change.notify_all()

    def end(self) -> None:
        """Have all go home."""
        self.over.set()
        self.open()


class Users:
    """Threads that make requests, and one with tasks; counts what they met."""

    def __init__(self, gate: Gate, pools: dict[str, ConnectionPool], crowd: int) -> None:
        self.gate = gate
        self.served: Counter[str] = Counter()
        """Requests that ended well, by who made them. Each has one writer."""
        self.failed: Counter[str] = Counter()
        """Those that did not, by the error's type."""
        self.findings: list[str] = []
        """What must never happen."""
        self._pools = pools
        self._lock = threading.Lock()  # of `failed`
        self._threads = [
            threading.Thread(target=self._visit, args=(f"thread {n}", ALIASES[n % 2]), name=f"u{n}")
            for n in range(crowd)
        ]
        self._threads.append(threading.Thread(target=self._loop, args=(crowd,), name="tasks"))
        for thread in self._threads:
            thread.start()

    def join(self, seconds: float) -> bool:
        """Wait until all have gone home; return whether that was within so many seconds."""
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    # -- threads

    def _visit(self, name: str, alias: str) -> None:
        dice = random.Random(name)
        connection = connections[alias]
        steps: list[Callable[[Any], object]] = [
            _look, _look, _block, _rolled_back, _mistake, _mark, _abandoned, _slow,
        ]  # fmt: skip
        while self.gate.enter():
            try:
                self._meet(name, lambda: dice.choice(steps)(connection))
            finally:
                with suppress(*EXPECTED):
                    close_old_connections()
                    connection.close()  # a request has ended
                self.gate.leave()
            time.sleep(PAUSE)

    def _meet(self, name: str, work: Callable[[], object]) -> None:
        try:
            work()
        except EXPECTED as error:
            self._count(error)
        except BaseException as error:
            self.findings.append(f"{name} met {type(error).__name__}: {error}")
        else:
            self.served[name] += 1

    def _count(self, error: BaseException) -> None:
        with self._lock:
            self.failed[type(error).__name__] += 1

    def die(self) -> None:
        """Have a thread take a connection and end without a word. Blocks until it has."""
        pool = self._pools[random.choice(ALIASES)]

        def short_life() -> None:
            with suppress(*EXPECTED):
                lease: Any = pool.acquire()
                lease.connection.execute(f"SET {MARK} = 'died'")

        thread = threading.Thread(target=short_life)
        thread.start()
        thread.join()

    # -- tasks

    def _loop(self, crowd: int) -> None:
        async def all_of_them() -> None:
            await asyncio.gather(*(self._task(f"task {number}") for number in range(crowd)))

        asyncio.run(all_of_them())

    async def _task(self, name: str) -> None:
        dice = random.Random(name)
        pool = self._pools["statements"]
        while await asyncio.to_thread(self.gate.enter):
            try:
                # Every third is cancelled at some moment: in the queue, or in its query.
                limit = dice.choice((0.02, 5.0, 5.0))
                async with asyncio.timeout(limit), pool.alease() as connection:
                    cursor = await connection.execute(f"SELECT current_setting('{MARK}', true)")
                    _unmarked(await cursor.fetchone())
                    await connection.execute("SELECT pg_sleep(0.01)")
                self.served[name] += 1
            except (*EXPECTED, TimeoutError) as error:
                self._count(error)
            except Exception as error:
                self.findings.append(f"{name} met {type(error).__name__}: {error}")
            finally:
                self.gate.leave()
            await asyncio.sleep(PAUSE)


class Bled(Exception):
    """Somebody saw what another left behind."""


def _unmarked(row: Any) -> None:
    if row and row[0]:
        raise Bled("a connection has the mark of another who had it before")


def _look(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT current_setting('{MARK}', true)")
        _unmarked(cursor.fetchone())


def _block(connection: Any) -> None:
    with transaction.atomic(using=connection.alias):
        _look(connection)
        with connection.cursor() as cursor:
            cursor.execute("UPDATE soak SET n = n + 1 WHERE id = %s", [random.randint(1, 50)])


def _rolled_back(connection: Any) -> None:
    with transaction.atomic(using=connection.alias):
        _look(connection)
        transaction.set_rollback(True, using=connection.alias)


def _mistake(connection: Any) -> None:
    with suppress(django.db.ProgrammingError), connection.cursor() as cursor:
        cursor.execute("SELECT nothing FROM nowhere")


def _mark(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET {MARK} = 'somebody'")
        cursor.execute("SELECT 1")


def _abandoned(connection: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("SELECT n FROM soak")  # neither read nor closed


def _slow(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(0.05)")
