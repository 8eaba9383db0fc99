"""A primary and two replicas, each behind a gate, and what happens to them when one takes over.

A gate is what an address in front of a server is: it leads to whoever has that part at present. The
site knows the gates alone: `primary`, `a` and `b`.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace

from django_poolkit.pools.postgres.wal import lsn_of
from django_poolkit.testing import Cluster, Node, binaries
from django_poolkit.testing.errors import ClusterError
from django_poolkit.testing.faults import TCPProxy
from django_poolkit.testing.provision import Provision, conninfo
from django_poolkit.testing.runuser import ServerUser
from tests.checker.history import Promotion

DATABASE = "checker"
SLOTS = ("primary", "a", "b")


class Gate(TCPProxy):
    """A proxy that can be led elsewhere."""

    def lead(self, node: Node) -> None:
        """Lead to another server from here on, and cut what is open."""
        self._target = (node.host, node.port)
        self.drop()


class Servers:
    """The servers by the part that each has at present."""

    def __init__(self, cluster: Cluster) -> None:
        self._provision = Provision(binaries.find(user := ServerUser.resolve()), user)
        self.nodes = dict(zip(SLOTS, cluster.nodes, strict=True))
        self.gates = {slot: Gate(node.host, node.port) for slot, node in self.nodes.items()}
        self.timeline = 1

    @property
    def primary(self) -> Node:
        """The one that is written to."""
        return self.nodes["primary"]

    @property
    def replicas(self) -> list[Node]:
        """Those that are read."""
        return [self.nodes["a"], self.nodes["b"]]

    def name_at(self, port: int) -> str:
        """Return the name of the server that listens at a port."""
        return next((node.name for node in self.nodes.values() if node.port == port), str(port))

    def close(self) -> None:
        """Close the gates."""
        for gate in self.gates.values():
            gate.close()

    def crash(self, node: Node) -> None:
        """End a server as the kernel does that has no memory left."""
        os.kill(node.pid, signal.SIGKILL)

    def revive(self, node: Node) -> None:
        """Start a server that has crashed; return when it answers."""
        if not node.running:
            node._postmaster.end()
            node.start()

    def promote(self, slot: str, *, lossy: bool) -> Promotion:
        """Have a replica take over, and the others follow it; return when all of them do."""
        promotion = self.take_over(slot, lossy=lossy)
        self.rejoin(slot, lossy=lossy)
        return promotion

    def take_over(
        self, slot: str, *, lossy: bool, meanwhile: Callable[[], None] | None = None
    ) -> Promotion:
        """Have a replica take over, while the others stay as they are; return when it writes.

        Lossy: it was cut off before, and its primary wrote on until it died, as `meanwhile` did.
        """
        began = time.monotonic()
        heir, old = self.nodes[slot], self.primary
        if lossy:
            heir.cut_streaming()
            # In which something is to be written that it has not got.
            time.sleep(1.0) if meanwhile is None else meanwhile()
            self.crash(old)
            old._postmaster.end()
        else:
            old.wait_caught_up(heir)
            old.stop("fast")
        heir.promote()
        self.gates["primary"].lead(heir)
        self.timeline += 1
        switch = self._switch(heir)
        return Promotion(lossy, began, time.monotonic(), self.timeline - 1, switch)

    def rejoin(self, slot: str, *, lossy: bool) -> None:
        """Have the others follow the one that has taken over; return when they do."""
        other_slot = "b" if slot == "a" else "a"
        heir, old, other = self.nodes[slot], self.primary, self.nodes[other_slot]
        heir.execute("CHECKPOINT")  # before it, a copy of it would still be of the timeline before
        # Whoever has more than the new primary cannot follow it, so it is made anew.
        if lossy:
            other.stop("immediate")
            with ThreadPoolExecutor(2) as threads:
                list(threads.map(self._copy, (other, old), (heir, heir)))
        else:
            other.follow(heir)
            self._copy(old, heir)
        self.nodes = {"primary": heir, slot: old, other_slot: other}
        self.gates[slot].lead(old)

    def _switch(self, node: Node) -> int:
        [[text]] = node.execute("SELECT pg_read_file(%s)", (f"pg_wal/{self.timeline:08X}.history",))
        return lsn_of(text.strip().splitlines()[-1].split()[1])

    def _copy(self, node: Node, primary: Node) -> None:
        """Make a server anew, as a replica of another one."""
        settings = _settings_of(node)
        self._provision.replica(node._postmaster.data, primary.address)
        settings["primary_conninfo"] = _conninfo(primary, node.name)
        self._provision.configure(node._postmaster.data, settings)
        node.upstream = primary
        node.start()
        node.wait_streaming()

    def heal(self) -> None:
        """Undo whatever is still in force; return when all replicas have all there is."""
        for gate in self.gates.values():
            gate.latency = 0.0
            gate.resume()
            gate.accept()
        for node in self.nodes.values():
            node.resume()
            self.revive(node)
        self.primary.wait_ready()
        for node in self.replicas:
            node.wait_ready()
            node.resume_replay()
            with suppress(ClusterError):
                node.reset("primary_conninfo")
            node.follow(self.primary)
            self.primary.wait_caught_up(node)


def _settings_of(node: Node) -> dict[str, str]:
    text = (node._postmaster.data / "poolkit.conf").read_text()
    pairs = (line.split(" = ", 1) for line in text.splitlines())
    return {name: value.strip()[1:-1].replace("''", "'") for name, value in pairs}


def _conninfo(primary: Node, name: str) -> str:
    source = replace(primary.address, dbname="replication")
    return conninfo(source, password=source.password, application_name=name)


@contextmanager
def started() -> Iterator[Servers]:
    """Start the servers, with an empty database; stop them in the end."""
    settings = {"max_connections": "200", "wal_receiver_status_interval": "1s"}
    with Cluster(replicas=2, settings=settings) as cluster:
        cluster.primary.create_database(DATABASE)
        for node in cluster.replicas:
            cluster.primary.wait_caught_up(node)
        servers = Servers(cluster)
        try:
            yield servers
        finally:
            servers.close()
