"""Child processes that end with us, however we end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class ChildFailed(Exception):
    """A child ended when it should run; the text holds the end of its log."""


class Child:
    """A running program with a process group of its own and its output in a file."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str],
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name = name
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                pass_fds=pass_fds,
                # The terminal's Ctrl-C is for us alone: we stop the children in order.
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )

    @property
    def pid(self) -> int:
        """The program's process id, which is its group's as well."""
        return self._process.pid

    def check(self) -> None:
        """Raise ChildFailed if the program has ended."""
        code = self._process.poll()
        if code is not None:
            raise ChildFailed(f"{self.name} ended with status {code}\n{self.tail()}")

    def wait(self, seconds: float) -> int | None:
        """Return the program's status once it has ended; None if it runs on after `seconds`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def tail(self) -> str:
        """Return the last lines of the program's log, and where it is."""
        lines = self._log.read_text(errors="replace").splitlines()[-20:]
        return "\n".join([*(f"  | {line}" for line in lines), f"log: {self._log}"])

    def stop(self, patience: float = 8.0) -> None:
        """End the program and what it started: politely, and after `patience` seconds not."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def _end_with_parent() -> None:
    # Even SIGKILL of ours reaches the child so. Runs between fork and exec, where little
    # is allowed: the library is loaded already.
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def run_to_end(command: Sequence[str], *, environment: Mapping[str, str], folder: Path) -> None:
    """Run a program to its end, with our output. Ctrl-C reaches us alone, and kills it.

    Raises CalledProcessError where its status is not 0.
    """
    # Blocked until we know the program, or nobody could end it; it inherits that, and so
    # prints no traceback beside our "Stopped.".
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **environment},
            cwd=folder,
            preexec_fn=_end_with_parent,
        )
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            status = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if status != 0:
        raise subprocess.CalledProcessError(status, command)


def listen(port: int = 0) -> socket.socket:
    """Return a listening socket on loopback that children can inherit.

    On `port` if that is free, else on any. Ours before a server starts, it is never
    refused meanwhile and stays the same when the server is replaced.
    """
    for wanted in (port, 0):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", wanted))
        except OSError:
            listener.close()
            if wanted == 0:
                raise
            continue
        listener.listen(1024)
        listener.set_inheritable(True)
        return listener
    raise AssertionError("port 0 is always free or raises")


def url_of(listener: socket.socket) -> str:
    """Return the address of a listening socket as a URL."""
    host, port = listener.getsockname()
    return f"http://{host}:{port}/"
