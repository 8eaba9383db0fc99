"""The faults of `tests.benchmarks.failure`: what happens to the database of its contestants."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

from django_poolkit.testing import Cluster, Node
from django_poolkit.testing.faults import TCPProxy
from tests.benchmarks.hole import Hole

IDLE_SECONDS = 1.0
"""For which connections were idle that are forgotten: no pool takes them for fresh."""


class Span(NamedTuple):
    """When a fault began and ended, by the monotonic clock."""

    begun: float
    ended: float


class Crowd(Protocol):
    """Those who make requests."""

    def ask(self, **order: Any) -> dict[str, Any]:
        """Give an order and wait for the answer."""


@dataclass
class Ground:
    """Where the contestants go, and what can be done there."""

    node: Node
    """What they connect to."""
    server: Node
    """The server itself."""
    replica: Node | None = None
    proxy: TCPProxy | None = None
    hole: Hole | None = None
    options: tuple[tuple[str, Any], ...] = ()
    """Of libpq, for all."""


Strike = Callable[[Ground, Crowd], Span]


@dataclass(frozen=True)
class Fault:
    """What happens, and what it needs."""

    name: str
    strike: Strike
    needs: str = ""
    """`proxy`, `hole`, `replica`, or nothing."""
    writes: bool = False

    @contextmanager
    def ground(self, cluster: Cluster) -> Iterator[Ground]:
        """Provide where it can happen. A failover has servers of its own: one of them ends."""
        with ExitStack() as stack:
            if self.needs == "replica":
                own = stack.enter_context(Cluster(replicas=1))
                prepare(own.primary)
                [replica] = own.replicas
                own.primary.wait_caught_up(replica)
                both = moved(own.primary, f"{own.primary.host},{replica.host}", 0)
                both.port = f"{own.primary.port},{replica.port}"  # type: ignore[assignment]
                options = (("target_session_attrs", "read-write"),)
                yield Ground(both, own.primary, replica, options=options)
                return
            node, found = cluster.primary, Ground(cluster.primary, cluster.primary)
            if self.needs == "proxy":
                found.proxy = stack.enter_context(TCPProxy(node.host, node.port))
                found.node = moved(node, found.proxy.host, found.proxy.port)
            elif self.needs == "hole":
                found.hole = stack.enter_context(Hole(node.host, node.port))
                found.node = moved(node, found.hole.host, found.hole.port)
            yield found


def moved(node: Node, host: str, port: int) -> Node:
    """Return a node as it is seen at another address."""
    there = copy.copy(node)
    there.host, there.port = host, port
    return there


def prepare(node: Node) -> None:
    """Have the table that requests are about."""
    node.execute("CREATE TABLE contest_thing (id bigint PRIMARY KEY, name varchar(50) NOT NULL)")
    node.execute("INSERT INTO contest_thing VALUES (1, 'the one')")


def _kill(ground: Ground, crowd: Crowd) -> Span:
    crowd.ask(do="rest")
    begun = time.monotonic()
    ground.server.kill_backends()
    ended = time.monotonic()
    crowd.ask(do="go")
    return Span(begun, ended)


def _restart(seconds: float, ground: Ground, crowd: Crowd) -> Span:
    begun = time.monotonic()
    ground.server.stop("fast")
    time.sleep(seconds)
    ground.server.start()
    return Span(begun, time.monotonic())


def _hang(seconds: float, ground: Ground, crowd: Crowd) -> Span:
    assert ground.proxy is not None
    begun = time.monotonic()
    ground.proxy.stall()
    time.sleep(seconds)
    ended = time.monotonic()
    ground.proxy.resume()
    return Span(begun, ended)


def _forget(ground: Ground, crowd: Crowd) -> Span:
    assert ground.hole is not None
    crowd.ask(do="rest")
    time.sleep(IDLE_SECONDS)
    begun = time.monotonic()
    ground.hole.forget()
    ended = time.monotonic()
    crowd.ask(do="go")
    return Span(begun, ended)


def _fail_over(ground: Ground, crowd: Crowd) -> Span:
    assert ground.replica is not None
    begun = time.monotonic()
    ground.server.stop("immediate")
    ground.replica.promote()
    return Span(begun, time.monotonic())


FAULTS = {
    "kill": Fault("all idle connections killed", _kill),
    "restart-1": Fault("server away for 1 s", partial(_restart, 1.0)),
    "restart-5": Fault("server away for 5 s", partial(_restart, 5.0)),
    "restart-20": Fault("server away for 20 s", partial(_restart, 20.0)),
    "hang": Fault("network hangs for 3 s", partial(_hang, 3.0), "proxy"),
    "forgotten": Fault("idle connections forgotten by the network", _forget, "hole"),
    "failover": Fault("failover to the replica", _fail_over, "replica", writes=True),
}
