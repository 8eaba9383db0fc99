"""The socket that a process serves, from one daemon thread: others ask it, and may steer it.

A forked child forgets the server, and starts its own with the first pool that it opens.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Final

from django_poolkit.conf.control import ControlConfig
from django_poolkit.control import directory
from django_poolkit.control.conversation import Conversation, Handler, traced
from django_poolkit.control.directory import DirectoryRefused
from django_poolkit.control.visits import Visits
from django_poolkit.pools.endings import at_end
from django_poolkit.pools.forks import in_child

logger = logging.getLogger("django_poolkit.control")

Tick = Callable[[], None]

TICK: Final = 5.0
"""Seconds between two calls of what is called now and then."""
_FAREWELL: Final = 1.0


class ControlServer:
    """One process's socket, and the thread behind it."""

    def __init__(self, config: ControlConfig, talk: Conversation, ticks: Collection[Tick]) -> None:
        self.path: Path | None = None
        """Where the socket is, once it is there."""
        self._place = config.directory
        self._ticks = tuple(ticks)
        # All that a forked child has to close its copies of.
        self._sockets: set[socket.socket] = set()
        self._visits = Visits(talk, self._sockets)
        self._listener: socket.socket
        self._bell: socket.socket | None = None
        self._stopped = False
        self._thread: threading.Thread | None = None

    # -- from any thread

    def start(self) -> None:
        """Bind the socket, then start the thread.

        Raises DirectoryRefused, OSError, or RuntimeError where there is no thread to be had; then
        nothing is left of it.
        """
        directory.prepare(self._place)
        directory.sweep(self._place)
        try:
            self._bell, ear = socket.socketpair()
            self._sockets |= {self._bell, ear}
            self._visits.open_to(self._publish(), ear)
            thread = threading.Thread(target=self._run, name="poolkit-control", daemon=True)
            thread.start()
        except BaseException:
            self._unlink()
            self._close_all()
            raise
        self._thread = thread

    def stop(self) -> None:
        """Remove the socket and end the thread. Blocks for 1 second at most."""
        self._unlink()
        self._stopped = True
        if self._bell is not None and self._thread is not None:
            with suppress(OSError):  # it has ended by itself
                self._bell.send(b"!")
            self._thread.join(_FAREWELL)

    def forget(self) -> None:
        """Close the copies that a forked child has inherited; the parent's connections go on."""
        for inherited in self._sockets:
            with suppress(OSError):
                os.close(inherited.detach())

    def _publish(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        self._sockets.add(listener)  # before it listens: a fork may come at any point
        try:
            listener.setblocking(False)
            self.path = directory.publish(self._place, listener)
        except BaseException:
            self._close(listener)
            raise
        self._listener = listener
        return listener

    def _unlink(self) -> None:
        if self.path is not None:
            with suppress(OSError):
                self.path.unlink()

    def _close(self, either: socket.socket) -> None:
        self._sockets.discard(either)
        either.close()

    def _close_all(self) -> None:
        for left in list(self._sockets):
            self._close(left)

    # -- in its own thread

    def _run(self) -> None:
        try:
            next_tick = monotonic() + TICK
            while not self._stopped:
                self._visits.attend(next_tick)
                if monotonic() >= next_tick:
                    next_tick = monotonic() + TICK
                    self._tick()
        finally:  # a socket that is open and unheard would look alive
            self._unlink()
            self._close_all()

    def _tick(self) -> None:
        for tick in self._ticks:
            try:
                tick()
            except Exception as error:
                name = getattr(tick, "__qualname__", "tick")
                logger.error("event=tick_failed what=%s error=%s\n%s", name, *traced(error))
        if self._missing():
            self._renew()
        self._visits.take_in()

    def _missing(self) -> bool:
        """Tell whether somebody removed our socket, and keep those off who go by age.

        The kernel lists it by the name it was bound under. So what cleans up a /tmp, as
        systemd-tmpfiles does, cannot know that it is in use.
        """
        assert self.path is not None
        try:
            os.utime(self.path)
        except FileNotFoundError:
            return True
        except OSError:
            pass
        return False

    def _renew(self) -> None:
        """Serve a new socket in place of one that is gone; if that fails, the next tick tries."""
        old = self._listener
        try:
            directory.prepare(self._place)
            self._visits.open_to(self._publish())
        except (DirectoryRefused, OSError):
            return
        self._close(old)


# -- the one of this process

# Guards the other two. Reentrant: a finalizer may open a pool at any line.
_lock = threading.RLock()
_server: ControlServer | None = None
_settled = False  # whether it runs, or cannot


def ensure_started(
    config: ControlConfig,
    handlers: Mapping[str, Handler],
    steering_commands: Collection[str],
    ticks: Collection[Tick] = (),
) -> None:
    """Serve the socket of this process, if it is not served yet.

    When it returns, the socket is there for all to find. `ticks` are called every 5 seconds, in
    the server's thread, and must not block. Never raises: what keeps it from serving is one
    WARNING, and it is not tried again in this process.
    """
    global _server, _settled
    with _lock:
        wanted, _settled = config.enabled and not _settled, True
        if wanted:
            talk = Conversation(config, handlers, steering_commands)
            _server = ControlServer(config, talk, ticks)
            try:
                _server.start()
            except (DirectoryRefused, OSError, RuntimeError) as error:
                _server = None
                _warn(config, error)


def running() -> ControlServer | None:
    """Return the server of this process, None if it has none."""
    with _lock:
        return _server


def stop() -> None:
    """End the server of this process, if it has one; the next `ensure_started()` starts another."""
    global _server, _settled
    with _lock:
        server, _server, _settled = _server, None, False
    if server is not None:
        server.stop()


def _warn(config: ControlConfig, error: Exception) -> None:
    reason = str(error)
    if isinstance(error, OSError):
        reason = f"{config.directory}: {error.strerror or type(error).__name__}"
    logger.warning(
        "event=control_off reason=%r; poolstatus and poolctl will not see this process. Set "
        "POOLKIT['CONTROL']['DIRECTORY'] to a path for a directory that user %d owns and no other "
        "may enter (mode 700), in one that exists; or set ['ENABLED'] to False",
        reason, os.geteuid(),
    )  # fmt: skip


def _after_in_child() -> None:
    global _lock, _server, _settled
    if _server is not None:
        _server.forget()
    _lock, _server, _settled = threading.RLock(), None, False


in_child(_after_in_child)
at_end(stop)
