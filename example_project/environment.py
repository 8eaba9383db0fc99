"""Virtual environments made from a checkout, and found again. Standard library only.

A stamp in the folder says what the environment was made from; as long as that has not
changed it is used as it is, without asking pip. One without a complete stamp is made anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from example_project.interpreters import Interpreter

STAMP = "poolkit-environment.json"
LOG = "poolkit-environment.log"
_DISTRIBUTION = "django-poolkit"

# They would let another environment's packages or pip's own options into this one.
_UNWANTED = (
    "PYTHONPATH",
    "PYTHONHOME",
    "PIP_TARGET",
    "PIP_PREFIX",
    "PIP_USER",
    "PIP_REQUIRE_VIRTUALENV",
)


class BootstrapError(Exception):
    """The environment could not be made; the text is for the person who started it."""


class Builder:
    """Makes one environment, or finds it made."""

    def __init__(
        self,
        root: Path,
        name: str,
        interpreter: Interpreter,
        extras: Sequence[str],
        pins: Sequence[str] = (),
    ) -> None:
        self._interpreter = interpreter
        self._pins = pins
        self._extras = set(extras)
        self._root = root
        self._project = (root / "pyproject.toml").read_bytes()
        home = environments_home(root)
        self.path = home / name
        if not _is_ours(self.path):
            # Somebody's own .venv: neither emptied nor filled.
            self.path = home / ".envs" / "default"
        self._lock_path = home / ".envs" / f"{self.path.name.lstrip('.')}.lock"

    def ensure(self) -> Path:
        """Return the environment's folder, complete."""
        if self._missing() is None:
            return self.path
        with locked(self._lock_path):
            # Another start may have made it while this one waited.
            missing = self._missing()
            if missing == "environment":
                self._make()
            if missing is not None:
                self._install()
        return self.path

    def _missing(self) -> str | None:
        """Say what has to be made: "environment", "packages", or nothing."""
        stamp = read_stamp(self.path)
        if stamp.get("base") != self._base() or not os.access(python_of(self.path), os.X_OK):
            return "environment"
        if stamp.get("installed") != self._inputs():
            return "environment" if not stamp.get("installed") else "packages"
        covered = extras_closure(self._project, stamp["extras"])
        return None if self._extras <= covered else "packages"

    def _base(self) -> dict[str, Any]:
        """What the folder is bound to; a change of it means to start afresh."""
        return {
            "root": str(self._root),
            "path": str(self.path),
            "python": list(self._interpreter.version),
            "executable": os.path.realpath(self._interpreter.executable),
        }

    def _inputs(self) -> dict[str, Any]:
        return {"pyproject": hashlib.sha256(self._project).hexdigest(), "pins": list(self._pins)}

    def _make(self) -> None:
        with step(f"making {self.path.name} with {self._interpreter}"):
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(parents=True)
            # Written first: a folder left behind half-made is known as ours.
            write_stamp(self.path, {"base": self._base()})
            command = [self._interpreter.executable, "-I", "-m", "venv", str(self.path)]
            run_logged(command, self.path, "the virtual environment could not be made")

    def _install(self) -> None:
        before = read_stamp(self.path)
        extras = sorted(self._extras | set(before.get("extras", ())))
        # If pip is interrupted, nobody knows what it has left: no "installed", no reuse.
        write_stamp(self.path, {"base": self._base()})
        target = f"{self._root}[{','.join(extras)}]"
        what = " ".join([f"{_DISTRIBUTION}[{','.join(extras)}]", *self._pins])
        with step(f"installing {what}"):
            command = [str(python_of(self.path)), "-m", "pip", "install", "--no-input"]
            command += ["--disable-pip-version-check", "--progress-bar=off"]
            command += ["--editable", target, *self._pins]
            run_logged(command, self.path, f"pip could not install {what} (is there a network?)")
        installed = {"base": self._base(), "installed": self._inputs(), "extras": extras}
        write_stamp(self.path, installed)


def environments_home(root: Path) -> Path:
    """Return where environments are kept: the checkout, or a cache folder if it is read-only."""
    if os.access(root, os.W_OK):
        return root
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / _DISTRIBUTION / hashlib.sha256(os.fsencode(root)).hexdigest()[:12]


def _is_ours(path: Path) -> bool:
    return not path.exists() or (path / STAMP).exists() or not any(path.iterdir())


def python_of(environment: Path) -> Path:
    """Return the interpreter of a virtual environment."""
    return environment / "bin" / "python"


def read_stamp(environment: Path) -> dict[str, Any]:
    """Return what an environment says of itself; nothing if it is not complete or not ours."""
    try:
        stamp = json.loads((environment / STAMP).read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(environment: Path, stamp: Mapping[str, Any]) -> None:
    """Write the stamp in one move, so that no reader sees half of it."""
    draft = environment / f"{STAMP}.new"
    draft.write_text(json.dumps(stamp, indent=1))
    draft.replace(environment / STAMP)


def extras_closure(project: bytes, extras: Sequence[str]) -> set[str]:
    """Return `extras` and those they bring along, as pyproject.toml declares them."""
    import tomllib  # Python 3.11; this function is reached by no older one

    declared = tomllib.loads(project.decode()).get("project", {}).get("optional-dependencies", {})
    found: set[str] = set()
    waiting = list(extras)
    while waiting:
        extra = waiting.pop()
        if extra not in found:
            found.add(extra)
            for requirement in declared.get(extra, ()):
                own = re.match(rf"{_DISTRIBUTION}\[([^\]]+)\]", requirement)
                waiting += re.split(r"\s*,\s*", own[1].strip()) if own else []
    return found


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; it falls with the process, however that ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another start is making this environment; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run_logged(command: Sequence[str], environment: Path, failure: str) -> None:
    """Run a command with its output in the environment's log; show the log's end if it fails."""
    log = environment / LOG
    with log.open("ab") as output:
        code = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=clean_environ()
        ).returncode
    if code:
        lines = log.read_text(errors="replace").splitlines()[-8:]
        shown = [f"  | {line if len(line) <= 300 else line[:300] + ' ...'}" for line in lines]
        raise BootstrapError("\n".join([failure, *shown, f"The whole output is in {log}"]))


def clean_environ() -> dict[str, str]:
    """Return the process's environment without what reaches into a virtual environment."""
    return {name: value for name, value in os.environ.items() if name not in _UNWANTED}


def say(line: str) -> None:
    """Tell the person waiting, beside the output proper."""
    print(f"  {line}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Announce a long step when it starts and its seconds when it is done."""
    say(f"{what} ...")
    started = time.monotonic()
    yield
    say(f"... done in {time.monotonic() - started:.1f} s")
