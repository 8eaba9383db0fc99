"""`manage.py poolstatus`, as it is typed."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command, load_command_class
from django.db import OperationalError, connection

from django_poolkit import registry
from django_poolkit.control import render
from django_poolkit.control.collect import WORDS, Problem
from django_poolkit.testing.waiting import wait_until
from tests.control.statuses import lease, pool, status

ROOT = Path(__file__).parents[2]
PASSWORD = "pl4nt%41ed@s3cret"
GIVEAWAYS = ("pl4nt", "s3cret")
ESCAPE = "\x1b"

_MANAGE = """
import json, os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
from tests import settings
settings.DATABASES = {"default": json.loads(os.environ["DATABASE"])}
from django.core.management import execute_from_command_line
if "TERMINAL" in os.environ:  # to be the one that its keyboard speaks to
    os.setsid()
    os.close(os.open(os.environ["TERMINAL"], os.O_RDWR))
execute_from_command_line(["manage.py", "poolstatus", *sys.argv[1:]])
"""


pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def live(database: dict[str, Any]) -> None:
    """Make this process one that is found: it holds a lease."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


@pytest.fixture
def processes(serve: Callable[..., Any]) -> Callable[..., None]:
    """Return a function by which sockets answer like these processes."""

    def processes(*answers: dict[str, Any]) -> None:
        for answer in answers:
            serve({"status": lambda arguments, answer=answer: answer}, pid=answer["pid"])

    return processes


def run(*arguments: str) -> tuple[int, str, str]:
    """Run the command in this process; return its exit code and what it said."""
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    try:
        call_command("poolstatus", *arguments, stdout=out, stderr=err)
    except SystemExit as ended:
        code = ended.code
    return code, out.getvalue(), err.getvalue()


class Shell:
    """The command in a process of its own."""

    def __init__(self, database: dict[str, Any], place: Path) -> None:
        keys = ("ENGINE", "NAME", "USER", "PASSWORD", "HOST", "PORT")
        self._database = {key: database[key] for key in keys}
        self._place = place

    def start(self, *arguments: str, terminal: str = "", **streams: Any) -> subprocess.Popen[str]:
        """Start it; with a `terminal`, on whose keyboard Ctrl-C means it."""
        environment = {**os.environ, "TERM": "xterm", "DATABASE": json.dumps(self._database)}
        environment |= {"POOLKIT_TEST_CONTROL": str(self._place), "PYTHONIOENCODING": "utf-8"}
        if terminal:
            environment["TERMINAL"] = terminal
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-c", _MANAGE, *arguments],
            cwd=ROOT,
            env=environment,
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
        )


@pytest.fixture
def shell(database: dict[str, Any], place: Path) -> Shell:
    return Shell(database, place)


