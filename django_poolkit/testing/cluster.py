"""A real PostgreSQL cluster on this machine, for tests and for trying things out."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from django_poolkit.testing import binaries
from django_poolkit.testing.errors import ClusterError, PortTaken
from django_poolkit.testing.memory import Memory
from django_poolkit.testing.node import Node
from django_poolkit.testing.postmaster import Postmaster, end_servers
from django_poolkit.testing.provision import Provision, conninfo
from django_poolkit.testing.runuser import ServerUser
from django_poolkit.testing.server import Address
from django_poolkit.testing.workspace import Workspace, marker_of

_HOST = "127.0.0.1"
_USER = "postgres"
_PRIMARY = "primary"

_SETTINGS = {
    "listen_addresses": _HOST,
    "max_connections": "100",
    "shared_buffers": "32MB",
    # Data of a test need not survive a power cut. It does survive a server's crash.
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "replica",
    "max_wal_senders": "10",
    "hot_standby": "on",
    # A replica that was cut off finds what it missed.
    "wal_keep_size": "512MB",
    "wal_retrieve_retry_interval": "100ms",
    # Files in the data directory: nothing stays in /dev/shm, however small that is.
    "dynamic_shared_memory_type": "mmap",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d/%a ",
}


class Cluster:
    """A primary and streaming replicas, as separate servers on 127.0.0.1.

    It is temporary (in the temporary directory, or in a new folder in
    `directory`): `stop()` removes it. With `reuse=True` its data, password and, if
    they are free, ports last in `directory`, and the next start takes them up.
    `settings` are server settings of every node. `port` is the primary's; the
    replicas take those after it.

    A cluster belongs to the process that started it: in a forked child `stop()`
    does nothing. If the owner is killed, the next cluster that starts on the
    machine ends its servers and removes what was temporary.
    """

    primary: Node
    replicas: list[Node]

    def __init__(
        self,
        replicas: int = 0,
        *,
        directory: Path | None = None,
        settings: Mapping[str, str] | None = None,
        reuse: bool = False,
        port: int | None = None,
    ) -> None:
        if replicas < 0:
            raise ValueError(f"replicas ({replicas}) is below 0")
        if reuse and directory is None:
            raise ValueError("reuse=True needs a directory to find the data in")
        if port is not None and not 0 < port <= 65_535 - replicas:
            raise ValueError(f"port ({port}) is not within 1 and {65_535 - replicas}")
        self._names = [_PRIMARY, *(f"replica{n + 1}" for n in range(replicas))]
        self._directory = directory
        self._settings = _SETTINGS | dict(settings or {})
        self._reuse = reuse
        self._port = port
        self._workspace: Workspace | None = None
        self._postmasters: list[Postmaster] = []
        self._owner = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.nodes if self.running else 'stopped'}>"

    @property
    def running(self) -> bool:
        """True from `start()` to `stop()`, whatever was done to the nodes between."""
        return self._workspace is not None

    @property
    def nodes(self) -> list[Node]:
        """The primary and the replicas."""
        return [self.primary, *self.replicas]

    @property
    def directory(self) -> Path:
        """Where the data is: as root, perhaps elsewhere than asked for.

        The servers then run as another user, who must be able to get there.
        """
        if self._workspace is None:
            raise ClusterError("the cluster is not started")
        return self._workspace.home

    def start(self) -> None:
        """Start all nodes; return when they accept connections and the replicas stream.

        Raises:
            ClusterError: no server programs, `directory` in use or made by another
                version, `port` taken, or a server that did not start. Nothing is left.
        """
        if self._workspace is not None:
            raise ClusterError("the cluster is started already")
        user = ServerUser.resolve()
        programs = binaries.find(user)
        workspace = Workspace.claim(user, self._directory, lasting=self._reuse)
        self._workspace = workspace
        self._owner = os.getpid()
        atexit.register(self.stop)
        try:
            memory = Memory.read(workspace.home)
            if memory.run:
                # A sweep under another TMPDIR does not see that run's folder.
                end_servers(marker_of(memory.run))
            memory.run = workspace.run
            memory.write()
            self._start_nodes(_Builder(workspace, programs, user, memory, self._settings))
            memory.write()
        except BaseException:
            self._remove(workspace)
            raise

    def _start_nodes(self, builder: _Builder) -> None:
        self._postmasters = [builder.postmaster(name) for name in self._names]
        primary, *others = self._postmasters
        self.primary = builder.primary(primary, self._ports(builder, 0))

        def start_replica(index: int) -> Node:
            ports = self._ports(builder, index)
            return builder.replica(others[index - 1], self._names[index], ports, self.primary)

        # A copy is mostly waiting for the primary: all replicas at once.
        with ThreadPoolExecutor(max_workers=4) as threads:
            self.replicas = list(threads.map(start_replica, range(1, len(self._names))))

    def _ports(self, builder: _Builder, index: int) -> Iterable[int]:
        if self._port is not None:
            return (self._port + index,)
        return builder.memory.candidates(self._names[index], _HOST)

    def stop(self) -> None:
        """Stop all nodes and remove a temporary cluster. A second call does nothing.

        Sessions that are open are cut. Blocks until the servers are gone.
        """
        if self._workspace is None or os.getpid() != self._owner:
            return
        try:
            if self._reuse:
                for postmaster in self._postmasters:
                    postmaster.resume()
                # The primary first: its replicas then receive its last words.
                for postmaster in self._postmasters:
                    postmaster.stop("fast")
        finally:
            self._remove(self._workspace)

    def _remove(self, workspace: Workspace) -> None:
        end_servers(marker_of(workspace.run))
        for postmaster in self._postmasters:
            postmaster.end()
        self._postmasters = []
        workspace.release()
        self._workspace = None
        atexit.unregister(self.stop)


class _Builder:
    """Brings the nodes of one start to life."""

    def __init__(
        self,
        workspace: Workspace,
        programs: binaries.Binaries,
        user: ServerUser,
        memory: Memory,
        settings: Mapping[str, str],
    ) -> None:
        self.memory = memory
        self._workspace = workspace
        self._programs = programs
        self._user = user
        self._provision = Provision(programs, user)
        self._settings = dict(settings)
        self._settings["unix_socket_directories"] = str(workspace.socket_directory)

    def postmaster(self, name: str) -> Postmaster:
        home = self._workspace.home
        return Postmaster(
            marker=f"{marker_of(self._workspace.run)}-{name}",
            data=home / name,
            log=home / f"{name}.log",
            binaries=self._programs,
            user=self._user,
        )

    def primary(self, postmaster: Postmaster, ports: Iterable[int]) -> Node:
        password = self.memory.password
        self._provision.primary(postmaster.data, superuser=_USER, password=password)
        return self._start(_PRIMARY, postmaster, ports, {})

    def replica(
        self, postmaster: Postmaster, name: str, ports: Iterable[int], primary: Node
    ) -> Node:
        """Start a replica; one of an earlier run that cannot follow any more is made anew."""
        source = primary.address
        follow = {
            "primary_conninfo": conninfo(
                replace(source, dbname="replication"),
                password=source.password,
                application_name=name,
            )
        }
        ports = list(ports)
        if self._provision.is_replica(postmaster.data):
            try:
                node = self._start(name, postmaster, ports, follow)
                node.upstream = primary
                # Short: if it was only slow, the copy costs a moment and nothing is lost.
                node.wait_streaming(5.0)
                return node
            except ClusterError:
                postmaster.end()
        self._provision.replica(postmaster.data, source)
        node = self._start(name, postmaster, ports, follow)
        node.upstream = primary
        node.wait_streaming()
        return node

    def _start(
        self,
        name: str,
        postmaster: Postmaster,
        ports: Iterable[int],
        more: Mapping[str, str],
    ) -> Node:
        problem: PortTaken | None = None
        for port in ports:
            settings = self._settings | {"port": str(port)} | dict(more)
            self._provision.configure(postmaster.data, settings)
            try:
                postmaster.start()
            except PortTaken as error:
                problem = error
                continue
            self.memory.ports[name] = port
            address = Address(
                host=_HOST,
                port=port,
                user=_USER,
                password=self.memory.password,
                dbname="postgres",
            )
            return Node(name, postmaster, address, self._workspace.socket_directory)
        raise problem or ClusterError(f"no free port for {name}")
