"""A contestant of `tests.benchmarks.peers`, in an environment of its own: orders in, figures out.

Run as a script by that program, with the contestant's settings as its argument. Each line of its
input is an order, each line of its output the answer, both JSON. It needs Django, psycopg and the
contestant, and nothing of this checkout.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
from collections.abc import Callable
from functools import partial
from time import perf_counter, process_time
from typing import Any

import django
from django.conf import settings

Figures = dict[str, Any]


def request(get: Callable[[], object], statements: int) -> None:
    """Do what Django does in a request with so many queries; without any, only connect."""
    from django.db import close_old_connections, connection

    close_old_connections()
    if not statements:
        connection.ensure_connection()
    for _ in range(statements):
        get()
    close_old_connections()


def timed(cycle: Callable[[], object], threads: int, times: int) -> Figures:
    """Run a cycle so often in each of so many threads; return microseconds of one."""
    from django.db import connection

    ready, go = threading.Barrier(threads + 1), threading.Event()
    done = threading.Barrier(threads + 1)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            cycle()  # who holds on to a connection has it from here on
            ready.wait(60.0)
            go.wait(60.0)
            for _ in range(times):
                cycle()
            done.wait(60.0)
        except BaseException as error:
            errors.append(error)
            ready.abort()
            done.abort()
        finally:
            connection.close()

    crew = [threading.Thread(target=work) for _ in range(threads)]
    for thread in crew:
        thread.start()
    wall = cpu = 0.0
    gc.collect()
    gc.disable()
    try:
        ready.wait(60.0)
        wall, cpu = perf_counter(), process_time()
        go.set()
        done.wait(600.0)
        wall, cpu = perf_counter() - wall, process_time() - cpu
    except threading.BrokenBarrierError:
        pass
    finally:
        gc.enable()
        for thread in crew:
            thread.join()
    if errors:
        first = next((e for e in errors if not isinstance(e, threading.BrokenBarrierError)), None)
        return {"error": type(first or errors[0]).__name__}
    count = threads * times
    return {"cpu": cpu / count * 1e6, "wall": wall / count * 1e6}


def alone(cycle: Callable[[], object], times: int) -> Figures:
    """Do the same in this thread, as nobody else is there to be waited for."""
    from django.db import connection

    cycle()
    gc.collect()
    gc.disable()
    try:
        wall, cpu = perf_counter(), process_time()
        for _ in range(times):
            cycle()
        wall, cpu = perf_counter() - wall, process_time() - cpu
    finally:
        gc.enable()
    if connection.settings_dict["CONN_MAX_AGE"] == 0:
        connection.close()
    return {"cpu": cpu / times * 1e6, "wall": wall / times * 1e6}


def fill(get: Callable[[], object], threads: int) -> Figures:
    """Have so many idle connections, or the one that this thread holds on to."""
    from django.db import Error, connection, transaction

    if connection.settings_dict["CONN_MAX_AGE"] is None:
        get()
        return {}
    meet = threading.Barrier(threads)

    def hold() -> None:
        for _ in range(2 * threads):  # who does not look gives out those that were killed before
            try:
                with transaction.atomic():
                    get()
                    meet.wait(60.0)
                return
            except Error:
                pass
            finally:
                connection.close()

    crew = [threading.Thread(target=hold) for _ in range(threads)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    return {}


def first(get: Callable[[], object]) -> Figures:
    """Make one request; return how long it took, and what came of it."""
    from django.db import Error, connection

    started = perf_counter()
    try:
        request(get, 1)
    except (Error, TimeoutError) as error:
        connection.close()
        return {"seconds": perf_counter() - started, "error": type(error).__name__}
    return {"seconds": perf_counter() - started}


def main() -> None:
    """Set Django up with one database, and obey until the input ends."""
    settings.configure(USE_TZ=True, DATABASES={"default": json.loads(sys.argv[1])})
    django.setup()
    from django.db import models

    class Thing(models.Model):
        name = models.CharField(max_length=50)

        class Meta:
            app_label = "contest"

    def get() -> object:
        return Thing._default_manager.get(pk=1)

    text = models.TextField()

    def sleeping(seconds: float) -> object:
        slept = models.Func(models.Value(seconds), function="pg_sleep", output_field=text)
        return Thing._default_manager.filter(pk=1).values_list(slept, "name").get()

    gc.collect()
    gc.freeze()  # or each round would begin with a walk through all of Django
    for line in sys.stdin:
        order = json.loads(line)
        match order:
            case {"do": "requests", "statements": statements, "threads": 1, "times": times}:
                answer = alone(lambda: request(get, statements), times)
            case {"do": "requests", "statements": statements, "threads": threads, "times": times}:
                answer = timed(lambda: request(get, statements), threads, times)
            case {"do": "statements", "threads": threads, "times": times, "sleep": seconds}:
                cycle = partial(sleeping, seconds) if seconds else get
                answer = timed(cycle, threads, times)
            case {"do": "fill", "threads": threads}:
                answer = fill(get, threads)
            case {"do": "first"}:
                answer = first(get)
            case _:
                raise ValueError(order)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
