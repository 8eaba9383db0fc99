"""What transaction mode would do to code that runs in session mode, counted by call site.

A watch is the keeper of a lease that is held on to: where transaction mode would give it back,
the watch begins to count seconds, until a cursor is opened again. Where transaction mode would
pin it, the watch takes down by whom, and what is idle from then on is the price of that pin.

Locking. Watches are written by the thread that uses their lease; finalizers among it may come in
anywhere. So they only append to `_inbox`, which is atomic. `_lock` guards the table that the
inbox is emptied into, and is held for that alone; who does not get it leaves it to the next.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from time import monotonic
from types import FrameType
from typing import Any, Final
from weakref import WeakKeyDictionary

from django_poolkit.pools.lease import Lease

IDLE: Final = "idle"
"""The reason of a row that counts what transaction mode would save."""
OTHER: Final = "other"
"""Stands for the sites that found no place in the table any more."""
MOST_ROWS: Final = 1000
"""Rows of the table, at most; and one more for each reason."""
_MOST_WAITING: Final = 256
# Seconds. What is shorter would hardly be idle: to give back and take again is of that order.
_SHORTEST: Final = 0.0001


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What transaction mode would make of one line of code."""

    site: str
    """The line, as `module:line`; `"other"` for those beyond the thousandth row."""
    reason: str
    """Why it would pin its connection, as in `PoolStats.pins`; `"idle"` where it would not."""
    count: int
    """How often the line did so; of `"idle"`, how often a lease was idle behind it for 0.1 ms
    and more."""
    seconds: float
    """How long leases were idle behind the line: saved in transaction mode, or lost to the pin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """What `observe` has found by one moment: a sequence of its rows, and sums in seconds."""

    rows: tuple[Observation, ...]
    """One for each line and reason, most seconds first, then the highest count."""
    held: float
    """How long leases were held. A gap or lease that has not ended is not in it yet."""
    idle: float
    """How long of that nothing needed them: what transaction mode would save."""

    @property
    def share(self) -> float:
        """What would be saved of what is held, 0.0 to 1.0."""
        return self.idle / self.held if self.held else 0.0

    def __iter__(self) -> Iterator[Observation]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Observation:
        return self.rows[index]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON."""
        return asdict(self) | {"share": self.share}


def line_of(frame: FrameType) -> str:
    """Return where a frame is, as `module:line`."""
    return f"{frame.f_globals.get('__name__', '?')}:{frame.f_lineno}"


class Recorder:
    """Collects what the watches of one pool see."""

    def __init__(self) -> None:
        self.site: Callable[[FrameType], str] = line_of
        """Returns the line of user code above a frame."""
        # Site, reason, count, idle seconds, held seconds.
        self._inbox: deque[tuple[str, str, int, float, float]] = deque()
        self._watches: WeakKeyDictionary[Lease, Watch] = WeakKeyDictionary()
        self._lock = threading.Lock()
        self._table: dict[tuple[str, str], list[Any]] = {}  # guarded by _lock
        self._held = 0.0  # guarded by _lock

    def watch(
        self,
        lease: Lease,
        frame: FrameType,
        *,
        idle: Callable[[Lease], bool],
        changed: Callable[[], bool],
    ) -> Watch:
        """Begin to watch a lease that the caller of `frame` has taken.

        `idle` tells whether nothing needs it at the moment, `changed` whether the server has
        reported a changed setting.
        """
        watch = Watch(self, lease, self.site(frame), idle, changed)
        self._watches[lease] = watch
        lease.keeper = watch
        watch.on_idle(lease)
        return watch

    def end(self, lease: Lease) -> None:
        """Take note that a lease has ended."""
        watch = self._watches.pop(lease, None)
        if watch is not None:
            watch.end()

    def add(self, site: str, reason: str, count: int, seconds: float, held: float) -> None:
        """Take down one thing. Never blocks, and may be called by a finalizer."""
        self._inbox.append((site, reason, count, seconds, held))
        if len(self._inbox) >= _MOST_WAITING and self._lock.acquire(blocking=False):
            try:
                self._empty_locked()
            finally:
                self._lock.release()

    def _empty_locked(self) -> None:
        while self._inbox:
            site, reason, count, seconds, held = self._inbox.popleft()
            self._held += held
            if not (count or seconds):
                continue
            key = site, reason
            if key not in self._table and len(self._table) >= MOST_ROWS:
                key = OTHER, reason
            entry = self._table.setdefault(key, [0, 0.0])
            entry[0] += count
            entry[1] += seconds

    def snapshot(self) -> Observations:
        """Return what has been found so far."""
        with self._lock:
            self._empty_locked()
            held = self._held
            rows = [
                Observation(site=site, reason=reason, count=count, seconds=seconds)
                for (site, reason), (count, seconds) in self._table.items()
            ]
        rows.sort(key=lambda row: (-row.seconds, -row.count, row.site, row.reason))
        idle = sum(row.seconds for row in rows if row.reason == IDLE)
        return Observations(rows=tuple(rows), held=held, idle=idle)

    def forget(self) -> None:
        """Start anew in a forked child."""
        self._lock = threading.Lock()
        self._inbox.clear()
        self._watches = WeakKeyDictionary()
        self._table, self._held = {}, 0.0


