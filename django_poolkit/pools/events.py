"""Tells those who ask what happens in pools. Costs nothing where nobody does."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final

logger = logging.getLogger("django_poolkit.pool")

Observer = Callable[[str, Mapping[str, Any]], None]
"""Called with the name of an event and its facts (never a DSN), in the thread it happened in and
outside every lock. What it raises is logged."""

OF_EACH_LEASE: Final = ("lease_acquired", "lease_released")
"""The events of every lease, told only to those who subscribed with `leases=True`."""


class Events:
    """The observers of one pool, or of all that share it.

    An observer that uses a pool itself is not told of what that brings about: it would never
    come to an end.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the changes of the four; they are read without
        self._observers: tuple[Observer, ...] = ()
        self.of_leases: tuple[Observer, ...] = ()
        """Who is told of each lease, too. Empty, it spares the pool to say anything."""
        self.of_waits: tuple[Observer, ...] = ()
        """Who is told of each lease that was waited for: where a pool is short, that is most."""
        self.before_open: tuple[Callable[[Any], None], ...] = ()
        """Called with a pool by the thread that opens it, also anew in a forked child, before
        it gives anything out. May be called twice. Set by the process's table."""
        self._telling = threading.local()

    def subscribe(self, observer: Observer, *, leases: bool = False, waits: bool = True) -> None:
        """Have `observer` told of every event; of each single lease only with `leases`.

        Without `waits` it is not told of those that were waited for, and costs nothing there.
        """
        with self._lock:
            if observer not in self._observers:
                self._observers += (observer,)
            if leases and observer not in self.of_leases:
                self.of_leases += (observer,)
            if waits and observer not in self.of_waits:
                self.of_waits += (observer,)

    def unsubscribe(self, observer: Observer, *, leases_only: bool = False) -> None:
        """Have it told no more, or of single leases no more. Unknown ones are ignored."""
        with self._lock:
            self.of_leases = tuple(other for other in self.of_leases if other != observer)
            if not leases_only:
                self.of_waits = tuple(other for other in self.of_waits if other != observer)
                self._observers = tuple(other for other in self._observers if other != observer)

    def tell(self, event: str, **facts: Any) -> None:
        """Tell the observers. Never raises what they raise."""
        if event == "lease_waited":
            observers = self.of_waits
        else:
            observers = self.of_leases if event in OF_EACH_LEASE else self._observers
        if not observers or getattr(self._telling, "now", False):
            return
        self._telling.now = True
        try:
            for observer in observers:
                try:
                    observer(event, facts)
                except Exception:
                    # Whoever passes with the news has nothing to do with it. As a text: whoever
                    # keeps the traceback would keep the lease of a frame further out.
                    logger.error(
                        "pool=%s event=observer_failed observed=%s\n%s",
                        facts.get("pool"), event, traceback.format_exc(),
                    )  # fmt: skip
        finally:
            self._telling.now = False

    def opening(self, pool: Any) -> None:
        """Say that a pool is about to open. Never raises what the callables raise."""
        for call in self.before_open:
            try:
                call(pool)
            except Exception:
                logger.exception("pool=%s event=observer_failed observed=open", pool.name)

    def after_fork(self) -> None:
        """Start anew in a forked child: another thread may have held the lock, or been telling."""
        self._lock = threading.Lock()
        self._telling = threading.local()
