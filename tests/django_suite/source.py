"""The source release of the installed Django: its tests are in there, and not in the wheel."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

_DIGEST = "archive.sha256"


class SuiteError(Exception):
    """The suite could not be run; the text is for the person who started it."""


@dataclass(frozen=True)
class Source:
    """An unpacked source release."""

    folder: Path
    digest: str
    """SHA-256 of the archive that it was unpacked from."""

    @property
    def tests(self) -> Path:
        """Where `runtests.py` is."""
        return self.folder / "tests"

    def labels(self) -> set[str]:
        """Return the names of the top level modules of tests."""
        return {
            path.name
            for path in self.tests.iterdir()
            if (path / "__init__.py").exists() and path.name != "requirements"
        }


def fetch(version: str, home: Path) -> Source:
    """Return the source of Django `version`, by pip unless it lies in `home` from before.

    Blocks, for as long as pip takes.

    Raises:
        SuiteError: pip could not fetch it.
    """
    folder = home / f"django-{version}"
    if (folder / _DIGEST).exists():
        return Source(folder, (folder / _DIGEST).read_text().strip())
    home.mkdir(parents=True, exist_ok=True)
    print(f"fetching the source of Django {version}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=home) as scratch:
        archive = _download(version, Path(scratch))
        with tarfile.open(archive) as packed:
            packed.extractall(Path(scratch) / "unpacked", filter="data")
        [unpacked] = (Path(scratch) / "unpacked").iterdir()
        if not (unpacked / "tests" / "runtests.py").exists():
            raise SuiteError(f"{archive.name} has no tests/runtests.py")
        # The installed one is what is tested.
        shutil.rmtree(unpacked / "django")
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        (unpacked / _DIGEST).write_text(digest)
        if not folder.exists():  # another run may have been faster
            unpacked.rename(folder)
    return Source(folder, digest)


def _download(version: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", "--no-binary", "django", "--no-deps"]
    command += ["--dest", str(folder), f"django=={version}"]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    found = sorted(folder.glob("*.tar.gz"))
    if done.returncode or not found:
        said = "\n".join(f"  | {line}" for line in done.stdout.splitlines()[-8:])
        raise SuiteError(
            f"pip could not fetch the source of Django {version} (is there a network?)\n{said}"
        )
    return found[0]