class Watch:
    """Looks at one lease in its keeper's place, and gives nothing back.

    It is what `Lease.keeper` leads to, and leads to itself.
    """

    __slots__ = ("_changed", "_counted", "_idle", "_pin", "_recorder", "_since", "_site")

    def __init__(
        self,
        recorder: Recorder,
        lease: Lease,
        site: str,
        idle: Callable[[Lease], bool],
        changed: Callable[[], bool],
    ) -> None:
        self._recorder = recorder
        self._idle = idle
        self._changed = changed
        self._site = site  # of the last statement
        self._since: float | None = None  # when the present gap began
        self._counted = lease.since  # up to when its seconds have been taken down
        self._pin: tuple[str, str] | None = None  # what transaction mode would hold it for

    def __call__(self) -> Watch:
        return self

    def statement(self, lease: Lease, residue: str | None, frame: FrameType) -> None:
        """Take note of a statement that begins, and of what it may leave behind."""
        self.resumed()
        self._site = self._recorder.site(frame)
        if residue is not None:
            self._pinned(lease, residue)

    def touched(self, lease: Lease, frame: FrameType) -> None:
        """Take note that foreign code takes hold of the connection itself."""
        self.resumed()
        self._site = self._recorder.site(frame)
        self._pinned(lease, "raw")

    def _pinned(self, lease: Lease, reason: str) -> None:
        reason = str(reason)  # an enumeration's member would print as one
        self._pin = self._pin or (self._site, reason)
        lease.pin(reason)
        self._recorder.add(self._site, reason, 1, 0.0, 0.0)

    def resumed(self) -> None:
        """Take note that the lease is needed again, if it was idle."""
        since, self._since = self._since, None
        if since is None or (now := monotonic()) - since < _SHORTEST:
            return
        site, reason = self._pin or (self._site, IDLE)
        self._recorder.add(site, reason, int(reason == IDLE), now - since, now - self._counted)
        self._counted = now

    def on_idle(self, lease: Lease) -> None:
        """Take note that the last cursor has been closed, or a transaction has ended."""
        if self._since is not None or not self._idle(lease):
            return
        if lease.pinned is None and self._changed():
            self._pinned(lease, "parameter")
        elif lease.pinned is not None and self._pin is None:
            self._pin = self._site, lease.pinned  # marked by hand
        self._since = monotonic()

    def on_adrift(self, lease: Lease) -> None:
        """Do nothing: the lease is used by another thread, which may be at it again."""

    def end(self) -> None:
        """Take note that the lease has ended."""
        self.resumed()
        now = monotonic()
        self._recorder.add("", "", 0, 0.0, now - self._counted)
        self._counted = now
