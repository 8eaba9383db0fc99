"""Where running clusters are noted down, so that none outlives its owner for long.

Each run has a folder below one folder of ours in the temporary directory. The
owner holds a lock (flock) on the cluster's home as long as it lives; the kernel
drops it at the owner's end, however that comes. Whoever starts a cluster first
sweeps the runs whose lock is free: it ends their servers and removes them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar, TypedDict
from weakref import WeakSet

from django_poolkit.testing.binaries import check_private, temporary_directory
from django_poolkit.testing.errors import ClusterError, ClusterTimeout
from django_poolkit.testing.postmaster import end_servers
from django_poolkit.testing.runuser import ServerUser

_KEPT = "kept-"


class _Note(TypedDict):
    """What a run's folder says of it, for people and for the next sweep."""

    home: str
    temporary: bool
    pid: int


def marker_of(run: str) -> str:
    """Return the prefix that all server processes of a run carry in their names."""
    return f"poolkit-{run}"


class Lock:
    """A file lock that ends with the process; a forked child lets go of it at once."""

    _held: ClassVar[WeakSet[Lock]] = WeakSet()

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def take(self) -> bool:
        """Take the lock if it is free; False if another holds it. Never blocks."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        self._held.add(self)
        return True

    def release(self) -> None:
        """Let go of the lock. Also right in a forked child: the parent keeps its own hold."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._held.discard(self)

    @classmethod
    def forget_all(cls) -> None:
        """In a forked child: a lock must not live on in a worker that outlives its owner."""
        for lock in list(cls._held):
            lock.release()


os.register_at_fork(after_in_child=Lock.forget_all)


class Workspace:
    """The home of one running cluster, claimed for this process."""

    def __init__(self, run: str, folder: Path, home: Path, *, temporary: bool) -> None:
        self.run = run
        self.home = home
        """Data directories and logs live here."""
        self.socket_directory = folder / "s"
        self._folder = folder
        self._temporary = temporary
        self._lock = Lock(home / "lock")

    @classmethod
    def claim(cls, user: ServerUser, directory: Path | None, *, lasting: bool) -> Workspace:
        """Sweep what dead owners left, then claim a home.

        A lasting home is `directory` itself, a temporary one a new folder in it (or in
        our own). Waits up to a minute for others who do the same.

        Raises:
            ClusterError: another process runs a cluster in `directory`.
        """
        root = _root(user)
        with _exclusively(root, 60.0):
            _sweep(root)
            run = secrets.token_hex(4)
            folder = root / run
            folder.mkdir()
            folder.chmod(0o711 if user.other else 0o700)
            try:
                home = _home(folder, directory, user, lasting=lasting)
                workspace = cls(run, folder, home, temporary=not lasting)
                workspace._lock_and_note(user)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        return workspace

    def _lock_and_note(self, user: ServerUser) -> None:
        if not self._lock.take():
            raise ClusterError(f"another process runs the cluster in {self.home}")
        try:
            note = _Note(home=str(self.home), temporary=self._temporary, pid=os.getpid())
            (self._folder / "run.json").write_text(json.dumps(note))
            # Others may enter: the sockets ask for a password like the port does.
            user.make_directory(self.socket_directory, 0o755)
        except BaseException:
            self._lock.release()
            raise

    def release(self) -> None:
        """Remove the run, with a temporary home, and let go of it. The servers must be gone."""
        if self._temporary:
            shutil.rmtree(self.home, ignore_errors=True)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.release()


def _root(user: ServerUser) -> Path:
    root = temporary_directory(user) / f"poolkit-clusters-{os.geteuid()}"
    with suppress(FileExistsError):
        root.mkdir(mode=0o700)
        # As root the servers, another user, must pass through (but cannot list it).
        root.chmod(0o711 if user.other else 0o700)
    check_private(root)
    return root


@contextmanager
def _exclusively(root: Path, timeout: float) -> Iterator[None]:
    """Hold the lock of the whole folder: no run is swept before it is locked."""
    lock = Lock(root / "lock")
    deadline = time.monotonic() + timeout
    while not lock.take():
        if time.monotonic() >= deadline:
            raise ClusterTimeout(f"{root / 'lock'} is held by another process")
        time.sleep(0.02)
    try:
        yield
    finally:
        lock.release()


def _home(folder: Path, directory: Path | None, user: ServerUser, *, lasting: bool) -> Path:
    """Return (and make) the home of a run.

    Root's projects often lie in folders that the servers' user cannot enter. Their
    modes are not ours to change, so a lasting home then lies in our own folder,
    found again by a hash of the path that was asked for.
    """
    reachable = directory is not None and user.can_enter(directory.absolute())
    if directory is None or not (lasting or reachable):
        return folder
    if lasting and reachable:
        home = directory.absolute()
    elif lasting:
        digest = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:12]
        home = folder.parent / f"{_KEPT}{digest}"
    else:
        home = directory.absolute() / marker_of(folder.name)
    if not home.exists():
        home.mkdir(parents=True)
        home.chmod(0o711 if user.other else 0o700)
    if home.name.startswith(_KEPT):
        # For people who wonder whose it is, and whether it can go.
        (home / "asked-for").write_text(f"{directory}\n")
    return home


def _sweep(root: Path) -> None:
    for folder in list(root.iterdir()):
        if folder.is_dir() and not folder.name.startswith(_KEPT):
            _sweep_run(folder)


def _sweep_run(folder: Path) -> None:
    try:
        note: _Note = json.loads((folder / "run.json").read_text())
        home, temporary = Path(note["home"]), note["temporary"]
    except (OSError, ValueError, KeyError):
        home, temporary = folder, True  # the owner died before it wrote the note
    lock = Lock(home / "lock")
    try:
        if not lock.take():
            return
    except FileNotFoundError:
        pass  # somebody removed the home; its servers may still run
    try:
        end_servers(marker_of(folder.name))
        # Without errors: an owner that is just leaving may be removing the same.
        for place in (home, folder) if temporary else (folder,):
            shutil.rmtree(place, ignore_errors=True)
    finally:
        lock.release()
