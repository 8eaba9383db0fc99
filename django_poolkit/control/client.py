"""Ask the processes of this project, from another: all of them at once, each within a time.

Root asks the processes of all users, anybody else their own.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from django_poolkit.conf.control import ROOT, ControlConfig, default_directory
from django_poolkit.control import protocol
from django_poolkit.control.directory import DirectoryRefused, Place, bury, listens, places
from django_poolkit.control.protocol import ProtocolError

TIMEOUT: Final = 3.0
"""Seconds that a process may take to answer."""
# More than a host has, so that the silent do not wait for one another. Who answers frees a thread.
_AT_ONCE: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one process answered: a result, or an error and its sentence."""

    path: Path
    pid: int
    uid: int
    result: Mapping[str, Any] | None = None
    error: str | None = None
    """A code of the protocol; `no_answer` where none came in time, `gone` where nobody listens,
    `stranger` where another user does."""
    message: str | None = None


def ask(
    place: Place, command: str, arguments: Mapping[str, Any], *, timeout: float = TIMEOUT
) -> Answer:
    """Ask one process. Blocks for `timeout` seconds at most. Never raises for what the other does.

    Raises ProtocolError, TypeError or ValueError for arguments that cannot be sent.
    """
    answer = partial(Answer, path=place.path, pid=place.pid, uid=place.uid)
    request = protocol.request(command, arguments)
    try:
        return answer(result=_exchange(place, request, time.monotonic() + timeout))
    except ProtocolError as error:
        return answer(error=error.code, message=str(error))
    except OSError as error:  # a time that is over, too
        if not isinstance(error, TimeoutError) and not listens(place):
            return answer(error="gone", message="nobody listens any more")
        reason = f"no answer within {timeout:g} s"
        if not isinstance(error, TimeoutError):
            reason = f"no answer: {error.strerror}"
        return answer(error="no_answer", message=reason)


def ask_all(
    config: ControlConfig,
    command: str,
    arguments: Mapping[str, Any],
    *,
    pids: Collection[int] | None = None,
    timeout: float = TIMEOUT,
) -> list[Answer]:
    """Ask every process at once, or those of `pids`; return their answers, ordered by process.

    Blocks for about `timeout` seconds at most. Sockets of the dead are removed, and are no
    answers. Raises as `ask()`.
    """
    found = [
        place
        for directory in look_in(config)
        for place in _places(config, directory)
        if pids is None or place.pid in pids
    ]
    if not found:
        return []
    with ThreadPoolExecutor(min(len(found), _AT_ONCE), "poolkit-ask") as threads:
        answers = list(
            threads.map(lambda place: ask(place, command, arguments, timeout=timeout), found)
        )
    for place, answer in zip(found, answers, strict=True):
        if answer.error == "gone":
            bury(place)
    return sorted((a for a in answers if a.error != "gone"), key=lambda a: (a.pid, a.path))


def look_in(config: ControlConfig) -> list[Path]:
    """Return the directories in which the processes are looked for; they need not exist."""
    if os.geteuid() != ROOT or not config.mark:
        return [config.directory]
    return sorted({config.directory, *_of_all_users(config.mark)})


def _of_all_users(mark: str) -> list[Path]:
    pattern = default_directory("*", mark)
    return [path for path in pattern.parent.glob(pattern.name) if _user_named(path) is not None]


def _user_named(path: Path) -> int | None:
    match = re.fullmatch(r"poolkit-(\d{1,10})-[0-9a-f]{8}", path.name)
    return int(match[1]) if match else None


def _places(config: ControlConfig, directory: Path) -> list[Place]:
    owner: int | None = os.geteuid()
    if owner == ROOT:  # who may look at what is another's, if it is whose the name says
        owner = _user_named(directory) if config.mark else None
    with suppress(FileNotFoundError, DirectoryRefused):
        return places(directory, owner)
    return []


def _exchange(place: Place, request: bytes, deadline: float) -> Mapping[str, Any]:
    with socket.socket(socket.AF_UNIX) as connection:
        _connect(connection, place, deadline)
        if protocol.peer_of(connection).uid != place.uid:
            raise ProtocolError("stranger", f"another user than {place.uid} listens there")
        with suppress(BrokenPipeError, ConnectionResetError):  # it may have said why
            connection.sendall(request)
        header = _receive(connection, protocol.HEADER.size, deadline)
        length = protocol.length_of(header, protocol.LONGEST_REPLY)
        return protocol.read_reply(_receive(connection, length, deadline))


def _connect(connection: socket.socket, place: Place, deadline: float) -> None:
    while True:
        connection.settimeout(_left(deadline))
        try:
            return connection.connect(str(place.path))
        except BlockingIOError:  # its queue is full
            time.sleep(0.02)


def _receive(connection: socket.socket, size: int, deadline: float) -> bytes:
    received = bytearray()
    while len(received) < size:
        connection.settimeout(_left(deadline))
        part = connection.recv(min(size - len(received), 1 << 20))
        if not part:
            raise ConnectionResetError(0, "it hung up")
        received += part
    return bytes(received)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


# -- nobody there


def explain_none(config: ControlConfig) -> str:
    """Return what to tell who finds no live process: where it was looked, and the usual causes."""
    looked = ", ".join(_looked(path) for path in look_in(config))
    causes = ["Nothing is running, or has used a pool yet: a process is seen from then on."]
    if not config.enabled:
        causes.append("POOLKIT['CONTROL']['ENABLED'] is False.")
    me = os.geteuid()
    if config.mark and (others := _users(config.mark) - {me}):
        names = ", ".join(map(str, sorted(others)))
        causes.append(f"Processes of user {names} have run here: ask as that user, or as root.")
    elif me != ROOT:
        causes.append(f"They run as another user than {me}: ask as that user, or as root.")
    if config.mark:
        causes.append(
            "They run with another settings module, or from another checkout: the directory is "
            "named after both. POOLKIT['CONTROL']['DIRECTORY'] gives them one that stays."
        )
    causes += [
        "They run in a container: ask inside it.",
        "They run under systemd with PrivateTmp=yes: set DIRECTORY to one below /run.",
        "They could not make the directory: their log has a line with event=control_off.",
    ]
    if temporary := os.environ.get("TMPDIR"):
        causes.append(f"TMPDIR is {temporary!r} here; it is not consulted, here or there.")
    lines = "\n".join(f"  - {cause}" for cause in causes)
    return f"No live process was found. Looked in {looked}.\nThe usual causes:\n{lines}"


def _looked(path: Path) -> str:
    try:
        places(path, None)
    except FileNotFoundError:
        return f"{path} (which does not exist)"
    except DirectoryRefused as error:
        return f"{path} (refused: {error})"
    return str(path)


def _users(mark: str) -> set[int]:
    return {user for path in _of_all_users(mark) if (user := _user_named(path)) is not None}
