"""django-debug-toolbar: a panel that shows what a request leased, for how long, and for what.

Name `django_poolkit.contrib.debug_toolbar.PoolkitPanel` in `DEBUG_TOOLBAR_PANELS`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from time import monotonic
from typing import Any, Final

from debug_toolbar.panels import Panel
from django.db import connections
from django.utils.functional import cached_property

from django_poolkit import registry
from django_poolkit.control.tables import duration

MOST_LEASES: Final = 500
"""Leases of a request that are shown, the first of them."""


_Who = tuple[int, int]


def _who() -> _Who:
    """Return what tells those apart who use one connection each: threads, and tasks of a loop."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop runs here
        task = None
    return threading.get_ident(), id(task)


@dataclass(slots=True, kw_only=True)
class LeaseRow:
    """One lease of the request."""

    pool: str
    thread: str
    begun: float
    """Seconds since the request began."""
    waited: float
    """Seconds from the call to its return."""
    held: float | None = None
    """Seconds, None while it has not ended."""
    statements: int = 0
    pins: list[str] = field(default_factory=list)


class Record:
    """What one request leases. Written by the threads that serve it, each its own rows."""

    def __init__(self) -> None:
        self._started = monotonic()
        self._lock = threading.Lock()  # guards the rest
        self.rows: list[LeaseRow] = []
        self.failures: list[str] = []
        self._last: dict[tuple[_Who, str], LeaseRow] = {}
        self._counted: list[list[Any]] = []

    def hear(self, event: str, facts: Mapping[str, Any]) -> None:
        """Take in an event of a pool, in the thread in which it happens."""
        pool = str(facts["pool"])
        key = _who(), pool
        last = self._last.get(key)
        if event == "lease_acquired":
            self.count_here()
            row = LeaseRow(
                pool=pool,
                thread=threading.current_thread().name,
                begun=monotonic() - self._started,
                waited=facts["waited"],
            )
            with self._lock:
                self._last[key] = row
                if len(self.rows) < MOST_LEASES:
                    self.rows.append(row)
        elif event == "lease_released" and last is not None:
            last.held = facts["seconds"]
        elif event == "pin" and last is not None:
            last.pins.append(str(facts["reason"]))
        elif event == "pool_timeout":
            self.failures.append(f"{pool}: {facts['kind']} after {duration(facts['waited'])}")

    def count_here(self) -> None:
        """Have the statements of this thread's connections counted from here on."""
        for connection in connections.all(initialized_only=True):
            wrappers = connection.execute_wrappers
            if self._count not in wrappers:
                wrappers.append(self._count)
                with self._lock:
                    self._counted.append(wrappers)

    def _count(self, execute: Callable[..., Any], *args: Any) -> Any:
        context = args[-1]
        try:
            return execute(*args)
        finally:
            # After it has run: in transaction mode it is what acquires.
            if (row := self._row_of(context["connection"].alias)) is not None:
                row.statements += 1

    def _row_of(self, alias: str) -> LeaseRow | None:
        names = [pool.name for pool in registry.pools if alias in pool.aliases]
        rows = [self._last.get((_who(), name)) for name in names]
        return max((row for row in rows if row), key=lambda row: row.begun, default=None)

    def end(self) -> None:
        """Count no more."""
        with self._lock:
            counted, self._counted = self._counted, []
        for wrappers in counted:
            if self._count in wrappers:
                wrappers.remove(self._count)


_record: ContextVar[Record | None] = ContextVar("django_poolkit_toolbar", default=None)


def _hear(event: str, facts: Mapping[str, Any]) -> None:
    if (record := _record.get()) is not None:
        record.hear(event, facts)


class _Listening:
    """Hears of each lease while some request has the panel: connections do not rest meanwhile."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the count
        self._requests = 0

    def begin(self) -> None:
        with self._lock:
            self._requests += 1
            registry.pools.events.subscribe(_hear, leases=True)

    def end(self) -> None:
        with self._lock:
            self._requests -= 1
            if not self._requests:
                registry.pools.events.unsubscribe(_hear)


_listening: Final = _Listening()


class PoolkitPanel(Panel):
    """Leases, waits, pins, and statements under each lease."""

    is_async = True
    title = "Connection pools"
    template = "poolkit_toolbar/panel.html"
    _listens = False

    @cached_property
    def _of_request(self) -> Record:
        return Record()

    @property
    def nav_title(self) -> str:
        """Return the word in the side bar."""
        return "Pools"

    @property
    def nav_subtitle(self) -> str:
        """Return what stands below it."""
        found = self.get_stats()  # type: ignore[no-untyped-call]
        if not found:
            return ""
        count = len(found["leases"])
        word = "lease" if count == 1 else "leases"
        return f"{count} {word}, {found['waited']} waited"

    def enable_instrumentation(self) -> None:
        """Begin to listen. Called again it does nothing."""
        if not self._listens:
            self._listens = True
            _record.set(self._of_request)
            self._of_request.count_here()
            _listening.begin()

    def disable_instrumentation(self) -> None:
        """End it. Called again it does nothing."""
        if self._listens:
            self._listens = False
            _record.set(None)
            self._of_request.end()
            _listening.end()

    def generate_stats(self, request: Any, response: Any) -> None:
        """Keep what was found, as words."""
        rows, failures = list(self._of_request.rows), list(self._of_request.failures)
        held = sum(row.held or 0.0 for row in rows)
        self.record_stats(  # type: ignore[no-untyped-call]
            {
                "leases": [_words(row) for row in rows],
                "failures": failures,
                "waited": duration(sum(row.waited for row in rows)),
                "held": duration(held),
                "statements": sum(row.statements for row in rows),
                "pins": sorted({pin for row in rows for pin in row.pins}),
            }
        )


def _words(row: LeaseRow) -> dict[str, Any]:
    return asdict(row) | {
        "begun": duration(row.begun),
        "waited": duration(row.waited),
        "held": "until its end" if row.held is None else duration(row.held),
        "pins": ", ".join(row.pins),
    }
