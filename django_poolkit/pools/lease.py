"""A lease: one acquired connection, with its owner and its start."""

from __future__ import annotations

import sys
import threading
import weakref
from _thread import get_ident
from collections.abc import Callable
from time import monotonic
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Final, Protocol

from django_poolkit.pools.purpose import ToContext

if TYPE_CHECKING:
    import asyncio

# Deep enough to reach a view through Django's handlers, cheap enough for each acquire.
STACK_DEPTH: Final = 32

_PLUMBING: Final = "/django_poolkit/pools/", "/django_poolkit/backends/", "/django/db/backends/"
_PLUMBING_FILE: Final = "/django/utils/asyncio.py"

Stack = tuple[tuple[CodeType, int], ...]
"""Codes, each with the offset of the instruction that it is at."""


class Home(Protocol):
    """The pool of a lease, as far as the lease needs to know it."""

    name: str
    statements: Any
    greeting: object
    fenced: int
    """Connections of an earlier generation are from a server that may have been replaced."""

    def release(self, lease: Lease) -> None: ...
    def rest(self, lease: Lease) -> bool: ...
    def rouse(self, lease: Lease, depth: int, skip: int) -> bool: ...
    def end_rest(self, lease: Lease) -> None: ...
    def discard(self, lease: Lease) -> None: ...
    def lost(self, lease: Lease) -> None: ...
    def adrift(self, lease: Lease) -> None: ...
    def count_pin(self, reason: str) -> None: ...


class Keeper(Protocol):
    """Who holds a lease for no longer than somebody has a cursor open on it, or pins it."""

    def on_idle(self, lease: Lease) -> None:
        """Give the lease back if nothing else needs it: its last cursor has been closed."""
        ...

    def on_adrift(self, lease: Lease) -> None:
        """Do the same in another thread than the one that uses the lease."""
        ...


def capture_stack(depth: int = STACK_DEPTH, skip: int = 1) -> Stack:
    """Return the code of the callers and where they are in it, innermost first.

    A code object keeps nothing of its caller alive, unlike a frame. Lines are dear, and can wait.
    """
    try:
        frame = sys._getframe(skip + 1)
    except ValueError:
        return ()
    return stack_from(frame, depth)


def frames_of(thread: threading.Thread) -> tuple[str, ...]:
    """Return where a thread is at the moment, formatted as a stack; empty where it has ended."""
    frame = sys._current_frames().get(thread.ident or 0)
    if not thread.is_alive():
        return ()  # its number may be another's by now; so this is asked last
    return format_stack(stack_from(frame))


def stack_from(frame: FrameType | None, depth: int = STACK_DEPTH) -> Stack:
    """Return the code of a frame and of its callers, and where they are in it, innermost first."""
    entries: list[tuple[CodeType, int]] = []
    while frame is not None and depth:
        entries.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
        depth -= 1
    return tuple(entries)


inside_of: dict[CodeType, Callable[[FrameType], FrameType | None]] = {}
"""Of coroutines that run synchronous code: leads from their frame to its innermost one."""


def frames_of_task(task: asyncio.Task[Any]) -> tuple[str, ...]:
    """Return where a task is suspended, formatted as a stack; empty where it has ended."""
    stack: list[tuple[CodeType, int]] = []
    awaited: Any = task.get_coro()
    while awaited is not None and len(stack) < STACK_DEPTH:
        # Of coroutines, of generators that are awaited, and of asynchronous generators.
        for kind in ("cr", "gi", "ag"):
            frame = getattr(awaited, f"{kind}_frame", None)
            if frame is not None:
                stack.append((frame.f_code, frame.f_lasti))
                if (lead := inside_of.get(frame.f_code)) is not None:
                    stack += reversed(stack_from(lead(frame)))
                awaited = getattr(awaited, f"{kind}_await" if kind != "gi" else "gi_yieldfrom")
                break
        else:
            break
    return format_stack(tuple(reversed(stack)))


def format_stack(stack: Stack) -> tuple[str, ...]:
    """Return a stack as lines, `file:line function`, without the pool's and the backend's own."""
    return tuple(
        f"{code.co_filename}:{line} {code.co_qualname}"
        for code, at in stack
        if not code.co_filename.endswith(_PLUMBING_FILE)
        and not any(folder in code.co_filename for folder in _PLUMBING)
        for line in [next((n for a, b, n in code.co_lines() if n and a <= at < b), 0)]
    )


def acquired_at(lines: tuple[str, ...]) -> str:
    """Return a formatted stack as the end of a message."""
    if not lines:
        return "Its stack was not taken: set the option stacks to 'all'."
    return "It was acquired at:\n  " + "\n  ".join(lines)


class _Here(threading.local):
    """The thread one is in: `threading.current_thread()` has it looked up each time."""

    def __init__(self) -> None:
        self.thread = threading.current_thread()


here = _Here()