class Terminal:
    """A terminal, and what was written to it."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        termios.tcsetwinsize(self.slave, (50, 120))
        self.text = ""
        self.before = termios.tcgetattr(self.slave)

    def read_until(self, pattern: str) -> None:
        """Read until the pattern is there."""

        def found() -> bool:
            self.text += os.read(self.master, 65536).decode()
            return re.search(pattern, self.text) is not None

        wait_until(found, 60.0, lambda: repr(self.text))

    def read_to_the_end(self, process: subprocess.Popen[str]) -> None:
        """Wait for the end of a process that writes here, and read what is left."""
        process.wait(60.0)
        os.set_blocking(self.master, False)
        try:
            while piece := os.read(self.master, 65536):
                self.text += piece.decode()
        except BlockingIOError:
            pass


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    os.close(terminal.master)
    os.close(terminal.slave)


# -- exit codes


def test_all_is_well(live: None) -> None:
    code, out, err = run()
    assert (code, err) == (0, "")
    assert re.search(rf"^{os.getpid()} .* default  session +1/8 ", out, re.MULTILINE)
    assert re.search(rf"^pid {os.getpid()} +8 +1 +1  -$", out, re.MULTILINE)
    assert re.search(r"^\d\d:\d\d:\d\d \S+ fine: 1 process, 1 pool$", out, re.MULTILINE)


def test_somebody_waits(processes: Callable[..., None]) -> None:
    processes(status(101, pool(waiters=2, oldest_waiter=0.5)))
    code, out, err = run()
    assert (code, err) == (1, "")
    assert "degraded: 1 process, 1 pool\n  pid 101, default: 2 wait, the first for 0.50 s\n" in out


def test_the_database_is_down(live: None, database: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(database, "PORT", "1")
        code, out, err = run()
        patch.undo()
    assert (code, err) == (2, "")
    assert f"\n{os.getpid()} " in out
    assert "default: the database cannot be reached: OperationalError [08001]" in out


def test_nobody_is_there(place: Path) -> None:
    code, out, err = run()
    assert (code, err) == (3, "")
    assert "no process: 0 processes, 0 pools" in out
    assert f"Looked in {place}" in out
    assert "The usual causes:\n" in out


def test_the_help_teaches_them_all_by_examples() -> None:
    parser = load_command_class("django_poolkit", "poolstatus").create_parser(
        "manage.py", "poolstatus"
    )
    text = parser.format_help()
    examples, codes = text.split("\nexamples:\n")[1].split("\nexit codes")
    for code in (0, 1, 2, 3, 130):
        assert re.search(rf"^  {code}  ?\w", codes, re.MULTILINE)
    commands = [line.split("  ")[1] for line in examples.splitlines() if line]
    assert len(commands) > 4
    for command in commands:
        arguments = re.split(r" [|>]", command)[0].split()
        assert arguments[:2] == ["manage.py", "poolstatus"]
        parser.parse_args(arguments[2:])


# -- the reference


def section(title: str) -> str:
    page = (ROOT / "docs/reference/poolstatus.md").read_text()
    return f"\n## {page}".split(f"\n## {title}\n")[1].split("\n## ")[0]


def first_cells(text: str) -> set[str]:
    """Return what is named in the first cells of the tables of a text."""
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_the_reference_has_every_option() -> None:
    parser = load_command_class("django_poolkit", "poolstatus").create_parser("manage.py", "x")
    ours = {name for name in parser._option_string_actions if name.startswith("--")}
    ours -= {"--help", "--version", "--verbosity", "--settings", "--pythonpath", "--traceback"}
    intro = (ROOT / "docs/reference/poolstatus.md").read_text().split("\n## ")[0]
    assert first_cells(intro) == ours


def test_the_reference_has_every_exit_code() -> None:
    rows = re.findall(r"^\| (\d) \| `(.*?)` \|", section("Exit codes"), re.MULTILINE)
    assert rows == [(str(code), word) for code, word in enumerate(WORDS)]


def test_the_reference_has_every_column() -> None:
    def names(columns: tuple[str, ...]) -> set[str]:
        return {name.lstrip(">~") for name in columns}

    documented = first_cells(section("The tables"))
    assert documented == names((*render._NOW, *render._LATELY, *render._SINCE)) - {"AGE"}
    assert first_cells(section("Leases")) == names(render._LEASES)
    for name in names(render._SERVER):
        assert name in section("The servers")


def test_the_reference_has_every_verdict() -> None:
    source = (ROOT / "django_poolkit/control/verdicts.py").read_text()
    words = set(re.findall(r'(?:word=|return )"(\w+)"', source))
    assert len(words) == 5
    assert first_cells(section("Pins").split("\n### ")[0]) == words


def test_the_reference_has_every_key(processes: Callable[..., None], live: None) -> None:
    plain = json.loads(run("--local", "--leases", "--pins", "--format", "json")[1])
    assert first_cells(section("JSON")) == set(plain)
    text = section("JSON")
    parts = [plain["processes"][0], plain["servers"][0], plain["servers"][0]["shares"][0]]
    parts += [plain["verdicts"][0], asdict(Problem(code=0, text=""))]
    for part in parts:
        for key in part:
            assert f"`{key}`" in text, key


# -- options


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ("--database", "nowhere"),
            "'nowhere' is no pooled alias of DATABASES; these are: default",
        ),
        (("--format", "prometheus", "--watch"), "--watch does not go with"),
        (("--format", "prometheus", "--leases"), "--leases does not go with"),
        (("--format", "prometheus", "--pins"), "--pins does not go with"),
        (("--watch", "0.01"), "must be 0.1 seconds or more"),
        (("--watch", "inf"), "must be 0.1 seconds or more"),
        (("--watch", "nan"), "must be 0.1 seconds or more"),
        (("--watch", "soon"), "must be 0.1 seconds or more, not soon"),
        (("--format", "xml"), "invalid choice"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: tuple[str, ...], text: str) -> None:
    with pytest.raises(CommandError, match=re.escape(text)) as refused:
        run(*arguments)
    if "--watch" not in arguments and "xml" not in arguments:
        assert refused.value.returncode == 2


def test_of_one_alias_only(processes: Callable[..., None]) -> None:
    processes(status(101, pool("default"), pool("other", waiters=1)))
    code, out, _ = run("--database", "default")
    assert code == 0
    assert "other " not in out


def test_leases_and_pins_are_shown_where_asked_for(processes: Callable[..., None]) -> None:
    processes(status(101, pool(), leases=[lease(7)], observations={}))
    _, out, _ = run("--leases", "--pins")
    assert "101/default/7" in out
    assert "Transaction mode for default: unknown" in out


def test_locally_this_process_alone_is_shown(processes: Callable[..., None], live: None) -> None:
    processes(status(101, pool()))
    code, out, _ = run("--local", "--format", "json")
    assert code == 0
    assert [process["pid"] for process in json.loads(out)["processes"]] == [os.getpid()]


# -- formats


def test_json_is_one_document_and_nothing_else(processes: Callable[..., None]) -> None:
    processes(status(101, pool(waiters=2, oldest_waiter=0.5)))
    code, out, err = run("--format", "json")
    assert code == 1
    assert out.count("\n") == 1
    found = json.loads(out)
    assert (found["status"], found["exit_code"], found["totals"][0]["waiters"]) == (
        "degraded",
        1,
        2,
    )
    assert err == "pid 101, default: 2 wait, the first for 0.50 s\n"


def test_json_is_a_document_also_where_nobody_is(place: Path) -> None:
    code, out, err = run("--format", "json")
    assert (code, json.loads(out)["processes"]) == (3, [])
    assert err.startswith(f"No live process was found. Looked in {place}")
    assert "\nThe usual causes:\n" in err


def test_prometheus_gets_the_sums_and_nothing_else(processes: Callable[..., None]) -> None:
    processes(status(101, pool(used=3)), status(102, pool(used=2), draining=True))
    code, out, err = run("--format", "prometheus")
    assert code == 1
    assert err.startswith("pid 102: is draining\n")
    assert 'poolkit_connections{pool="default",state="used"} 5\n' in out
    assert all(line.startswith(("# ", "poolkit_")) for line in out.splitlines())


def test_tables_are_plain_where_nobody_looks(live: None) -> None:
    assert ESCAPE not in run("--leases", "--pins")[1]
    assert ESCAPE in run("--force-color")[1]
    assert ESCAPE not in run("--no-color")[1]


def test_what_a_terminal_cannot_spell_is_spelt_out(processes: Callable[..., None]) -> None:
    processes(status(101, pool(), leases=[lease(thread="K\u00fcche \u2615")]))
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="latin-1")
    call_command("poolstatus", "--leases", stdout=out)
    assert "K\u00fcche \\u2615".encode("latin-1") in raw.getvalue()


def test_who_has_read_enough_may_go(live: None, shell: Shell) -> None:
    process = shell.start("--watch", "0.1")
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(60.0) == 128 + signal.SIGPIPE
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()


# -- secrets


@pytest.mark.parametrize("change", [{}, {"PORT": "1"}, {"NAME": PASSWORD}, {"HOST": PASSWORD}])
def test_no_password_is_said(database: dict[str, Any], change: dict[str, str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for key, value in {"PASSWORD": PASSWORD, **change}.items():
            patch.setitem(database, key, value)
        patch.setitem(database["OPTIONS"]["pool"], "timeout", 0.2)
        wait_until(fails_to_connect)
        for arguments in (("--leases", "--pins"), ("--format", "json"), ("--format", "prometheus")):
            code, out, err = run(*arguments)
            said = out + err
            assert code == 2
            assert "fails to connect: " in said
            assert "cannot be reached: " in said
            for secret in GIVEAWAYS:
                assert secret not in said


def fails_to_connect() -> bool:
    with pytest.raises(OperationalError):
        connection.ensure_connection()
    [found] = registry.pools
    return found.stats().last_connect_error is not None


# -- on a terminal, and in a pipe


@pytest.mark.parametrize(("arguments", "coloured"), [((), True), (("--no-color",), False)])
def test_a_terminal_gets_colours_unless_told_otherwise(
    live: None, terminal: Terminal, arguments: tuple[str, ...], coloured: bool
) -> None:
    with os.fdopen(os.dup(terminal.slave), "w") as out:
        call_command("poolstatus", *arguments, stdout=out)
    terminal.read_until("fine: 1 process, 1 pool")
    assert (ESCAPE in terminal.text) is coloured


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_may_want_none(
    live: None, terminal: Terminal, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with os.fdopen(os.dup(terminal.slave), "w") as out:
        call_command("poolstatus", stdout=out)
    terminal.read_until("fine: 1 process, 1 pool")
    assert ESCAPE not in terminal.text


def test_ctrl_c_ends_a_watch_and_gives_the_terminal_back(
    live: None, shell: Shell, terminal: Terminal
) -> None:
    process = shell.start("--watch", "0.2", stdout=terminal.slave, stdin=terminal.slave)
    terminal.read_until(rf"(?s)fine: 1 process.*{os.getpid()}.*fine: 1 process")
    process.send_signal(signal.SIGINT)
    terminal.read_to_the_end(process)
    assert process.communicate()[1] == ""
    assert process.returncode == 130
    assert terminal.text.startswith("\x1b[?1049h\x1b[?25l\x1b[?7l")
    assert terminal.text.endswith("\x1b[?7h\x1b[?25h\x1b[?1049l")
    assert termios.tcgetattr(terminal.slave) == terminal.before


def test_ctrl_c_on_the_keyboard_reaches_it(live: None, shell: Shell, terminal: Terminal) -> None:
    process = shell.start(
        "--watch", "60", stdout=terminal.slave, terminal=os.ttyname(terminal.slave)
    )
    terminal.read_until("fine: 1 process")
    os.write(terminal.master, b"\x03")
    terminal.read_to_the_end(process)
    assert process.communicate()[1] == ""
    assert process.returncode == 130
    assert terminal.text.endswith("\x1b[?1049l")


@pytest.mark.parametrize("form", ["table", "json"])
def test_in_a_pipe_a_watch_writes_line_by_line(live: None, shell: Shell, form: str) -> None:
    process = shell.start("--watch", "0.2", "--format", form)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(2)]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60.0)
    assert (process.returncode, err) == (130, "")
    lines += out.splitlines(keepends=True)
    assert all(line.endswith("\n") for line in lines)
    assert ESCAPE not in "".join(lines)
    for line in lines:
        if form == "json":
            assert json.loads(line)["status"] == "fine"
        else:
            assert re.match(
                r"\d{4}-\d\d-\d\dT[\d:+]{14} status=fine processes=1 pool=default used=1/8", line
            )


def test_a_watch_goes_on_while_nobody_is_there(shell: Shell) -> None:
    process = shell.start("--watch", "0.2")
    out = process.stdout
    assert out is not None
    assert "status=no_process processes=0" in out.readline()
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    wait_until(lambda: "status=fine processes=1" in out.readline(), 60.0)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60.0)[1] == ""
    assert process.returncode == 130
