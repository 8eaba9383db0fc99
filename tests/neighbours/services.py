"""A command of a site that runs for long, and is run again where it ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE = 60.0


class Service:
    """A command of Django's in a process of its own, kept up as by a service manager."""

    def __init__(self, *command: str) -> None:
        self.ended: list[int] = []
        """With which codes it ended."""
        self._command = command
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-m", "django", *self._command])

    def check(self) -> None:
        """Start it again if it has ended."""
        if (code := self._process.poll()) is not None:
            self.ended.append(code)
            self._start()

    def stop(self) -> int:
        """Ask it to stop; return its code."""
        self._process.terminate()
        return self._process.wait(PATIENCE)

    def status(self) -> dict[str, Any] | None:
        """Return what it says of itself to `poolstatus`, None while it has no pool."""
        from django_poolkit.conf.control import control_config
        from django_poolkit.control.client import ask_all

        for answer in ask_all(control_config(), "status", {"leases": True}):
            if answer.pid == self._process.pid and answer.result and answer.result["pools"]:
                return dict(answer.result)
        return None


@contextmanager
def serving(*command: str) -> Iterator[Service]:
    """Have a command run for the length of a block."""
    service = Service(*command)
    try:
        yield service
    finally:
        service.stop()
