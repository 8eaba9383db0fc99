"""Finding an interpreter that runs, among shims that do not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from example_project import interpreters
from example_project.interpreters import NoInterpreterError, find, named, newest, on_path, probe

# No machine has it, so nothing but the test's own files can be found.
MADE_UP = (3, 97)


def write_script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def write_python(path: Path, version: tuple[int, int, int], **facts: object) -> Path:
    """Write a program that answers the probe as an interpreter of `version` does."""
    answer = {
        "version": version,
        "executable": str(path),
        "implementation": "cpython",
        "free_threaded": False,
        **facts,
    }
    return write_script(path, f"echo '{json.dumps(answer)}'")


def environ(tmp_path: Path, *folders: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path / "home"), "PATH": ":".join(map(str, folders))}


def test_the_running_interpreter_answers_the_probe_with_the_one_below_its_environment():
    found = probe(sys.executable)

    assert found is not None
    assert found.version == sys.version_info[:3]
    assert not Path(found.executable).is_relative_to(sys.prefix) or sys.prefix == sys.base_prefix


def test_a_shim_that_fails_is_passed_over_for_the_next_on_path(tmp_path):
    write_script(tmp_path / "shims" / "python3.97", "echo 'command not found' >&2; exit 127")
    real = write_python(tmp_path / "bin" / "python3.97", (3, 97, 2))

    found = find(MADE_UP, environ(tmp_path, tmp_path / "shims", tmp_path / "bin"))

    assert found is not None
    assert (found.executable, found.version) == (str(real), (3, 97, 2))


def test_a_shim_that_runs_another_version_is_passed_over(tmp_path):
    write_python(tmp_path / "shims" / "python3.97", (3, 8, 1))

    assert find(MADE_UP, environ(tmp_path, tmp_path / "shims")) is None


@pytest.mark.parametrize(
    "folder",
    [
        ".pyenv/versions/3.97.1/bin",
        ".asdf/installs/python/3.97.1/bin",
        ".local/share/mise/installs/python/3.97.1/bin",
        ".local/share/uv/python/cpython-3.97.1-linux-x86_64-gnu/bin",
        "miniconda3/bin",
    ],
)
def test_a_version_managers_own_folder_is_looked_into(tmp_path, folder):
    write_script(tmp_path / "shims" / "python3.97", "exit 127")
    real = write_python(tmp_path / "home" / folder / "python3.97", (3, 97, 1))

    found = find(MADE_UP, environ(tmp_path, tmp_path / "shims"))

    assert found is not None
    assert found.executable == str(real)


def test_a_version_managers_folder_may_be_elsewhere(tmp_path):
    real = write_python(tmp_path / "managed" / "versions/3.97.0/bin/python3.97", (3, 97, 0))

    found = find(MADE_UP, environ(tmp_path) | {"PYENV_ROOT": str(tmp_path / "managed")})

    assert found is not None
    assert found.executable == str(real)


@pytest.mark.parametrize("facts", [{"implementation": "pypy"}, {"free_threaded": True}])
def test_an_interpreter_that_the_wheels_do_not_fit_is_passed_over(tmp_path, facts):
    write_python(tmp_path / "bin" / "python3.97", (3, 97, 2), **facts)

    assert find(MADE_UP, environ(tmp_path, tmp_path / "bin")) is None


def test_an_interpreter_that_hangs_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(interpreters, "PROBE_SECONDS", 0.2)
    hanging = write_script(tmp_path / "python3.97", "exec sleep 60")

    assert probe(str(hanging)) is None


@pytest.mark.parametrize("output", ["", "Python 3.97", "[]", "{}", '{"version": 3}'])
def test_an_answer_that_is_none_is_no_interpreter(tmp_path, output):
    assert probe(str(write_script(tmp_path / "python3.97", f"echo '{output}'"))) is None


def test_the_newest_supported_one_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(interpreters, "SUPPORTED", ((3, 98), (3, 97), (3, 96)))
    for minor in (96, 97):
        write_python(tmp_path / "bin" / f"python3.{minor}", (3, minor, 0))

    assert newest(environ(tmp_path, tmp_path / "bin")).series == (3, 97)


def test_without_a_supported_one_the_running_one_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(interpreters, "SUPPORTED", ((3, 98), (3, 97)))
    monkeypatch.setattr(interpreters, "OLDEST", (3, 11))

    assert newest(environ(tmp_path)).version == sys.version_info[:3]


def test_a_running_one_that_is_too_old_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(interpreters, "SUPPORTED", ((3, 98), (3, 97)))
    monkeypatch.setattr(interpreters, "OLDEST", (3, 97))

    with pytest.raises(NoInterpreterError, match=r"Python 3.97 or newer is needed.*--python PATH"):
        newest(environ(tmp_path))


def test_one_can_be_named_by_version_command_or_path(tmp_path):
    real = write_python(tmp_path / "bin" / "python3.97", (3, 97, 2))
    write_python(tmp_path / "bin" / "mypython", (3, 97, 3))
    there = environ(tmp_path, tmp_path / "bin")

    assert named("3.97", there).executable == str(real)
    assert named("python3.97", there).executable == str(real)
    assert named("mypython", there).version == (3, 97, 3)
    assert named(str(real), {}).version == (3, 97, 2)


@pytest.mark.parametrize("wish", ["3.99", "python3.99", "/nowhere/python", "nothing-of-that-name"])
def test_a_named_one_that_does_not_run_is_refused_by_name(tmp_path, wish):
    with pytest.raises(NoInterpreterError, match=f"--python {wish}: no interpreter runs"):
        named(wish, environ(tmp_path))


def test_a_named_one_that_is_too_old_is_refused(tmp_path):
    old = write_python(tmp_path / "old", (3, 10, 4))

    with pytest.raises(NoInterpreterError, match=r"is older than 3\.11"):
        named(str(old), {})


def test_every_program_of_a_name_on_path_is_tried(tmp_path):
    first = write_script(tmp_path / "a" / "python3.97", "exit 1")
    second = write_script(tmp_path / "b" / "python3.97", "exit 1")
    there = environ(tmp_path, tmp_path / "a", tmp_path / "none", tmp_path / "b")

    assert list(on_path("python3.97", there)) == [str(first), str(second)]
