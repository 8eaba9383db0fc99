"""The parts of CI by name: `nox --list`. Environments are those of `python3 -m tests`."""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["tests", "lint", "types"]

PAIRS = [("3.11", "5.2"), ("3.12", "6.0"), ("3.13", "6.1")]


@nox.session
@nox.parametrize(
    "interpreter,django", PAIRS, ids=[f"{python}-{django}" for python, django in PAIRS]
)
def tests(session: nox.Session, interpreter: str, django: str) -> None:
    """Run the tests on a pair of Python and Django; what is behind -- is pytest's."""
    pair = ("--python", interpreter, "--django", django)
    session.run("python3", "-m", "tests", *pair, *session.posargs, external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Look at the code, and at its form."""
    session.run("python", "-m", "ruff", "check", ".")
    session.run("python", "-m", "ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types."""
    session.run("python", "-m", "mypy")
    session.run("basedpyright")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation, strictly."""
    session.run("python", "-m", "mkdocs", "build", "--strict")


@nox.session
def package(session: nox.Session) -> None:
    """Build the wheel and the source distribution in dist/, and look at both."""
    session.run("bash", ".ci/package", "dist", external=True)
