"""A contestant of `tests.benchmarks.failure`: threads that make requests, and what became of them.

Run as a script by that program, in the contestant's environment, with its settings as argument.
Orders in, answers out, both a line of JSON. It needs Django, psycopg and the contestant, and
nothing of this checkout. Moments are those of the system's monotonic clock, which both share.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from functools import partial
from time import monotonic, sleep
from typing import Any, NamedTuple

import django
from django.conf import settings

Answer = dict[str, Any]


class Visit(NamedTuple):
    """One request that has come to an end."""

    thread: int
    started: float
    ended: float
    error: str | None


class Crowd:
    """Threads that make a request, pause, and make the next, whatever came of it."""

    def __init__(self, request: Callable[[], object], threads: int, pause: float) -> None:
        self._request = request
        self._pause = pause
        self._gate = threading.Event()
        self._gate.set()
        self._visits: list[Visit] = []
        self._under_way: list[float | None] = [None] * threads
        for number in range(threads):
            # Daemons: who waits for a server that is silent is not waited for.
            threading.Thread(target=self._visit, args=(number,), daemon=True).start()

    def _visit(self, number: int) -> None:
        while True:
            self._gate.wait()
            self._under_way[number] = started = monotonic()
            if not self._gate.is_set():  # a rest began in between
                self._under_way[number] = None
                continue
            error = None
            try:
                self._request()
            except Exception as raised:
                error = type(raised).__name__
            self._visits.append(Visit(number, started, monotonic(), error))
            self._under_way[number] = None
            sleep(self._pause)

    def rest(self) -> None:
        """Return once nobody makes a request, and have nobody begin another."""
        self._gate.clear()
        while any(self._under_way):
            sleep(0.002)

    def go(self) -> None:
        """Have them go on."""
        self._gate.set()

    def settled(self, since: float) -> bool:
        """Return whether each thread has succeeded since a moment."""
        return all(found is not None for found in self._firsts(since))

    def _firsts(self, since: float) -> list[float | None]:
        firsts: list[float | None] = [None] * len(self._under_way)
        for visit in list(self._visits):
            if visit.error is None and visit.ended >= since and firsts[visit.thread] is None:
                firsts[visit.thread] = visit.ended
        return firsts

    def answer(self, begun: float, ended: float) -> Answer:
        """Return what a fault between two moments has cost."""
        now = monotonic()
        firsts = self._firsts(ended)
        known = [found for found in firsts if found is not None]
        concerned = [visit for visit in list(self._visits) if visit.ended >= begun]
        # Who still waits has waited for so long, at least.
        waits = [now - started for started in list(self._under_way) if started is not None]
        waits += [visit.ended - visit.started for visit in concerned]
        errors = [visit.error for visit in concerned if visit.error]
        return {
            "first": min(known) - ended if known else None,
            "all": max(known) - ended if len(known) == len(firsts) else None,
            "failed": len(errors),
            "errors": sorted(set(errors)),
            "requests": len(concerned),
            "longest": max(waits, default=0.0),
        }


def request(work: Callable[[], object]) -> None:
    """Do what Django does in a request."""
    from django.db import close_old_connections

    close_old_connections()
    try:
        work()
    finally:
        close_old_connections()


def main() -> None:
    """Set Django up with one database, and obey until the input ends."""
    settings.configure(
        USE_TZ=True, DATABASES={"default": json.loads(sys.argv[1])}, LOGGING_CONFIG=None
    )
    django.setup()
    from django.db import models

    class Thing(models.Model):
        name = models.CharField(max_length=50)

        class Meta:
            app_label = "contest"

    def read() -> object:
        return Thing._default_manager.get(pk=1)

    def write() -> object:
        return Thing._default_manager.filter(pk=1).update(name="the one")

    crowd: Crowd | None = None
    for line in sys.stdin:
        order = json.loads(line)
        answer: Answer = {}
        match order:
            case {"do": "begin", "threads": threads, "pause": pause, "write": writes}:
                crowd = Crowd(partial(request, write if writes else read), threads, pause)
            case {"do": "rest"} if crowd:
                crowd.rest()
            case {"do": "go"} if crowd:
                crowd.go()
            case {"do": "settled", "since": since} if crowd:
                answer = {"settled": crowd.settled(since)}
            case {"do": "answer", "begun": begun, "ended": ended} if crowd:
                answer = crowd.answer(begun, ended)
            case _:
                raise ValueError(order)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
