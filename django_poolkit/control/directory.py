"""The directory that the sockets are in: who may own it, what lies there, and what of it is dead.

A socket gets its name only when somebody listens on it. So one that refuses is dead, whatever
became of its process, and whoever finds it may remove it.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_NAME: Final = re.compile(r"([1-9][0-9]*)-[0-9a-f]{8}\.(sock|new)")
# Seconds after which what has no name yet will not get one any more.
_STILLBORN: Final = 60.0
_BACKLOG: Final = 64


class DirectoryRefused(Exception):
    """The directory is not what it must be; the message says so to people."""


@dataclass(frozen=True, slots=True)
class Place:
    """A socket in the directory, by its name."""

    path: Path
    pid: int
    """Of who made it, in the namespace that it runs in."""
    uid: int
    """Owner of the directory and of the socket."""


@contextmanager
def opened(path: Path, owner: int | None) -> Iterator[tuple[int, int]]:
    """Open a directory and look at it, then yield its descriptor and its owner.

    What is done through the descriptor happens there, whatever becomes of the path. With
    `owner` None any is right. Raises DirectoryRefused for a symbolic link, another's directory,
    and one that others may enter; FileNotFoundError if there is none.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        text = f"{path} cannot be entered, or is no directory of its own: {error.strerror}"
        raise DirectoryRefused(text) from None
    try:
        found = os.fstat(descriptor)
        if owner not in (None, found.st_uid):
            raise DirectoryRefused(f"{path} belongs to user {found.st_uid}, not to {owner}")
        if found.st_mode & 0o077:
            mode = stat.S_IMODE(found.st_mode)
            raise DirectoryRefused(f"{path} is open to other users (mode {mode:o}, must be 700)")
        yield descriptor, found.st_uid
    finally:
        os.close(descriptor)


def prepare(path: Path) -> None:
    """Make the directory if it is not there, and see that it is ours alone.

    Its parent has to exist. Raises DirectoryRefused, OSError.
    """
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    with opened(path, os.geteuid()):
        pass


def publish(path: Path, listener: socket.socket) -> Path:
    """Bind a new socket, listen, and then give it the name by which it is found; return that.

    The directory has been prepared. Raises OSError, with nothing left behind.
    """
    stem = f"{os.getpid()}-{secrets.token_hex(4)}"
    unborn, born = path / f"{stem}.new", path / f"{stem}.sock"
    try:
        listener.bind(str(unborn))
        unborn.chmod(0o600)
        listener.listen(_BACKLOG)
        unborn.rename(born)
    except BaseException:
        unborn.unlink(missing_ok=True)
        raise
    return born


def places(path: Path, owner: int | None) -> list[Place]:
    """Return the sockets of a directory, ordered by process. Raises as `opened()`."""
    with opened(path, owner) as (descriptor, uid):
        found = _list(path, descriptor, uid)
    return sorted((p for p in found if p.path.suffix == ".sock"), key=lambda p: (p.pid, p.path))


def _list(path: Path, descriptor: int, uid: int) -> list[Place]:
    found = []
    for name in os.listdir(descriptor):
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        with suppress(FileNotFoundError):
            entry = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            if stat.S_ISSOCK(entry.st_mode) and entry.st_uid == uid:
                found.append(Place(path / name, int(match[1]), uid))
    return found


def sweep(path: Path) -> None:
    """Remove what dead processes of ours left. Does not wait for the living. Raises as `opened()`.

    Removes nothing that it cannot tell to be dead.
    """
    with opened(path, os.geteuid()) as (descriptor, uid):
        for place in _list(path, descriptor, uid):
            unborn = place.path.suffix == ".new"
            if not listens(place) and (not unborn or _old(place.path)):
                _unlink(place.path.name, descriptor)


def bury(place: Place) -> None:
    """Remove one socket that refused, unless it is gone by now or the directory is not right."""
    with (
        suppress(DirectoryRefused, OSError),
        opened(place.path.parent, place.uid) as (descriptor, _),
    ):
        _unlink(place.path.name, descriptor)


def _unlink(name: str, descriptor: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=descriptor)


def listens(place: Place) -> bool:
    """Tell whether somebody listens there, however busy. Does not wait."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(place.path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # its queue is full
            return True
    return True


def _old(path: Path) -> bool:
    with suppress(OSError):
        return time.time() - path.lstat().st_mtime > _STILLBORN
    return False
