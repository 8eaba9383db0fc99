"""`python3 -m example_project` from its start to its end, as a person sees it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from django_poolkit.testing.waiting import wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A place for the cluster that is not that of whoever tries the example meanwhile."""
    # Not below pytest's own folder: where the server runs as another user, its data would
    # have to be elsewhere, and nobody would remove it from there.
    folder = Path(tempfile.mkdtemp(prefix="poolkit-example-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the example inside the environment that the tests run in."""
    command = [sys.executable, "-m", "example_project", "--inside", sys.prefix, *arguments]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "SHOP_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # As in a shell: the tests' own signals are not the example's.
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )


def leftovers(home: Path) -> list[str]:
    """Return the processes that belong to a start with this home."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (folder / "environ").read_bytes()
            if f"SHOP_HOME={home}\0".encode() in environment + b"\0":
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if command and "pytest" not in command:
                    found.append(command)
    return found


@contextlib.contextmanager
def serving(home: Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Run `--serve`; yield the process and what it has printed once the shop is open."""
    process = start(home, "--serve", "--port", "0")
    lines: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            if line.startswith("Ctrl-C"):
                break
        else:
            pytest.fail("\n".join(lines))
        yield process, lines
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


@pytest.mark.timeout(400)
def test_a_check_measures_and_judges(home, tmp_path):
    measurements = tmp_path / "measurements.json"
    process = start(
        home, "--check", "--seconds", "2", "--requests-in-flight", "16", "--crowd", "24",
        "--pool-size", "2", "--port", "0", "--json", str(measurements),
    )  # fmt: skip
    output, _ = process.communicate(timeout=380)

    assert process.returncode == 0, output
    assert re.match(r"Python \S+, Django \S+, PostgreSQL \S+\n", output)
    assert output.count("  ok    ") == 14
    for view in ("async view", "sync view"):
        assert re.search(rf"{view}: 100 requests, 20 at once, .* \d+ connections to the", output)
    assert "FAIL" not in output
    for row in ("requests in flight, peak", "connections, peak", "timeouts (", "p99:"):
        assert output.count(row) == 3
    written = json.loads(measurements.read_text())
    assert written["shape"]["connections"] == 4
    runs = written["runs"]
    engines = ("transaction", "session", "django")
    assert set(runs) == {f"{load}_{engine}" for load in ("everyday", "crowd", "outage")
                         for engine in engines}  # fmt: skip
    for engine in engines:
        everyday, crowd, outage = (
            runs[f"{load}_{engine}"] for load in ("everyday", "crowd", "outage")
        )
        assert everyday["peak_in_flight"] == outage["peak_in_flight"] == 16
        assert {"product", "orders", "order", "quote"} <= set(everyday["kinds"])
        assert crowd["peak_in_flight"] == 24
        assert set(crowd["kinds"]) == {"product", "order", "quote"}
        assert 0 < crowd["peak_connections"] <= 4
        assert outage["killed"] > 0
        assert len(outage["alone"]) == 6
    kept, thrown = written["visits"]["kept"], written["visits"]["thrown"]
    assert sum(kept["stale"].values()) == 0 < sum(thrown["stale"].values())
    assert 0 < kept["from_replica"]["paused"] < kept["pages"]["paused"]
    assert kept["failures"] == thrown["failures"] == {}
    assert leftovers(home) == []
    # The cause: a request that waits for the supplier holds a connection, or it does not.
    served = runs["crowd_transaction"]
    assert served["requests"] >= 24
    assert served["failures"] == {}
    assert served["peak_at_supplier"] > served["peak_connections"]
    for engine in ("session", "django"):
        queued = runs[f"crowd_{engine}"]
        assert 0 < queued["peak_at_supplier"] <= queued["peak_connections"]
        assert queued["timeouts"] > 0
        assert queued["errors"] == 0
        # What was measured is what is said.
        said = f"{queued['timeouts']:,} of {queued['requests']:,} failed"
        assert said in output


@pytest.mark.timeout(300)
def test_a_flood_is_served_by_one_process_without_a_thread_a_request(home, tmp_path):
    measurements = tmp_path / "measurements.json"
    process = start(
        home, "--flood", "300", "--beside", "100", "--seconds", "2", "--json", str(measurements)
    )
    output, _ = process.communicate(timeout=280)

    assert process.returncode == 0, output
    assert output.count("  ok    ") == 3
    assert "FAIL" not in output
    for words in ("timeout=60", "300 clients set out within 0.3 s", "Django's own", "finished"):
        assert words in output
    waves = json.loads(measurements.read_text())["waves"]
    ours, django = waves["ours"], waves["django"]
    assert (ours["peak_in_flight"], django["peak_in_flight"]) == (300, 100)
    for wave in (ours, django):
        assert wave["failures"] == {}
        assert wave["requests"] > wave["peak_in_flight"]
        assert 0 < wave["connections"] <= 20
        assert wave["cpu"] > 0
        assert wave["memory"] > 2**20
    # The cause: a request has a thread, or it has none.
    assert django["threads"] >= 50 > ours["threads"]
    assert leftovers(home) == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("size", "seconds"), [("2", "7"), pytest.param("4", "40", marks=pytest.mark.slow)]
)
def test_the_size_that_is_advised_does_to_the_waits_what_was_predicted(
    home, tmp_path, size, seconds
):
    """On the example's own load: measured, predicted, applied, and measured again."""
    measurements = tmp_path / "measurements.json"
    process = start(
        home, "--advise", "--pool-size", size, "--seconds", seconds, "--port", "0",
        "--json", str(measurements),
    )  # fmt: skip
    output, _ = process.communicate(timeout=280)

    assert process.returncode == 0, output
    assert output.count("  ok    ") == 5
    assert "FAIL" not in output
    written = json.loads(measurements.read_text())
    before, after = written["before"]["answer"], written["after"]["answer"]
    # What the running processes say of themselves.
    assert before["size"] == int(size) < before["advised"] == after["size"]
    assert after["measured"]["queued"] < before["measured"]["queued"] / 2
    assert leftovers(home) == []


