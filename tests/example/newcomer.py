"""Somebody new, who types what a page says into shells and files of a folder of its own."""

from __future__ import annotations

import ast
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django_poolkit.testing.waiting import wait_until
from example_project.processes import listen, url_of
from tests import docs_support as docs
from tests.docs_support import Block

PATIENCE = 90.0
"""Seconds in which what a page promises has to be there: never the promise itself."""
# What pip would make. Where the packages are seen and not installed, nobody has.
SCRIPTS = {
    "pip": "from pip._internal.cli.main import main",
    "django-admin": "from django.core.management import execute_from_command_line as main",
    "gunicorn": "from gunicorn.app.wsgiapp import run as main",
}


class Page:
    """The blocks of a page that a reader sees, by heading; each is to be taken once."""

    def __init__(self, path: Path) -> None:
        self._name = docs.name_of(path)
        self._left: dict[str, list[Block]] = {}
        headings = {
            number: match[1]
            for number, line in enumerate(path.read_text().splitlines(), start=1)
            if (match := re.match(r"##+ (.*)", line))
        }
        for block in docs.blocks(path):
            if block.language != "setup":
                above = max((number for number in headings if number < block.line), default=0)
                self._left.setdefault(headings.get(above, ""), []).append(block)

    def take(self, heading: str, *languages: str) -> list[Block]:
        """Return what stands below a heading. Its languages must be these, in this order."""
        found = self._left.pop(heading)
        assert [block.language for block in found] == [*languages], (self._name, heading, found)
        return found

    def skip(self, *headings: str) -> None:
        """Leave some out; fail if something else was forgotten."""
        assert set(self._left) == set(headings), f"{self._name}: not walked {set(self._left)}"


@dataclass
class Shell:
    """A program that runs in a shell of its own, and what it says."""

    line: str
    process: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        return self.log.read_text()

    def wait_for(self, text: str, times: int = 1) -> str:
        """Wait until it has said something, or said it so often; return all it has said."""

        def found() -> bool:
            assert self.process.poll() is None or text in self.said(), self.said()
            return self.said().count(text) >= times

        wait_until(found, PATIENCE, self.said, interval=0.05)
        return self.said()

    def interrupt(self) -> int:
        """Press Ctrl-C; return how it ended."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(PATIENCE)


@dataclass
class Newcomer:
    """Has a folder, a port where the pages have 8000, and shells."""

    folder: Path
    environ: dict[str, str]
    shells: list[Shell] = field(default_factory=list)

    def __post_init__(self) -> None:
        with listen() as listener:
            self.url = url_of(listener)
        self.port = self.url.rstrip("/").rpartition(":")[2]
        self.environ |= {"GUNICORN_CMD_ARGS": f"--bind 127.0.0.1:{self.port}"}

    # -- shells

    def type(self, block: Block, *, fails: bool = False) -> str:
        """Type each line of a block; return what the last of them printed."""
        return [self.enter(line, fails=fails) for line in self.lines(block)][-1]

    def enter(self, line: str, *, fails: bool = False) -> str:
        """Type one line; return what it printed. Fails unless it ends well, or `fails`."""
        words = shlex.split(line)
        if words[0] == "cd":
            self.folder /= words[1]
            return ""
        found = subprocess.run(
            words,
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=4 * PATIENCE,
        )
        assert bool(found.returncode) is fails, (line, found.stdout, found.stderr)
        # What curl says besides is how far it has come.
        return found.stdout if words[0] == "curl" else found.stdout + found.stderr

    def start(self, block: Block) -> Shell:
        """Type a line into another shell, and leave it running there."""
        [line] = self.lines(block)
        return self.run(line)

    def run(self, line: str) -> Shell:
        """Do the same with a line of its own."""
        log = self.folder / f"shell-{len(self.shells)}.log"
        with log.open("wb") as said:
            process = subprocess.Popen(
                shlex.split(line),
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.shells.append(Shell(line, process, log))
        return self.shells[-1]

    def lines(self, block: Block) -> list[str]:
        """Return the lines of a block, with the port and the project of this site."""
        text = block.text.replace("\\\n", " ").replace(":8000/", f":{self.port}/")
        lines = [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]
        # Which Python is first on the PATH is nobody's choice: it may be too old.
        lines = [re.sub(r"^python3 ", f"{sys.executable} ", line) for line in lines]
        lines = [re.sub(r"runserver$", f"runserver {self.port}", line) for line in lines]
        return [line.replace("shop.", "first.") for line in lines]

    def leave(self) -> None:
        """Press Ctrl-C wherever something runs."""
        for shell in reversed(self.shells):
            try:
                shell.interrupt()
            except subprocess.TimeoutExpired:
                os.killpg(shell.process.pid, signal.SIGKILL)
                shell.process.wait(PATIENCE)

    # -- files

    def put(self, name: str, text: str) -> None:
        """Write a file anew."""
        (self.folder / name).write_text(text)

    def add(self, name: str, text: str) -> None:
        """Write something below what is in a file."""
        path = self.folder / name
        path.write_text(f"{path.read_text()}\n{text}\n")

    def put_first(self, name: str, block: Block) -> None:
        """Write a list's new entries in front of what the file has in the list of that name."""
        [statement] = ast.parse(block.text).body
        assert isinstance(statement, ast.Assign)
        assert isinstance(statement.value, ast.List)
        target = ast.unparse(statement.targets[0])
        entries = [ast.literal_eval(each) for each in statement.value.elts]
        new = [entry for entry in entries if entry is not ...]
        self.add(name, f"{target} = [e for e in {new!r} if e not in {target}] + {target}")


def environment_of(python: Path, changes: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a shell in which an environment is active."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "DJANGO", "POOLKIT", "PG", "PIP"))
    }
    path = os.pathsep.join([str(python.parent), *_others(kept["PATH"])])
    return kept | {"PATH": path, "PYTHONUNBUFFERED": "1", **changes}


def _others(path: str) -> list[str]:
    """Return the folders of programs without that of the tests' own environment."""
    ours = Path(sys.executable).parent
    return [place for place in path.split(os.pathsep) if place and Path(place) != ours]


def write_scripts(python: Path) -> None:
    """Make the programs that pip would have made."""
    for name, line in SCRIPTS.items():
        script = python.parent / name
        script.write_text(f"#!{python}\nimport sys\n{line}\nsys.exit(main())\n")
        script.chmod(0o755)


def evaluated(block: Block) -> Any:
    """Return the value that a block of Python assigns."""
    [statement] = ast.parse(block.text).body
    assert isinstance(statement, ast.Assign)
    return ast.literal_eval(statement.value)
