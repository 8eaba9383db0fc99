"""From one Python and a checkout to an environment in which everything runs.

Finds an interpreter, has a virtual environment made, and continues in it.
Standard library only, until it is inside.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from example_project import interpreters
from example_project.environment import BootstrapError, Builder, clean_environ, python_of, say
from example_project.interpreters import NoInterpreterError

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Wish:
    """What the command line asks of the environment."""

    python: str | None = None
    django: str | None = None
    inside: str | None = None
    """The environment that the bootstrap has just entered; None before that."""

    @property
    def name(self) -> str:
        """Folder of the environment: `.venv`, or one of its own for a chosen pair."""
        if self.python is None and self.django is None:
            return ".venv"
        parts = ("py", self.python), ("django", self.django)
        words = [label + re.sub(r"\W", "", value or "") for label, value in parts if value]
        return ".envs/" + "-".join(words).replace("pypython", "py")

    @property
    def pins(self) -> tuple[str, ...]:
        """Requirements beside the checkout's own."""
        if self.django is None:
            return ()
        exact = self.django.count(".") > 1
        return (f"django=={self.django}" if exact else f"django=={self.django}.*",)


def split_options(arguments: Sequence[str]) -> tuple[Wish, list[str]]:
    """Take the bootstrap's own options out of `arguments`; return them and the rest, in order."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--python")
    parser.add_argument("--django", type=_django_version)
    parser.add_argument("--inside")
    known, rest = parser.parse_known_args(list(arguments))
    return Wish(python=known.python, django=known.django, inside=known.inside), rest


def _django_version(text: str) -> str:
    if not re.fullmatch(r"\d+\.\d+(\.\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no Django version such as 5.2")
    return text


def enter(module: str, extras: Sequence[str]) -> list[str]:
    """Return the command line's other arguments once this process runs in its environment.

    The first call does not return: it makes the environment if need be and replaces this
    process by `python -m module` there. What takes long is told on standard error, so
    that the first line of standard output is the one that names the versions.
    """
    wish, rest = split_options(sys.argv[1:])
    if wish.inside is not None and Path(sys.prefix) == Path(wish.inside):
        _check_django(wish)
        print(versions_line(), flush=True)
        return rest
    try:
        if sys.version_info < interpreters.OLDEST:
            # What follows needs tomllib; a newer Python may be there all the same.
            executable = interpreters.newest().executable
            os.execv(executable, [executable, "-m", module, *sys.argv[1:]])
        environment = ensure(wish, extras)
    except (BootstrapError, NoInterpreterError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    return _replace_process(environment, module, wish, rest)


def ensure(wish: Wish, extras: Sequence[str], root: Path = ROOT) -> Path:
    """Return an environment with the checkout and `extras` in it, made or mended if need be.

    Blocks: for minutes if everything has to be fetched, for moments if it is there.

    Raises:
        NoInterpreterError: no Python fits.
        BootstrapError: the environment could not be made, or pip failed.
    """
    interpreter = interpreters.named(wish.python) if wish.python else interpreters.newest()
    if interpreter.series not in interpreters.SUPPORTED:
        say(f"{interpreter} is not among the tested versions; going on with it")
    return Builder(root, wish.name, interpreter, extras, wish.pins).ensure()


def _replace_process(environment: Path, module: str, wish: Wish, rest: Sequence[str]) -> NoReturn:
    python = str(python_of(environment))
    environ = clean_environ()
    environ["VIRTUAL_ENV"] = str(environment)
    environ["PATH"] = os.pathsep.join([str(environment / "bin"), environ.get("PATH", os.defpath)])
    os.chdir(ROOT)
    sys.stdout.flush()
    sys.stderr.flush()
    arguments = ["-m", module, "--inside", str(environment)]
    if wish.django is not None:
        arguments += ["--django", wish.django]
    os.execve(python, [python, *arguments, *rest], environ)


def is_of(version: str, series: str) -> bool:
    """Tell whether `version` is `series` or a release of it: 6.10 is none of 6.1."""
    return f"{version}.".startswith(f"{series}.")


def _check_django(wish: Wish) -> None:
    """Refuse to go on with another Django than the one asked for."""
    found = importlib.metadata.version("django")
    if wish.django is not None and not is_of(found, wish.django):
        sys.exit(f"error: Django {wish.django} was asked for, {found} is installed")


# In a process of its own: pytest wants to be the first to import the package.
_POSTGRES_VERSION = """
from django_poolkit.testing import binaries, runuser
print(binaries.find(runuser.ServerUser.resolve()).version)
"""


def versions_line() -> str:
    """Name the Python, Django and PostgreSQL that this environment runs."""
    command = [sys.executable, "-c", _POSTGRES_VERSION]
    answer = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if answer.returncode:
        sys.exit("error: no PostgreSQL server can be run; the reason stands above")
    python = ".".join(map(str, sys.version_info[:3]))
    django = importlib.metadata.version("django")
    return f"Python {python}, Django {django}, PostgreSQL {answer.stdout.strip()}"


if __name__ == "__main__":
    # `python3 -m example_project.bootstrap dev`: make the environment and say where it is.
    print(ensure(Wish(), sys.argv[1:]))
