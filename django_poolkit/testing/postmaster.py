"""One server process: its start, its end, and its deep sleep, seen from outside."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Literal

from django_poolkit.testing import processes
from django_poolkit.testing.binaries import Binaries
from django_poolkit.testing.errors import ClusterError, ClusterTimeout, PortTaken
from django_poolkit.testing.runuser import ServerUser
from django_poolkit.testing.waiting import wait_until

StopMode = Literal["smart", "fast", "immediate"]

_STOP_SIGNALS: dict[StopMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
_LOG_LINES = 20


def find_servers(marker: str) -> list[int]:
    """Return the ids of all server processes of a node, or of a whole run, by cluster_name.

    The postmaster carries the name in its arguments, its children in their title:
    readable for root even where /proc/PID/cwd is not (a container without ptrace).
    """
    # "run" finds "run-primary" too, but "run-replica1" does not find "run-replica10".
    name = re.escape(marker) + r"(?=[-:\s]|$)"
    option, title = re.compile(f"cluster_name={name}"), re.compile(f"postgres: {name}")
    found = []
    for pid, arguments in processes.command_lines().items():
        is_postmaster = Path(arguments[0]).name == "postgres" and any(
            map(option.match, arguments[1:])
        )
        if is_postmaster or title.match(" ".join(arguments)):
            found.append(pid)
    return found


def end_servers(marker: str, timeout: float = 10.0) -> None:
    """End all server processes of `marker`, whatever state they are in.

    SIGQUIT first (the server then removes its shared memory), SIGKILL at the end.
    Blocks for at most about twice `timeout` seconds.

    Raises:
        ClusterTimeout: some live on.
    """
    found = find_servers(marker)
    # To all, not to the postmaster alone: it may have been killed before them.
    processes.send(found, signal.SIGCONT)
    processes.send(found, signal.SIGQUIT)
    try:
        wait_until(lambda: not any(map(processes.is_alive, found)), timeout)
    except TimeoutError:
        processes.send(find_servers(marker), signal.SIGKILL)

    def living() -> list[int]:
        return [pid for pid in find_servers(marker) if processes.is_alive(pid)]

    wait_until(
        lambda: not living(),
        timeout,
        lambda: f"processes of {marker} still run: {living()}",
        error=ClusterTimeout,
    )


class Postmaster:
    """The server of one data directory. Its verbs belong to the process that started it."""

    def __init__(
        self, *, marker: str, data: Path, log: Path, binaries: Binaries, user: ServerUser
    ) -> None:
        self.data = data
        self.log = log
        self._marker = marker
        self._binaries = binaries
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()

    @property
    def running(self) -> bool:
        """True while the server process lives (ready or not, paused or not)."""
        self._check_owner()
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The id of the server process.

        Raises:
            ClusterError: it does not run.
        """
        if not self.running or self._process is None:
            raise ClusterError(f"the server of {self.data} does not run")
        return self._process.pid

    def log_tail(self, start: int = 0) -> str:
        """Return the last lines of the server's log, from byte `start` on."""
        try:
            with self.log.open("rb") as file:
                file.seek(start)
                lines = file.read().decode(errors="replace").splitlines()
        except OSError as error:
            return f"(no log: {error.strerror})"
        return "\n".join(lines[-_LOG_LINES:]) or "(the log is empty)"

    def start(self, timeout: float = 60.0) -> None:
        """Start the server and block until it accepts connections.

        Raises:
            PortTaken: another program has the port.
            ClusterError: it ended at once.
            ClusterTimeout: it was not ready within `timeout` seconds; it is ended.
        """
        if self.running:
            raise ClusterError(f"{self.data} runs already")
        # Children of a postmaster that was killed end by themselves, a moment later.
        wait_until(
            lambda: not find_servers(self._marker),
            timeout,
            "children of an earlier server still run",
            error=ClusterTimeout,
        )
        offset = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = self._user.popen(
                # On the command line, so that other processes can tell whose it is.
                [
                    self._binaries.program("postgres"),
                    *("-D", self.data),
                    *("-c", f"cluster_name={self._marker}"),
                ],
                output=log,
                cwd=self.data,
            )
        try:
            wait_until(
                lambda: self._is_ready() or not self.running,
                timeout,
                lambda: f"the server is not ready; its log:\n{self.log_tail(offset)}",
                error=ClusterTimeout,
            )
        except BaseException:
            self.end()
            raise
        if not self.running:
            self._process = None
            tail = self.log_tail(offset)
            taken = "could not bind" in tail or "could not create any TCP/IP sockets" in tail
            kind = PortTaken if taken else ClusterError
            raise kind(f"the server ended at its start; its log:\n{tail}")

    def _is_ready(self) -> bool:
        """Read what the server says of itself in its lock file (as pg_ctl does)."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        process = self._process
        # A crash leaves an old file behind, which says "ready" too.
        ours = process is not None and bool(lines) and lines[0] == str(process.pid)
        return ours and len(lines) >= 8 and lines[7].strip() == "ready"

    def stop(self, mode: StopMode = "fast", timeout: float = 60.0) -> None:
        """Stop the server as `pg_ctl stop -m MODE` does, and block until it is gone.

        "smart" waits for the clients to leave, "fast" ends them, "immediate" is a
        crash. A paused server is resumed first. One that is stopped is no error.

        Raises:
            ClusterTimeout: it was not gone within `timeout` seconds; it still stops.
        """
        if mode not in _STOP_SIGNALS:
            raise ValueError(f"mode {mode!r} is none of {', '.join(_STOP_SIGNALS)}")
        if not self.running or self._process is None:
            return
        self.resume()
        processes.send([self._process.pid], _STOP_SIGNALS[mode])
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ClusterTimeout(
                f"the server did not stop ({mode}) within {timeout:g} s; "
                f"its log:\n{self.log_tail()}"
            ) from None
        self._process = None

    def end(self) -> None:
        """End the server and everything it started, by force if need be."""
        self._check_owner()
        process = self._process
        if process is not None:
            # Reaped beside the wait below, which counts a zombie as ended.
            end_servers(self._marker)
            process.wait()
            self._process = None

    def pause(self, timeout: float = 10.0) -> None:
        """Stop the server and its children in their tracks (SIGSTOP).

        Clients keep their sockets and get no answer. Returns when all stand still.

        Raises:
            ClusterError: it does not run.
            ClusterTimeout: some did not stop within `timeout` seconds.
        """
        # First the one that forks, so that the list of the others is final.
        self._freeze([self.pid], timeout)
        self._freeze(find_servers(self._marker), timeout)

    def _freeze(self, pids: list[int], timeout: float) -> None:
        processes.send(pids, signal.SIGSTOP)
        wait_until(
            lambda: all(processes.state(pid) in ("T", "Z", "") for pid in pids),
            timeout,
            lambda: f"server processes do not stop: {[(p, processes.state(p)) for p in pids]}",
            error=ClusterTimeout,
        )

    def resume(self) -> None:
        """Let a paused server run on (SIGCONT). One that is not paused is no error."""
        if self.running:
            processes.send(find_servers(self._marker), signal.SIGCONT)

    def _check_owner(self) -> None:
        if os.getpid() != self._owner:
            raise ClusterError(f"this server belongs to process {self._owner}")
