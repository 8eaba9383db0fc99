"""The user a server runs as: ourselves, or (as root) somebody without rights.

PostgreSQL refuses to run as root, since whoever reached its superuser would
own the machine. No user is created for it: one that the system has is taken.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypedDict

from django_poolkit.testing.errors import ClusterError

# The package of a system's own server makes the first; every system has the second.
_CANDIDATES = ("postgres", "nobody")


class _Identity(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerUser:
    """Who runs the servers and owns their files."""

    name: str
    uid: int
    gid: int
    other: bool
    """True if that is not who we are, so that files must be handed over."""

    @classmethod
    def resolve(cls) -> ServerUser:
        """Return the calling user, or an unprivileged one if that is root.

        Raises:
            ClusterError: root, and the system has none of the users we know, or lets us be none.
        """
        if os.geteuid() != 0:
            return cls(name=str(os.geteuid()), uid=os.geteuid(), gid=os.getegid(), other=False)
        for name in _CANDIDATES:
            try:
                found = pwd.getpwnam(name)
            except KeyError:
                continue
            if found.pw_uid != 0:
                user = cls(name=name, uid=found.pw_uid, gid=found.pw_gid, other=True)
                user._become()
                return user
        raise ClusterError(
            "PostgreSQL does not run as root, and this system has no user "
            + " or ".join(repr(name) for name in _CANDIDATES)
            + " to run it as: add one (useradd --system postgres), or run this as another user"
        )

    def _become(self) -> None:
        """Raise ClusterError where root may not become this user, as in some containers."""
        try:
            self.run(["/bin/sh", "-c", ":"])
        except PermissionError as error:
            raise ClusterError(
                f"PostgreSQL does not run as root, and this process may not become user "
                f"{self.name!r} ({error.strerror}), as in a container without the capabilities "
                "SETUID and SETGID: run this as a user other than root, or give it these"
            ) from error

    @property
    def _identity(self) -> _Identity:
        if not self.other:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def popen(
        self, arguments: Sequence[str | Path], *, output: IO[bytes], cwd: Path
    ) -> subprocess.Popen[bytes]:
        """Start a program as this user, out of reach of the terminal's Ctrl-C."""
        return subprocess.Popen(
            [str(argument) for argument in arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=_environment(),
            start_new_session=True,
            **self._identity,
        )

    def run(
        self,
        arguments: Sequence[str | Path],
        *,
        environment: Mapping[str, str] | None = None,
        timeout: float = 120.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as this user to its end, with both outputs caught as one text.

        Raises:
            OSError: it cannot be executed.
            subprocess.TimeoutExpired: it ran for longer than `timeout` seconds.
        """
        return subprocess.run(
            [str(argument) for argument in arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            # The working directory of a root shell is often closed to others.
            cwd="/",
            env=_environment() | dict(environment or {}),
            timeout=timeout,
            **self._identity,
        )

    def can_enter(self, directory: Path) -> bool:
        """Tell whether this user can go into `directory`, or will once it is made.

        Asked of the system itself, as that user: permission bits of each parent
        do not tell the whole story (access lists, mount options).
        """
        while not directory.exists():
            directory = directory.parent
        return self.run(["/bin/sh", "-c", 'cd "$1"', "sh", directory]).returncode == 0

    def own(self, path: Path) -> None:
        """Hand a file or an empty directory over to this user."""
        if self.other:
            os.chown(path, self.uid, self.gid)

    def make_directory(self, path: Path, mode: int = 0o700) -> None:
        """Make a directory that belongs to this user."""
        path.mkdir()
        path.chmod(mode)
        self.own(path)

    def write(self, path: Path, text: str) -> None:
        """Write a file that only this user (and root) can read."""
        path.touch(mode=0o600)
        path.write_text(text)
        self.own(path)


def _environment() -> dict[str, str]:
    """The caller's environment without what would steer libpq or translate messages."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PG", "LC_")) and name not in ("LANG", "LANGUAGE")
    }
    return kept | {"LC_ALL": "C"}
