"""What a visitor has to bring next time: what a scope has written or seen, as far as it counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Final, Literal

from django_poolkit.conf.routing import routing_config
from django_poolkit.routing import members, topology, writes
from django_poolkit.routing.answered import Answered
from django_poolkit.routing.floors import Floor, Position
from django_poolkit.routing.monitor import monitor
from django_poolkit.routing.positions import Server, Waiter, once, servers
from django_poolkit.routing.scopes import Scope
from django_poolkit.routing.topology import Cluster

BUDGET: Final = 0.05
"""Seconds that it takes at most."""

# Why a position is needed: something was written whose place is not known; the primary was read
# where a replica would have been, and shows more than those have; or another replica was read than
# the visitor will read next time.
_Why = Literal["wrote", "behind", "strayed"]


def outgoing(scope: Scope) -> Mapping[str, Floor]:
    """Return the floors of a scope that are to be carried to what comes after it, by cluster.

    Empty: there is nothing to carry, and what came in may be dropped. Blocks for 50 ms at most,
    and only where something was written outside of a transaction, or read where the visitor will
    not read again. Never raises for a server that does not answer.
    """
    answered = threading.Event()
    if questions := _questions(scope, answered.set):
        deadline = monotonic() + BUDGET
        while not _all_answered(questions) and (left := deadline - monotonic()) > 0:
            answered.wait(left)
            answered.clear()
        _conclude(scope, questions)
    return _carried(scope)


async def aoutgoing(scope: Scope) -> Mapping[str, Floor]:
    """Do the same as `outgoing()`, without blocking the loop."""
    answered = Answered()
    if questions := _questions(scope, answered.set):
        deadline = monotonic() + BUDGET
        try:
            while not _all_answered(questions) and (left := deadline - monotonic()) > 0:
                await answered.wait(left)
                answered.clear()
        finally:
            _conclude(scope, questions)
    return _carried(scope)


class _Question:
    """Asks one server where it is, for one cluster of a scope."""

    def __init__(
        self, cluster: Cluster, why: _Why, server: Server | None, notify: Callable[[], None]
    ) -> None:
        self.cluster = cluster
        self.why = why
        self._server = server
        self._waiter = Waiter(monotonic() + BUDGET, notify, once)
        if server is None:
            self._waiter.failed = True
        else:
            server.ask(self._waiter)

    @property
    def answered(self) -> bool:
        """Whether there is no more to wait for."""
        return self._waiter.failed or self._waiter.reading is not None

    @property
    def pins(self) -> bool:
        """Whether a time pin stands for what has not been told."""
        if self.why == "wrote":
            return True
        # What has been read of others is no reason to wait for a primary that is down.
        if monitor.is_lost(self.cluster):
            return False
        slow = not self._waiter.failed and self._waiter.reading is None
        return slow or self.why == "strayed"

    def result(self) -> Position | None:
        """Return where the server is, None where it did not say so, or is not what it should be."""
        if self._server is not None:
            self._server.leave(self._waiter)
        if (reading := self._waiter.reading) is None:
            return None
        if self.why == "strayed":
            # Among replicas a primary is the cluster's own, by another name; or the one that will
            # be, and no other server has come so far as long as that is not led to.
            told = reading.in_recovery or not monitor.is_lost(self.cluster)
        else:
            told = not reading.in_recovery
        return reading.position if told else None


def _questions(scope: Scope, notify: Callable[[], None]) -> list[_Question]:
    """Have the servers asked of which a position is needed."""
    questions: list[_Question] = []
    asked: set[str] = set()
    for name in tuple(scope.unplaced):
        # First: what is written while we ask is to be asked for once more.
        scope.unplaced.discard(name)
        if (cluster := _routed(name)) is None:
            continue
        asked.add(name)
        if writes.has_positions(cluster):
            questions.append(_Question(cluster, "wrote", members.primary_of(cluster), notify))
        else:
            writes.pin(scope, cluster)
    for name in tuple(scope.behind):
        cluster, floor = _routed(name), scope.floors.get(name)
        seen = floor is not None and floor.position is not None
        # Who had nothing to see has by now, where no replica could be read.
        fell = scope.visitor is not None and floor is None and name in scope.fallen
        if cluster is None or not (seen or fell):
            continue
        if name not in asked and name not in scope.placed and writes.has_positions(cluster):
            asked.add(name)
            questions.append(_Question(cluster, "behind", members.primary_of(cluster), notify))
    for alias, key in tuple(scope.strays):
        cluster = topology.cluster_of(alias)
        if cluster is None or cluster.name in asked or cluster.name in scope.placed:
            continue
        if cluster.position == "lsn":
            questions.append(_Question(cluster, "strayed", members.find(alias, key), notify))
    return questions


def _routed(name: str) -> Cluster | None:
    cluster = topology.clusters().get(name)
    return cluster if cluster is not None and cluster.replicas else None


def _all_answered(questions: list[_Question]) -> bool:
    return all(question.answered for question in questions)


def _conclude(scope: Scope, questions: list[_Question]) -> None:
    for question in questions:
        cluster, position = question.cluster, question.result()
        if position is None:
            if question.pins:
                writes.pin(scope, cluster)
        elif question.why == "strayed":
            # No more than a replica had: what came in may be above it.
            expires = time.time() + routing_config().max_age
            scope.raise_floor(cluster.name, Floor(position, expires))
        else:
            writes.place(scope, cluster, position)


def _carried(scope: Scope) -> dict[str, Floor]:
    carried, now = {}, time.time()
    latest = now + routing_config().max_age
    for name, floor in list(scope.floors.items()):
        cluster = _routed(name)
        if cluster is None or floor.expires <= now or _is_everywhere(cluster, floor):
            continue
        carried[name] = Floor(floor.position, min(floor.expires, latest))
    return carried


def _is_everywhere(cluster: Cluster, floor: Floor) -> bool:
    """Return whether all replicas are known to have what is to be seen. Sends nothing."""
    if floor.position is None:
        return False
    replicas, primary = members.replicas_of(cluster), members.primary_of(cluster)
    said = None if primary is None else primary.known()
    return len(replicas) == members.count_of(cluster) and all(
        (reading := member.server.known()) is not None
        and servers.judge(cluster.name, floor.position, reading, said) == "reached"
        for member in replicas
    )