class Lease:
    """The right to use one connection until it is released.

    Used by one thread at a time. Give it back with `release()`, or `discard()` where the
    connection is not to be used again; as a context manager it does the one or the other.
    A lease that is dropped instead is taken back by its pool, with a warning.
    """

    # On the class, so that a lease costs no time for what seldom happens under it. What happens
    # under each is no default: CPython 3.12 and 3.13 are slow on an attribute that is both.
    dirty: str | None = None
    """Why the connection may carry session state, None while it cannot."""
    foreign = False
    """Whether a statement ran that the ORM did not write."""
    holds = 0
    """Open cursors WITH HOLD, which outlive their transaction."""
    wrote = False
    """Whether a statement ran in a transaction that may have written something."""
    committed = False
    """Whether something written may have been committed."""
    _lone = False  # whether what nobody is told the commit of may have written by an open cursor
    prepares = False
    """Whether a statement may have prepared others by name."""
    new_types = False
    """Whether a statement made types that receivers of a new connection may look for."""
    context: ToContext | None = None
    """Leads to what it was acquired for."""
    overdue = False
    """Whether it has been reported as held for too long."""
    listed = False
    """Whether its key has been told to somebody, who may want to kill what it was."""
    lost = False
    """Whether it was dropped instead of being released, and waits to be taken back."""
    pinned: str | None = None
    """Why it is held until its keeper closes, None while it is not."""
    patience: float | None = None
    """Seconds for which its acquire waits for a server that does not answer; None: no limit."""
    in_block = False
    """Whether a `with pool.lease()` block ends it, in the thread that began it."""
    shared = False
    """Whether it was acquired for a database wrapper that threads share."""
    share: str | None = None
    """The share of its pool that it counts against, None where against none."""
    alias: str | None = None
    """For which alias of `DATABASES` it was acquired, None where for none."""
    loop: asyncio.AbstractEventLoop | None = None
    """The event loop on which it was acquired, None where by a thread that waited itself."""
    task: weakref.ref[asyncio.Task[Any]] | None = None
    """The task that acquired it on that loop."""
    ends_on_loop = False
    """Whether it is that loop on which the server is waited for at its end."""

    def __init__(self, pool: Home, key: int, stack: Stack) -> None:
        self._connection: Any = None
        self.pool = pool
        self.key = key
        """Identifies the lease in its pool's ledger."""
        self.stack = stack
        self._thread = here.thread
        self.owner = get_ident()
        """Identifies the thread that uses it."""
        self.since = 0.0
        """When it was acquired, on the monotonic clock."""
        self.ran = False
        """Whether any statement ran."""
        self.statement: str | None = None
        """The text of the last statement."""
        self.keeper: Callable[[], Keeper | None] | None = None
        """Leads to who gives it back as soon as it is idle; None for one that is held on to."""
        self.cursors = 0
        """Open cursors, and those in `gone`. Counted for a keeper, by the owner alone."""
        self.turn = 0
        """Number of the present turn, or of the next one while it rests."""
        self.gone: list[None] = []
        """One entry for each cursor that another thread closed, as its garbage collector may."""
        self.released = False

    @property
    def thread(self) -> str:
        """Name of the thread that acquired it, and of the task where one did."""
        task = None if self.task is None else self.task()
        return self._thread.name if task is None else f"{self._thread.name} ({task.get_name()})"

    @property
    def holder(self) -> object:
        """The task that acquired it, else the thread: who waits no more than for one thing."""
        return self._thread if self.task is None else self.task()

    @property
    def held(self) -> Any:
        """The connection as its pool has it. None once the lease has been released."""
        connection = self._connection
        return connection() if isinstance(connection, weakref.ref) else connection

    @property
    def connection(self) -> Any:
        """The driver's connection. None once the lease has been released."""
        connection = self._connection
        return connection() if isinstance(connection, weakref.ref) else connection

    def where_now(self) -> tuple[str, ...]:
        """Return where its holder is at the moment, as a stack; empty where that has ended."""
        if self.task is None:
            return frames_of(self._thread)
        return () if (task := self.task()) is None else frames_of_task(task)

    def seconds(self) -> float:
        """How long the lease has been held."""
        return monotonic() - self.since

    def forget_statements(self) -> None:
        """Forget what was noted of statements, none of which left anything behind."""
        self.ran = self.foreign = self.wrote = self.committed = self._lone = False
        self.prepares = self.new_types = False
        self.statement = None

    def mark_dirty(self, reason: str) -> None:
        """Have the connection reset when it is released, and held by a keeper until it closes."""
        if self.dirty is None:
            self.dirty = reason
        if self.keeper is not None:
            self.pin(reason)

    def pin(self, reason: str) -> None:
        """Have a keeper hold the lease until it closes. The first reason is the one counted."""
        if self.pinned is None:
            self.pinned = reason
            self.pool.count_pin(reason)

    @property
    def busy(self) -> bool:
        """Whether a cursor is open on it."""
        return self.cursors > len(self.gone)

    def cursor_closed(self) -> None:
        """Count a cursor out; the last one's keeper gives the lease back, or a passer-by does.

        Also called by finalizers, on any thread.
        """
        if self.owner != get_ident():
            # The owner may be about to use the lease: whoever passes looks whether it is.
            self.gone.append(None)
            if not self.busy and not self.released:
                self.pool.adrift(self)
            return
        self.cursors -= 1
        if self.cursors > len(self.gone) or self.keeper is None:
            return
        if (keeper := self.keeper()) is not None:
            keeper.on_idle(self)

    def release(self) -> None:
        """Give the connection back. A second call raises LeaseReleased."""
        self.pool.release(self)

    def discard(self) -> None:
        """Give the slot back and close the connection. A second call raises LeaseReleased."""
        self.pool.discard(self)

    def __enter__(self) -> Any:
        return self.connection

    def __exit__(self, *exc_info: object) -> None:
        if not self.released:
            self.release()

    def __del__(self) -> None:
        # Runs on any thread, at any bytecode, even inside the pool's critical section: so it only
        # says that it is lost. One hit by an interrupt half way home still has its connection.
        try:
            lost = self._connection is not None
        except AttributeError:  # one may hit its first line, too
            return
        if lost:
            self.lost = True
            self.pool.lost(self)

    def __repr__(self) -> str:
        state = "released" if self.released else f"{self.seconds():.3f} s"
        return f"<Lease of {self.pool.name!r}, {state}>"
