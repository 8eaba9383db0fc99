"""Making an environment once, and finding it again."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from example_project import environment
from example_project.environment import (
    STAMP,
    BootstrapError,
    Builder,
    clean_environ,
    environments_home,
    extras_closure,
    python_of,
    run_logged,
)
from example_project.interpreters import Interpreter

PYPROJECT = """
[project]
name = "django-poolkit"
[project.optional-dependencies]
testing = ["one"]
demo = ["django-poolkit[testing, binary]", "two"]
dev = ["django-poolkit[demo]", "three"]
"""

PYTHON = Interpreter(executable="/opt/a/python3.97", version=(3, 97, 1))


class Machine:
    """Stands for venv and pip: notes what is run, and may be told to fail."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.fail_on = ""
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def run(self, command, folder: Path, failure: str) -> None:
        self.entered.set()
        assert self.gate.wait(10)
        word = "venv" if "venv" in command else " ".join(command[command.index("--editable") + 1 :])
        self.commands.append(word.replace(str(folder.parent), "ROOT"))
        if self.fail_on and self.fail_on in command:
            raise BootstrapError(failure)
        python = python_of(folder)
        python.parent.mkdir(exist_ok=True)
        python.write_text("")
        python.chmod(0o755)


@pytest.fixture
def machine(monkeypatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(environment, "run_logged", machine.run)
    return machine


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    return tmp_path


def build(root: Path, extras=("demo",), *, python=PYTHON, name=".venv", pins=()) -> Path:
    return Builder(root, name, python, extras, pins).ensure()


def test_the_first_start_makes_and_fills_it_and_the_second_does_nothing(root, machine):
    first = build(root)
    second = build(root)

    assert first == second == root / ".venv"
    assert machine.commands == ["venv", "ROOT[demo]"]


def test_pins_are_given_to_pip(root, machine):
    build(root, name=".envs/py397-django52", pins=("django==5.2.*",))

    assert machine.commands[1].endswith("[demo] django==5.2.*")


def test_another_pyproject_means_pip_again_and_no_new_environment(root, machine):
    build(root)
    (root / "pyproject.toml").write_text(PYPROJECT + "# changed\n")
    build(root)

    assert machine.commands == ["venv", "ROOT[demo]", "ROOT[demo]"]


def test_a_further_extra_is_added_to_what_is_there(root, machine):
    build(root, ["demo"])
    build(root, ["docs"])
    build(root, ["demo"])

    assert machine.commands == ["venv", "ROOT[demo]", "ROOT[demo,docs]"]


def test_an_extra_that_another_brings_along_is_not_installed_again(root, machine):
    build(root, ["dev"])
    build(root, ["demo"])
    build(root, ["binary"])

    assert machine.commands == ["venv", "ROOT[dev]"]


@pytest.mark.parametrize(
    "other",
    [
        Interpreter(executable="/opt/a/python3.97", version=(3, 97, 2)),
        Interpreter(executable="/opt/b/python3.97", version=(3, 97, 1)),
    ],
)
def test_another_interpreter_means_a_new_environment(root, machine, other):
    build(root)
    stale = root / ".venv" / "stale"
    stale.write_text("")
    build(root, python=other)

    assert machine.commands == ["venv", "ROOT[demo]"] * 2
    assert not stale.exists()


def test_an_environment_whose_interpreter_has_gone_is_made_anew(root, machine):
    python_of(build(root)).unlink()
    build(root)

    assert machine.commands == ["venv", "ROOT[demo]"] * 2


@pytest.mark.parametrize("step", ["venv", "--editable"])
def test_one_that_was_left_half_made_is_made_anew(root, machine, step):
    machine.fail_on = step
    with pytest.raises(BootstrapError):
        build(root)
    machine.fail_on = ""
    machine.commands.clear()
    build(root)

    assert machine.commands == ["venv", "ROOT[demo]"]


def test_one_whose_refill_failed_is_made_anew(root, machine):
    build(root, ["demo"])
    machine.fail_on = "--editable"
    with pytest.raises(BootstrapError):
        build(root, ["dev"])
    machine.fail_on = ""
    machine.commands.clear()
    build(root, ["demo"])

    assert machine.commands == ["venv", "ROOT[demo]"]


def test_a_broken_stamp_means_to_start_afresh(root, machine):
    (build(root) / STAMP).write_text("{")
    build(root)

    assert machine.commands == ["venv", "ROOT[demo]"] * 2


def test_somebodys_own_venv_is_left_alone(root, machine):
    own = root / ".venv" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.write_text("mine")

    made = build(root)

    assert made == root / ".envs" / "default"
    assert own.read_text() == "mine"


def test_of_two_starts_at_once_one_makes_it_and_the_other_waits(root, machine, capsys):
    machine.gate.clear()
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(build(root))) for _ in range(2)]
    threads[0].start()
    assert machine.entered.wait(10)
    threads[1].start()
    told = ""
    while "another start is making this environment" not in told:
        assert threads[1].is_alive()
        told += capsys.readouterr().err
    machine.gate.set()
    for thread in threads:
        thread.join(10)

    assert paths == [root / ".venv"] * 2
    assert machine.commands == ["venv", "ROOT[demo]"]


def test_a_command_that_fails_shows_the_end_of_its_log(tmp_path):
    script = "for n in $(seq 20); do echo line $n; done; exit 3"

    with pytest.raises(BootstrapError) as caught:
        run_logged(["sh", "-c", script], tmp_path, "it could not be installed")

    text = str(caught.value)
    assert text.startswith("it could not be installed\n")
    assert "| line 20" in text
    assert "| line 1\n" not in text
    assert str(tmp_path / environment.LOG) in text


def test_a_checkout_that_cannot_be_written_has_its_environments_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("os.access", lambda path, mode: False)

    home = environments_home(Path("/checkouts/one"))

    assert home.parent == tmp_path / "cache" / "django-poolkit"
    assert home != environments_home(Path("/checkouts/two"))


def test_the_environment_is_kept_from_others_packages(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("PIP_INDEX_URL", "kept")

    inside = clean_environ()

    assert "PYTHONPATH" not in inside
    assert "PIP_USER" not in inside
    assert inside["PIP_INDEX_URL"] == "kept"


def test_extras_are_followed_as_pyproject_declares_them():
    assert extras_closure(PYPROJECT.encode(), ["dev"]) == {"dev", "demo", "testing", "binary"}


def test_the_projects_own_extras_cover_each_other():
    project = (Path(__file__).parents[2] / "pyproject.toml").read_bytes()

    assert extras_closure(project, ["dev"]) >= {"demo", "testing", "binary"}


def test_a_virtual_environment_is_really_made(root, monkeypatch):
    """All of it but the packages, which would need a network."""
    ran: list[list[str]] = []

    def run(command, folder, failure):
        ran.append(command)
        if "venv" in command:
            run_logged([*command, "--without-pip"], folder, failure)

    monkeypatch.setattr(environment, "run_logged", run)
    running = Interpreter(executable=sys.executable, version=sys.version_info[:3])
    made = build(root, python=running)

    assert (made / "pyvenv.cfg").exists()
    assert python_of(made).resolve() == Path(sys.executable).resolve()
    assert ran[1][0] == str(python_of(made))
