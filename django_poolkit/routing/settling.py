"""Settles a scope at its start: which replicas have what it must see, or has the primary to do?

Where one is known to, nothing is asked. Else all of them are, and who comes first will do. The
answer is left in the scope, where the router reads it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from time import monotonic
from types import MappingProxyType
from typing import Final

from django_poolkit.conf.routing import routing_config
from django_poolkit.pools.postgres.positions import Reading
from django_poolkit.routing import admission, figures, members, scopes, topology
from django_poolkit.routing.answered import Answered
from django_poolkit.routing.floors import Floor, Position
from django_poolkit.routing.members import Member
from django_poolkit.routing.positions import Verdict, Waiter, once, servers
from django_poolkit.routing.scopes import Scope, Settled
from django_poolkit.routing.topology import Cluster

# Seconds for which the answer of a visitor's own replica is waited for, when another has answered.
_GRACE: Final = 0.01
# Seconds within which those who did not matter this time are asked, for the next time.
_LATER: Final = 1.0


def settle(scope: Scope) -> None:
    """Find out which replicas a scope may read. Blocks for `ROUTING["WAIT"]` at most.

    Never raises for a server that does not answer. Sends nothing where there is nothing to be
    seen, where it is known who has it, and for a scope that reads the primary anyhow.
    """
    if not scope.floors or scope.unsafe or scope.command:
        return
    answered = threading.Event()
    cases = _cases(scope, answered.set)
    deadline = monotonic() + routing_config().wait
    try:
        while (left := _left(cases, deadline)) > 0:
            answered.wait(left)
            answered.clear()
    finally:
        _conclude(scope, cases)


async def asettle(scope: Scope) -> None:
    """Do the same as `settle()`, without blocking the loop."""
    if not scope.floors or scope.unsafe or scope.command:
        return
    answered = Answered()
    cases = _cases(scope, answered.set)
    deadline = monotonic() + routing_config().wait
    try:
        while (left := _left(cases, deadline)) > 0:
            await answered.wait(left)
            answered.clear()
    finally:
        _conclude(scope, cases)


class _Case:
    """One cluster of which something has to be seen."""

    def __init__(self, cluster: Cluster, floor: Floor, wanted: Position, scope: Scope) -> None:
        visitor = scope.visitor
        self.cluster = cluster
        self.floor = floor
        self._wanted = wanted
        self._replicas = _admitted(members.replicas_of(cluster), scope)
        self._primary = members.primary_of(cluster)
        self._confirming: Waiter | None = None
        self._reached = {member for member in self._replicas if self._knows(member)}
        own = None
        if visitor is not None and cluster.choice == "visitor":
            own = members.own_of(visitor, cluster)
        self._own = next((each for each in self._replicas if each[:2] == own), None)
        self._waiters: dict[Member, Waiter] = {}
        self._grace_ends = monotonic() + _GRACE
        self.waited = not self._suffices()

    def _suffices(self) -> bool:
        return bool(self._reached) if self._own is None else self._own in self._reached

    def _knows(self, member: Member) -> bool:
        reading = member.server.known()
        return reading is not None and self._judge(reading) == "reached"

    def _judge(self, reading: Reading) -> Verdict:
        said = None if self._confirming is None else self._confirming.reading
        if said is None and self._primary is not None and not reading.sure:
            said = self._primary.known()
        return servers.judge(self.cluster.name, self._wanted, reading, said)

    def ask(self, deadline: float, notify: Callable[[], None]) -> None:
        """Have all asked of which nothing is known."""
        self._deadline, self._notify = deadline, notify
        judge: Callable[[Reading], Verdict] = self._judge
        if not self.waited or deadline <= monotonic():
            # Nobody waits for these. What they say may end what the visitor has to carry.
            deadline, notify, judge = monotonic() + _LATER, _nothing, once
        for member in self._replicas:
            if member not in self._reached:
                waiter = self._waiters[member] = Waiter(deadline, notify, judge)
                member.server.ask(waiter)

    def look(self) -> float | None:
        """Take in what has been answered; return until when to wait for more, None for no more.

        In seconds on the monotonic clock.
        """
        if not self.waited:
            return None
        going_on = False
        for member, waiter in self._waiters.items():
            verdict = None if waiter.reading is None else self._judge(waiter.reading)
            if verdict == "reached":
                self._reached.add(member)
            elif verdict == "unsure":
                going_on |= self._confirms()
            elif not waiter.failed and verdict != "never":
                going_on = True
        if self._suffices() or not going_on:
            return None
        if not self._reached:
            return float("inf")
        # Another one has it. The visitor's own is to say whether it does, or that it is late.
        own = None if self._own is None else self._waiters.get(self._own)
        if own is None or own.failed or own.reading is not None:
            return None
        return self._grace_ends

    def _confirms(self) -> bool:
        """Have the primary asked whether it is the one that it was; return whether to wait."""
        if self._primary is None:
            return False
        if self._confirming is None:
            self._confirming = Waiter(self._deadline, self._notify, once)
            self._primary.ask(self._confirming)
        return not self._confirming.failed and self._confirming.reading is None

    def leave(self) -> None:
        """Have nobody asked any more."""
        if self.waited:
            for member, waiter in self._waiters.items():
                member.server.leave(waiter)
        if self._primary is not None and self._confirming is not None:
            self._primary.leave(self._confirming)

    def result(self) -> Settled:
        """Return who may be read."""
        hosts: dict[str, frozenset[str] | None] = {}
        for alias, key, _ in self._reached:
            hosts[alias] = None if key is None else (hosts.get(alias) or frozenset()) | {key}
        return Settled(MappingProxyType(hosts))


def _nothing() -> None:
    return


def _admitted(replicas: list[Member], scope: Scope) -> list[Member]:
    """Return those that the scope may read; all of them, where it may read none."""
    if not admission.troubled:
        return replicas
    found = set(admission.admitted([each.name for each in replicas], scope.draw))
    return [each for each in replicas if each.name in found] or replicas


def _cases(scope: Scope, notify: Callable[[], None]) -> list[_Case]:
    """Settle what needs no asking, and have the rest asked."""
    cases, now = [], time.time()
    config = routing_config()
    deadline = monotonic() + config.wait
    for name, floor in list(scope.floors.items()):
        cluster = topology.clusters().get(name)
        if cluster is None or not cluster.replicas or floor.expires <= now:
            scopes.settled(scope, name, floor, None)
        elif floor.position is None:
            figures.settled(name, "pinned")
            scopes.settled(scope, name, floor, Settled(MappingProxyType({})))
        else:
            case = _Case(cluster, floor, floor.position, scope)
            case.ask(deadline, notify)
            cases.append(case)
    return cases


def _left(cases: Iterable[_Case], deadline: float) -> float:
    """Return for how many seconds to wait for an answer, 0 where enough is known."""
    latest = max((until for case in cases if (until := case.look()) is not None), default=0.0)
    return min(latest, deadline) - monotonic()


def _conclude(scope: Scope, cases: Iterable[_Case]) -> None:
    for case in cases:
        case.look()
        case.leave()
        found = case.result()
        figures.settled(
            case.cluster.name,
            "primary" if not found.hosts else "waited" if case.waited else "fast",
        )
        scopes.settled(scope, case.cluster.name, case.floor, found)
