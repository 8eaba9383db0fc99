"""A Celery worker and a command, in a project that lets nobody steer."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from django_poolkit.testing import Node
from django_poolkit.testing.waiting import wait_until
from tests.celery_queue import leave_tasks
from tests.servers.conftest import Deploy
from tests.servers.project import PATIENCE, Project
from tests.servers.serving import kill

SLOW = "tests.servers.site.tasks.slow"
STEERING = (
    ("pause", "--all"),
    ("resume", "--all"),
    ("recycle", "--all"),
    ("resize", "--all", "--max-size", "1"),
    ("drain", "--all"),
    ("undrain", "--all"),
)


@pytest.fixture(scope="module")
def project(database: Node, deploy: Deploy) -> Project:
    """A project with a Celery worker of two processes."""
    project = deploy(database, {"max_size": 4})
    options = ("--pool", "prefork", "--concurrency", "2", "--loglevel", "INFO")
    project.serve("celery", "-A", project.package, "worker", *options)
    return project


def start_task(project: Project) -> None:
    """Leave a task for the worker that hangs in a statement."""
    leave_tasks(project.home / "queue", SLOW, [600.0])


@contextmanager
def holding(project: Project) -> Iterator[subprocess.Popen[str]]:
    """Run a command that holds a connection, for the length of a `with` block."""
    command = project.begin("holdone")
    assert command.stdout
    assert command.stdout.readline() == "holding\n"
    try:
        yield command
    finally:
        project.finished(command)


def test_celery_workers_are_seen_and_come_and_go(project: Project, database: Node) -> None:
    def both_busy() -> dict[int, int]:
        """Return the server process of each worker's statement, once both work on one."""
        leases = [
            (pid, lease)
            for pid, process in project.processes(leases=True).items()
            for lease in process["leases"]
            if lease["where"] == f"celery {SLOW}" and lease["status"] == "active"
        ]
        return {pid: lease["backend_pid"] for pid, lease in leases} if len(leases) == 2 else {}

    start_task(project)
    start_task(project)
    backends = wait_until(both_busy, PATIENCE, lambda: str(project.ask()))
    report = project.status("--leases")
    assert {process["pid"]: process["command"] for process in report["processes"]} == dict.fromkeys(
        backends, "celery"
    )
    for process in report["processes"]:
        [lease] = process["leases"]
        assert (lease["where"], lease["statement"]) == (f"celery {SLOW}", "SELECT")
        [pool] = process["pools"]
        assert (pool["used"], pool["idle"]) == (1, 0)
    [server] = report["servers"]
    shares = [(share["pids"], share["connections"]) for share in server["shares"]]
    assert {((pid,), 1) for pid in backends} <= {(tuple(pids), n) for pids, n in shares}

    victim, other = sorted(backends)
    kill(victim)
    assert set(project.processes()) == {other}
    start_task(project)
    after = wait_until(both_busy, PATIENCE, lambda: str(project.ask()))
    assert victim not in after
    assert other in after
    for backend in {*backends.values(), *after.values()}:
        database.execute("SELECT pg_terminate_backend(%s)", (backend,))


def test_a_command_is_seen_while_it_lasts(project: Project) -> None:
    with holding(project) as command:
        lease = project.lease("manage.py holdone")
        assert lease["id"].startswith(f"{command.pid}/default/")
        assert lease["status"] == "intrans"
        assert list(project.directory.glob(f"{command.pid}-*.sock"))
    assert command.returncode == 0
    assert not list(project.directory.glob(f"{command.pid}-*"))
    assert command.pid not in project.processes()


def test_who_may_not_steer_is_refused_whatever_it_is(project: Project) -> None:
    with holding(project) as command:
        lease = project.lease("manage.py holdone")
        kill = "kill-lease", lease["id"]
        lines = [["poolctl", *words] for words in (*STEERING, kill)]
        for done in json.loads(project.manage("several", json.dumps(lines))):
            assert done["code"] == 2, done
            assert "refused by" in done["err"]
            assert "POOLKIT['CONTROL']['STEERING']" in done["err"]
        project.manage("poolctl", "pause", "--all", code=2)
        process = project.processes()[command.pid]
        [pool] = process["pools"]
        assert (pool["state"], pool["max_size"], pool["used"]) == ("open", 4, 1)
        assert pool["closed"] == {}
        assert not process["draining"]
        assert project.lease("manage.py holdone")["id"] == lease["id"]
        assert {path.suffix for path in project.directory.iterdir()} == {".sock"}
    assert command.returncode == 0  # its transaction came to a good end


def test_where_nothing_runs_it_says_where_it_looked(database: Node, deploy: Deploy) -> None:
    project = deploy(database, {})
    done = project.finished(project.begin("poolstatus"))
    assert done.returncode == 3
    assert f"{project.directory} (which does not exist)" in done.stdout
    assert f"TMPDIR is {str(project.home / 'elsewhere')!r}" in done.stdout
    assert list((project.home / "elsewhere").iterdir()) == []
