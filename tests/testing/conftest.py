"""What the tests of the cluster share: clusters, an open directory, processes to kill."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from django_poolkit.testing import Cluster
from django_poolkit.testing.postmaster import find_servers
from django_poolkit.testing.workspace import marker_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def pair() -> Iterator[Cluster]:
    """A primary and a replica, shared by tests that leave them as they found them."""
    with Cluster(replicas=1) as cluster:
        yield cluster


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that the servers' user can enter (pytest's own are closed to others)."""
    directory = Path(tempfile.mkdtemp(prefix="poolkit-test-"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


def servers_of(cluster_directory: Path) -> list[int]:
    """Return the processes of the run that uses, or last used, a directory."""
    memory = json.loads((cluster_directory / "cluster.json").read_text())
    return find_servers(marker_of(memory["run"]))


class Owner:
    """Another Python process that runs a cluster until it is killed."""

    def __init__(self, *arguments: str, then: str = "") -> None:
        script = (
            "import os, sys\n"
            "from pathlib import Path\n"
            "from django_poolkit.testing import Cluster\n"
            f"cluster = Cluster({', '.join(arguments)})\n"
            "cluster.start()\n"
            f"{then}\n"
            "print(cluster.directory, flush=True)\n"
            "sys.stdin.read()\n"
        )
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )
        assert self.process.stdout is not None
        self.directory = Path(self.process.stdout.readline().strip())
        self.run = json.loads((self.directory / "cluster.json").read_text())["run"]

    def servers(self) -> list[int]:
        return find_servers(marker_of(self.run))

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def leave(self) -> None:
        """Let the process end by itself."""
        self.process.communicate(timeout=60)


@pytest.fixture
def owners() -> Iterator[list[Owner]]:
    """A list for the owners a test starts; those that live are killed and swept after it."""
    started: list[Owner] = []
    yield started
    for owner in started:
        owner.kill()
    if any(owner.servers() for owner in started):
        with Cluster():
            pass