def test_a_second_start_reuses_what_is_there_and_serves(home):
    with serving(home) as (process, lines):
        text = "\n".join(lines)
        url = re.search(r"http://\S+/", text)
        assert url is not None
        with urllib.request.urlopen(url[0], timeout=30) as response:
            assert b"The example shop" in response.read()
        admitted = re.search(r"(\S+admin/poolkit/) .* as staff, password (\S+)", text)
        assert admitted is not None
        with urllib.request.urlopen(admitted[1], timeout=30) as response:
            assert b'name="password"' in response.read()
        command = [sys.executable, "-m", "example_project", "--inside", sys.prefix, "manage"]
        environment = {**os.environ, "SHOP_HOME": str(home)}
        for arguments in (["check", "--database", "default"], ["migrate", "--check"]):
            subprocess.run([*command, *arguments], cwd=ROOT, env=environment, check=True)
        # It holds the password: for manage.py, and for nobody else.
        written = home / "example-environment.json"
        assert written.stat().st_mode & 0o777 == 0o600
        assert admitted[2] not in written.read_text()
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
        assert not written.exists()

    if home.joinpath("site-everyday_transaction.log").exists():
        # The check has run before: its orders are still there.
        assert "50,000 orders or more are there" in text
    assert process.returncode == 130
    assert rest.strip() == "Stopped."
    assert leftovers(home) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_it_clears_up_when_it_is_told_to_end(home, number):
    with serving(home) as (process, _):
        assert leftovers(home) != []
        process.send_signal(number)
        process.communicate(timeout=60)

    assert process.returncode == 128 + number
    assert leftovers(home) == []


def test_a_second_ctrl_c_does_not_disturb_the_clearing_up(home):
    with serving(home) as (process, _):
        children = set(leftovers(home))
        process.send_signal(signal.SIGINT)
        # It is at it once the first of what it has started is gone.
        wait_until(lambda: set(leftovers(home)) != children, 30, "nothing ends")
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)

    assert process.returncode == 130
    assert leftovers(home) == []


def test_it_clears_up_when_its_start_is_interrupted(home):
    process = start(home, "--serve", "--port", "0")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Filling"):
            break
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of the group
    rest, _ = process.communicate(timeout=60)

    assert process.returncode == 130
    assert rest.strip() == "Stopped."
    assert leftovers(home) == []


def test_a_site_that_dies_ends_it_with_the_reason(home):
    with serving(home) as (process, _):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        (gunicorn,) = (
            int(pid) for pid in children if b"gunicorn" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        os.kill(gunicorn, signal.SIGKILL)
        output, _ = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "error: the site ended with status -9" in output
    wait_until(lambda: not leftovers(home), 10, lambda: f"left: {leftovers(home)}")


def test_a_second_one_at_the_same_place_says_so_and_ends(home):
    with serving(home) as (process, _):
        started = time.monotonic()
        second = start(home, "--serve", "--port", "0")
        output, _ = second.communicate(timeout=60)
        assert process.poll() is None

    assert second.returncode == 1, f"{time.monotonic() - started}: {output}"
    assert "another process runs the cluster" in output
    assert "Does the example run in another shell? Ctrl-C there ends it." in output


def test_without_pgbouncer_it_says_so_before_anything_starts(home, monkeypatch):
    monkeypatch.setenv("POOLKIT_PGBOUNCER", "/nonexistent/pgbouncer")
    process = start(home, "--check", "--pgbouncer")
    output, _ = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "error: POOLKIT_PGBOUNCER names no program that can be run" in output
    assert "Starting" not in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seconds", "0"], "--seconds: 0 is not above 0"),
        (["--pool-size", "-1"], "--pool-size: -1 is not within 1 and 1000"),
        (["--pool-size", "many"], "--pool-size: invalid"),
        (["--requests-in-flight", "0"], "--requests-in-flight: 0 is not within"),
        (["--crowd", "15"], "--crowd: 15 requests are no crowd for 8 connections; make it 16"),
        (["--check", "--serve"], "--check has no result without load"),
        (["--pgbouncer", "--serve"], "--pgbouncer has no result without load"),
        (["--port", "70000"], "--port: 70000 is not within 0 and 65535"),
        (["--flood", "99"], "--flood: 99 is not within 100 and 20000"),
        (["--flood", "300", "--serve"], "--flood serves a site of its own"),
        (["--flood", "300", "--pgbouncer"], "--flood runs without the ordinary load"),
        (["--advise", "--serve"], "--advise runs alone"),
        (["--advise", "--pgbouncer"], "--advise runs alone"),
        (["--advise", "--flood", "300"], "--advise runs alone"),
        (["--flood", "300", "--beside", "-1"], "--beside: -1 is not within 0 and 2000"),
        (["--sec", "3"], "unrecognized arguments: --sec 3"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_before_anything_starts(home, arguments, words):
    process = start(home, *arguments)
    output, _ = process.communicate(timeout=60)

    assert process.returncode == 2
    assert words in output
    assert "Starting" not in output
