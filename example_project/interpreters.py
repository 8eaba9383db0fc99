"""Find a Python interpreter that really runs, wherever a machine keeps its interpreters.

Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

SUPPORTED = ((3, 13), (3, 12), (3, 11))
"""The versions that the tests are run on, newest first."""

OLDEST = SUPPORTED[-1]

PROBE_SECONDS = 20.0
"""How long a candidate may take to answer. A shim that hangs is no interpreter."""

# A distribution may ship Python without `ensurepip` (Debian's python3-venv), and a venv of such
# an interpreter has no pip. Wheels with C code are not built for free-threaded builds.
# A venv's interpreter answers with the one it was made from, so that no environment
# hangs on another that may be deleted.
_PROBE = """
import json, sys, sysconfig
import ensurepip, venv
print(json.dumps({
    "version": list(sys.version_info[:3]),
    "executable": getattr(sys, "_base_executable", None) or sys.executable,
    "implementation": sys.implementation.name,
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
}))
"""

# Where version managers and installers keep interpreters; `{v}` is a version such as 3.13.
# A manager's own folder helps where its shim on PATH refuses to run.
_FOLDERS = (
    ("PYENV_ROOT", "~/.pyenv", "versions/{v}*/bin/python{v}"),
    ("ASDF_DATA_DIR", "~/.asdf", "installs/python/{v}*/bin/python{v}"),
    ("MISE_DATA_DIR", "~/.local/share/mise", "installs/python/{v}*/bin/python{v}"),
    ("UV_PYTHON_INSTALL_DIR", "~/.local/share/uv/python", "*{v}*/bin/python{v}"),
    (None, "~/.rye/py", "*{v}*/bin/python{v}"),
    (None, "~/.local/share/hatch/pythons", "{v}*/python/bin/python{v}"),
    ("CONDA_PREFIX", "~/miniconda3", "bin/python{v}"),
    (None, "~/miniforge3", "bin/python{v}"),
    (None, "~/anaconda3", "bin/python{v}"),
    (None, "/opt/pyenv", "versions/{v}*/bin/python{v}"),
    (None, "/opt/python", "*/bin/python{v}"),
    (None, "/opt/hostedtoolcache/Python", "{v}*/*/bin/python{v}"),
    (None, "/opt/homebrew", "bin/python{v}"),
    (None, "/Library/Frameworks/Python.framework/Versions", "{v}/bin/python{v}"),
    (None, "/usr/local", "bin/python{v}"),
    (None, "/usr", "bin/python{v}"),
)


class NoInterpreterError(Exception):
    """No interpreter was found that runs and fits; the text says what was tried."""


@dataclass(frozen=True)
class Interpreter:
    """An interpreter that has answered the probe."""

    executable: str
    version: tuple[int, int, int]

    @property
    def series(self) -> tuple[int, int]:
        """Major and minor version, as in (3, 13)."""
        return self.version[:2]

    def __str__(self) -> str:
        return f"Python {'.'.join(map(str, self.version))} ({self.executable})"


def probe(candidate: str) -> Interpreter | None:
    """Run `candidate` and ask what it is; None if it does not run or cannot make environments.

    Blocks for at most `PROBE_SECONDS`.
    """
    try:
        answer = subprocess.run(
            [candidate, "-I", "-c", _PROBE],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=PROBE_SECONDS,
            check=True,
        )
        facts = json.loads(answer.stdout)
        major, minor, micro = facts["version"]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return None
    if facts["implementation"] != "cpython" or facts["free_threaded"]:
        return None
    return Interpreter(executable=facts["executable"], version=(major, minor, micro))


def on_path(name: str, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield every executable called `name` on PATH, not only the first: that may be a dead shim."""
    for folder in environ.get("PATH", os.defpath).split(os.pathsep):
        found = shutil.which(name, path=folder) if folder else None
        if found:
            yield found


def candidates(series: tuple[int, int], environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the places to look for Python `series`, the likeliest first, none twice."""
    version = f"{series[0]}.{series[1]}"
    seen: set[str] = set()
    for path in _candidates(version, environ):
        if path not in seen:
            seen.add(path)
            yield path


def _candidates(version: str, environ: Mapping[str, str]) -> Iterator[str]:
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        yield sys.executable
    yield from on_path(f"python{version}", environ)
    for variable, default, pattern in _FOLDERS:
        chosen = environ.get(variable) if variable else None
        root = Path(chosen or default)
        try:
            # Not Path.expanduser(): it would read this process's HOME, not `environ`'s.
            if root.parts[:1] == ("~",):
                root = Path(environ["HOME"], *root.parts[1:])
            yield from sorted(map(str, root.glob(pattern.format(v=version))), reverse=True)
        except (KeyError, OSError):
            continue
    yield from on_path("python3", environ)
    yield from on_path("python", environ)


def find(series: tuple[int, int], environ: Mapping[str, str] | None = None) -> Interpreter | None:
    """Return an interpreter of `series` that runs, or None."""
    for candidate in candidates(series, os.environ if environ is None else environ):
        interpreter = probe(candidate)
        if interpreter is not None and interpreter.series == series:
            return interpreter
    return None


def newest(environ: Mapping[str, str] | None = None) -> Interpreter:
    """Return the newest supported interpreter that runs, else the running one.

    Raises:
        NoInterpreterError: nothing supported runs, and the running one is too old or lacks `venv`.
    """
    for series in SUPPORTED:
        interpreter = find(series, environ)
        if interpreter is not None:
            return interpreter
    running = probe(sys.executable)
    if running is not None and running.series >= OLDEST:
        return running
    raise NoInterpreterError(
        f"Python {OLDEST[0]}.{OLDEST[1]} or newer is needed, with the modules venv and ensurepip "
        "(on Debian and Ubuntu: the package python3-venv). Name one with --python PATH."
    )


def named(wish: str, environ: Mapping[str, str] | None = None) -> Interpreter:
    """Return the interpreter that `--python` names: a version ("3.12"), a command or a path.

    Raises:
        NoInterpreterError: it does not run, or is too old.
    """
    environ = os.environ if environ is None else environ
    digits = wish.removeprefix("python").split(".")
    if len(digits) == 2 and all(part.isdigit() for part in digits):
        series = (int(digits[0]), int(digits[1]))
        found = find(series, environ)
        where = "on PATH and in the folders of the usual version managers"
    else:
        path = shutil.which(wish, path=environ.get("PATH"))
        found = probe(path) if path else None
        where = "there, or it has no venv and ensurepip"
    if found is None:
        raise NoInterpreterError(f"--python {wish}: no interpreter runs {where}")
    if found.series < OLDEST:
        raise NoInterpreterError(f"--python {wish}: {found} is older than {OLDEST[0]}.{OLDEST[1]}")
    return found


if __name__ == "__main__":
    # `python3 -m example_project.interpreters 3.12`: does one run, and which?
    try:
        print(named(sys.argv[1]))
    except NoInterpreterError as error:
        sys.exit(str(error))
