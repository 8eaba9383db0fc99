"""The table of client sessions, which `registry.sessions` is one of. It knows no aiohttp."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

from django_poolkit.pools.errors import PoolClosed
from django_poolkit.pools.stats import PoolStats


class Measured(Protocol):
    """A pool or a client session, as those see it who show its figures."""

    name: str
    aliases: tuple[str, ...]

    @property
    def ended(self) -> bool:
        """Whether it has been closed for good."""

    def stats(self) -> PoolStats:
        """Return a snapshot. Opens nothing."""


class ClientSession(Measured, Protocol):
    """A shared client session, as the table sees it."""

    def close_from_thread(self, timeout: float) -> None:
        """Close it for good. Blocks for `timeout` seconds at most."""

    def forget(self) -> None:
        """Begin anew in a forked child."""


S = TypeVar("S", bound=ClientSession)


class SessionTable:
    """The shared client sessions of this process, by their names in `POOLKIT["HTTP"]`."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # guards the two below
        self._sessions: dict[str, Any] = {}
        self._latched = False

    def get(self, name: str, make: Callable[[str], S]) -> S:
        """Return the client session of a name, made by `make(name)` if there is none.

        Raises PoolClosed once the process is shutting down, and what `make` raises.
        """
        session: S | None = self._sessions.get(name)
        if session is not None and not session.ended:
            return session
        with self._lock:
            if self._latched:
                raise PoolClosed(
                    f"client session {name!r} is opened no more: this process is shutting down",
                    pool=name,
                )
            session = self._sessions.get(name)
            if session is None or session.ended:
                session = self._sessions[name] = make(name)
            return session

    def shut_down(self, timeout: float = 5.0) -> None:
        """Close all client sessions, and refuse to make another in this process.

        Blocks for `timeout` seconds at most.
        """
        self._latched = True
        self.close_all(timeout)

    def close_all(self, timeout: float = 5.0) -> None:
        """Close all client sessions. Who asks for one next gets a new one."""
        deadline = time.monotonic() + timeout
        with self._lock:
            sessions = list(self._sessions.values())
            self._sessions.clear()
        for session in sessions:
            session.close_from_thread(max(0.0, deadline - time.monotonic()))

    def reopen(self) -> None:
        """Take back `shut_down()`: for servers that start again in one process, and tests."""
        self._latched = False

    def __iter__(self) -> Iterator[ClientSession]:
        return iter(list(self._sessions.values()))

    def after_fork(self) -> None:
        """Begin anew in a forked child. The client sessions stay, and forget what they had."""
        self._lock = threading.RLock()
        for session in self:
            session.forget()
