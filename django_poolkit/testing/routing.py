"""Test how a project routes: record it on one database, assert it, refuse writes among reads.

All but what is done to servers works without replicas, too; with `TestCase` and with pytest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Literal

from django.db.models import Model

from django_poolkit.routing import overrides
from django_poolkit.routing.monitor import monitor
from django_poolkit.routing.topology import Cluster
from django_poolkit.routing.watching import Decision, Watcher, watched

if TYPE_CHECKING:
    from django_poolkit.testing.node import Node

__all__ = [
    "Decision",
    "RoutingLog",
    "WriteInReadScope",
    "assert_routed",
    "promote",
    "record_routing",
    "replica_down",
    "simulate_lag",
    "strict_routing",
]


class WriteInReadScope(AssertionError):
    """A statement that may write began within `use_replica()`, or on a replica."""


class RoutingLog(Watcher):
    """Where reads were sent, or would have been."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        """One for each time Django asked, which may be several times for one query."""

    def decided(self, decision: Decision) -> None:
        """Enter a decision."""
        self.decisions.append(decision)

    def of(self, model: type[Model] | None = None, *, cluster: str | None = None) -> list[Decision]:
        """Return the decisions on a model, or in a cluster, or all of them."""
        label = None if model is None else model._meta.label
        return [
            each
            for each in self.decisions
            if label in (None, each.model) and cluster in (None, each.cluster)
        ]


class _OneDatabase(RoutingLog):
    one_database = True


@contextmanager
def record_routing() -> Iterator[RoutingLog]:
    """Run everything on the primary, and record where each read would have gone.

    For tests in a transaction, as `TestCase` has it: another connection would not see their rows.
    What is explicitly sent to a replica, by `using()`, still goes there. Counts for all threads of
    the process.
    """
    log = _OneDatabase()
    with watched(log):
        yield log


@contextmanager
def assert_routed(
    role: Literal["primary", "replica"],
    model: type[Model] | None = None,
    *,
    cluster: str | None = None,
) -> Iterator[RoutingLog]:
    """Fail unless there is a read in the block, and all of them are sent to `role`.

    `model` and `cluster` leave out all other reads. Raises AssertionError with what was decided,
    and why. Within `record_routing()` it is about where reads would have gone.
    """
    log = RoutingLog()
    with watched(log):
        yield log
    found = log.of(model, cluster=cluster)
    subject = "anything" if model is None else model._meta.label
    if not found:
        raise AssertionError(f"expected reads of {subject} on the {role}; there were none")
    if any(each.role != role for each in found):
        told = "".join(f"\n  {e.model} -> {e.role} {e.alias!r} ({e.reason})" for e in found)
        raise AssertionError(f"expected reads of {subject} on the {role}; there were:{told}")


@contextmanager
def simulate_lag(*replicas: Node) -> Iterator[None]:
    """Have replicas of a `django_poolkit.testing.Cluster` get nothing new until the block ends.

    They answer as before, with what they have. At the end they begin to catch up:
    `Node.wait_caught_up()` tells when they have. Blocks until each has stopped.
    """
    with ExitStack() as stack:
        for replica in replicas:
            stack.callback(replica.resume_replay)
            replica.pause_replay()
        yield


@contextmanager
def replica_down(*replicas: Node) -> Iterator[None]:
    """Have replicas of a `django_poolkit.testing.Cluster` be down until the block ends.

    This process knows it at once, and forgets it at the end, when they are up and stream: they
    are read again without a trial. Blocks until the servers have stopped, and have started.
    """
    with ExitStack() as stack:
        stack.callback(monitor.forget)
        for replica in replicas:
            stack.callback(replica.wait_streaming)
            stack.callback(replica.start)
            replica.stop()
        monitor.look()
        yield


def promote(replica: Node, *followers: Node) -> None:
    """Make a replica of a `django_poolkit.testing.Cluster` a primary, and have others follow it.

    The old primary goes on as it was: stop it before, for a failover. What leads there in
    `DATABASES` still does. This process knows at once what has become of its replicas. Blocks
    until all of it is done.
    """
    replica.promote()
    for follower in followers:
        follower.follow(replica)
    monitor.look()


class _Strict(Watcher):
    def __init__(self) -> None:
        self.refused: WriteInReadScope | None = None

    def writing(self, cluster: Cluster, alias: str) -> None:
        if alias in cluster.replicas:
            where = f"on {alias!r}, which is a replica"
        elif overrides.role_of(cluster.name) == "replica":
            where = f"on {alias!r} within use_replica()"
        else:
            return
        error = WriteInReadScope(f"a statement that may write begins {where}")
        self.refused = self.refused or error
        raise error


@contextmanager
def strict_routing() -> Iterator[None]:
    """Refuse statements that may write within `use_replica()`, and on a replica.

    They raise `WriteInReadScope` before they are sent; so does the end of the block where the
    program has caught that. A call of a function that PostgreSQL does not ship may write.
    Counts for all threads of the process.
    """
    strict = _Strict()
    with watched(strict):
        yield
    if strict.refused is not None:
        raise strict.refused
