"""`manage.py devcluster`: a PostgreSQL primary with replicas, for as long as it runs."""

from __future__ import annotations

import json
import signal
import threading
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from django.core.management.base import CommandError

from django_poolkit.management.teaching import TeachingCommand
from django_poolkit.testing.cluster import Cluster
from django_poolkit.testing.errors import ClusterError

_ENGINE = "django_poolkit.backends.postgresql"


class Command(TeachingCommand):
    """Run a local cluster in the foreground and print the settings to paste."""

    help = (
        "Run a local PostgreSQL primary, with streaming replicas if you like, in the foreground,\n"
        "and print the DATABASES to paste into your settings. Ctrl-C stops it.\n\n"
        "Without --directory it is temporary: nothing of it stays, and the next one has another\n"
        "password and other ports. With --directory its data, password and ports stay, and the\n"
        "next start with the same directory takes them up again.\n\n"
        "The servers listen on 127.0.0.1 only. They give up safety for speed (fsync is off):\n"
        "for development, never for data you would miss. The programs come with\n"
        "django-poolkit[testing], or from the folder that POOLKIT_PG_BIN names."
    )
    epilog = (
        "examples:\n"
        "  manage.py devcluster                                 a primary, gone after Ctrl-C\n"
        "  manage.py devcluster --replicas 2 --directory .pg    a lasting cluster of three\n"
        "  manage.py devcluster --port 15432                    always at the same port\n"
        "  manage.py devcluster --json                          one line for a script"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--replicas", type=int, default=0, metavar="N", help="streaming replicas (default: 0)"
        )
        parser.add_argument(
            "--directory", type=Path, metavar="D", help="keep the cluster there for the next time"
        )
        parser.add_argument(
            "--port",
            type=int,
            metavar="P",
            help="port of the primary; the replicas take those after it (default: free ones)",
        )
        parser.add_argument(
            "--json",
            action="store_true",
            help="print the DATABASES as one line of JSON, and nothing else",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the cluster until SIGINT or SIGTERM."""
        directory: Path | None = options["directory"]
        try:
            cluster = Cluster(
                replicas=options["replicas"],
                directory=directory,
                reuse=directory is not None,
                port=options["port"],
            )
        except ValueError as error:
            raise CommandError(str(error)) from error
        try:
            with _stop_requests() as stopped, cluster:
                self._show(cluster, as_json=options["json"])
                stopped.wait()
                if not options["json"]:
                    self.stdout.write("\nStopping.")
        except ClusterError as error:
            raise CommandError(str(error)) from error

    def _show(self, cluster: Cluster, *, as_json: bool) -> None:
        databases = _databases(cluster)
        if as_json:
            self.stdout.write(json.dumps(databases))
        else:
            count = len(cluster.replicas)
            replicas = "no replica" if not count else f"{count} replica{'s' * (count > 1)}"
            self.stdout.write(
                f"# A primary and {replicas}, in {cluster.directory}.\n"
                "# Ctrl-C stops them. For your settings:\n\n"
                f"DATABASES = {json.dumps(databases, indent=4)}"
            )
        self.stdout.flush()


def _databases(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """Return the entries of DATABASES, `default` for the primary."""
    databases: dict[str, dict[str, Any]] = {}
    for node in cluster.nodes:
        alias = "default" if node is cluster.primary else node.name
        databases[alias] = {"ENGINE": _ENGINE, **node.django_settings()}
        if alias != "default":
            # Tests write to the primary; the replica of it serves as its mirror.
            databases[alias]["TEST"] = {"MIRROR": "default"}
    return databases


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """Turn SIGINT and SIGTERM into an event, and put the old handlers back at the end."""
    stopped = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        stopped.set()

    old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
