"""A directory for sockets, servers in it, a bare client, and a process that has a database."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from django.test import override_settings

from django_poolkit import registry
from django_poolkit.conf.control import ControlConfig
from django_poolkit.control import protocol
from django_poolkit.control import server as own_server
from django_poolkit.control.conversation import Conversation
from django_poolkit.control.server import ControlServer
from django_poolkit.testing import Node


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that does not exist yet, with a path short enough for a socket's."""
    parent = Path(tempfile.mkdtemp(prefix="pkt-", dir="/tmp"))
    yield parent / "c"
    shutil.rmtree(parent, ignore_errors=True)


@pytest.fixture
def config(place: Path) -> ControlConfig:
    return ControlConfig(directory=place, steering=True, service="tests")


@pytest.fixture
def serve(
    config: ControlConfig, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., ControlServer]]:
    """Return a function that starts a server; all are stopped after the test."""
    started: list[ControlServer] = []

    def start(
        handlers: Any = None, *, steers: Any = (), ticks: Any = (), pid: int = 0, **changes: Any
    ) -> ControlServer:
        handlers = {"echo": lambda arguments: {"echo": arguments}, **(handlers or {})}
        with_changes = ControlConfig(**{**vars(config), **changes})
        server = ControlServer(with_changes, Conversation(with_changes, handlers, steers), ticks)
        with monkeypatch.context() as patch:
            if pid:  # what it is found by; the process stays this one
                patch.setattr(os, "getpid", lambda: pid)
            server.start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


class Line:
    """A client that sends what it is told to, byte by byte if need be."""

    def __init__(self, server: ControlServer) -> None:
        assert server.path is not None
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10.0)
        self.socket.connect(str(server.path))

    def send(self, data: bytes) -> Line:
        self.socket.sendall(data)
        return self

    def end(self) -> Line:
        """Say that nothing more comes."""
        self.socket.shutdown(socket.SHUT_WR)
        return self

    def reply(self) -> dict[str, Any]:
        """Return the reply as it was sent, with what a caller does not know about it."""
        header = self._exactly(4)
        payload = self._exactly(protocol.length_of(header, protocol.LONGEST_REPLY))
        message: dict[str, Any] = protocol._read(payload)
        return message

    def code(self) -> str:
        """Return the code of a failure."""
        reply = self.reply()
        assert not reply["ok"], reply
        assert reply["message"]
        return str(reply["error"])

    def hung_up(self) -> bool:
        """Wait until the other side hangs up; tell whether it had said nothing before."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:  # with something of ours unread
            return True

    def _exactly(self, size: int) -> bytes:
        received = b""
        while len(received) < size:
            part = self.socket.recv(size - len(received))
            assert part, f"hung up after {received!r}"
            received += part
        return received


@pytest.fixture
def dial() -> Iterator[Callable[[ControlServer], Line]]:
    """Return a function that calls a server."""
    lines: list[Line] = []

    def call(server: ControlServer) -> Line:
        lines.append(Line(server))
        return lines[-1]

    yield call
    for line in lines:
        line.socket.close()


@pytest.fixture
def database(
    django_db_modify_db_settings: None,
    django_db_blocker: Any,
    primary: Node,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[dict[str, Any]]:
    """The default database of this process, whose sockets are in a directory of the test's."""
    settings = connections.settings["default"]
    monkeypatch.setitem(settings, "NAME", primary.dbname)

    def start_anew() -> None:
        connections.close_all()
        registry.pools.close_all()
        own_server.stop()

    with (
        django_db_blocker.unblock(),
        override_settings(POOLKIT={"CONTROL": {"DIRECTORY": str(place)}}),
    ):
        start_anew()
        yield settings
        start_anew()
