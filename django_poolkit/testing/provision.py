"""Data directories: made, copied from a primary, and configured."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from django_poolkit.testing.binaries import Binaries
from django_poolkit.testing.errors import ClusterError
from django_poolkit.testing.runuser import ServerUser
from django_poolkit.testing.server import Address

# Ours, read last by postgresql.conf and written anew at each start. ALTER SYSTEM
# is stronger still, which an option on the command line would not allow.
_CONFIGURATION = "poolkit.conf"


class Provision:
    """Makes the data directories of one cluster, as the user its servers run as."""

    def __init__(self, binaries: Binaries, user: ServerUser) -> None:
        self._binaries = binaries
        self._user = user

    def primary(self, data: Path, *, superuser: str, password: str) -> None:
        """Make a new data directory, unless there is one.

        Raises:
            ClusterError: initdb failed, or the directory is of another major version.
        """
        if data.exists():
            self._check_version(data)
            return
        secret = data.with_name("initdb-password")
        self._user.write(secret, password)

        def build(target: Path) -> None:
            self._run(
                "initdb",
                *("-D", target, "-U", superuser, f"--pwfile={secret}"),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--no-sync", "--wal-segsize=1"),
                *self._locale(),
            )

        try:
            self._build(data, build)
        finally:
            secret.unlink()

    def is_replica(self, data: Path) -> bool:
        """Tell whether `data` is a replica's: a promoted one is none any more."""
        return (data / "standby.signal").exists()

    def replica(self, data: Path, source: Address) -> None:
        """Copy a running primary, in place of what is there.

        Raises:
            ClusterError: pg_basebackup failed.
        """
        shutil.rmtree(data, ignore_errors=True)

        def build(target: Path) -> None:
            self._run(
                "pg_basebackup",
                *("-D", target, "-d", conninfo(source), "-X", "stream", "-c", "fast"),
                *("--no-sync", "--no-manifest"),
                environment={"PGPASSWORD": source.password},
            )
            self._user.write(target / "standby.signal", "")

        self._build(data, build)

    def configure(self, data: Path, settings: Mapping[str, str]) -> None:
        """Write the settings that the server reads at its next start.

        A replica that an earlier run cut off is let in again.
        """
        text = "".join(f"{name} = {quote(value)}\n" for name, value in settings.items())
        self._user.write(data / _CONFIGURATION, text)
        main = data / "postgresql.conf"
        line = f"include '{_CONFIGURATION}'\n"
        if not main.read_text().endswith(line):
            with main.open("a") as file:
                file.write(line)
        altered = data / "postgresql.auto.conf"
        lines = altered.read_text().splitlines(keepends=True)
        kept = [line for line in lines if not line.startswith("primary_conninfo ")]
        self._user.write(altered, "".join(kept))

    def _build(self, data: Path, build: Callable[[Path], None]) -> None:
        """Build under another name, so that half a directory is never taken for a whole one."""
        building = data.with_name(f"{data.name}.new")
        shutil.rmtree(building, ignore_errors=True)
        self._user.make_directory(building)
        try:
            build(building)
            building.rename(data)
        finally:
            with suppress(FileNotFoundError):
                shutil.rmtree(building)

    def _check_version(self, data: Path) -> None:
        try:
            found = (data / "PG_VERSION").read_text().strip()
        except OSError as error:
            raise ClusterError(f"{data} is no PostgreSQL data directory: {error}") from None
        if found != str(self._binaries.major):
            raise ClusterError(
                f"{data} was made by PostgreSQL {found}, but {self._binaries.folder} has "
                f"{self._binaries.version}: remove the directory, or set POOLKIT_PG_BIN"
            )

    def _locale(self) -> Sequence[str]:
        # The built-in provider knows Unicode on every system, whatever locales it has.
        if self._binaries.major >= 17:
            return ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        return ("--locale=C.UTF-8" if sys.platform == "linux" else "--locale=C",)

    def _run(
        self, name: str, *arguments: str | Path, environment: Mapping[str, str] | None = None
    ) -> None:
        answer = self._user.run([self._binaries.program(name), *arguments], environment=environment)
        if answer.returncode:
            lines = "\n".join(answer.stdout.splitlines()[-20:])
            raise ClusterError(f"{name} failed ({answer.returncode}):\n{lines}")


def conninfo(address: Address, **more: str) -> str:
    """Return a libpq connection string without the password, unless that is in `more`."""
    words = {
        "host": address.host,
        "port": str(address.port),
        "user": address.user,
        "dbname": address.dbname,
    }

    def escape(value: str) -> str:
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"

    return " ".join(f"{name}={escape(value)}" for name, value in (words | more).items())


def quote(value: str) -> str:
    """Return a value as postgresql.conf takes it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
