"""`scope()`: one unit of work, which reads from one replica and never before its own write.

A request is one by itself. A scope is one object that changes, carried by a context variable: so
what a task that `gather()` started has written is known to the one that awaits it, and to threads
reached by `sync_to_async` or `asyncio.to_thread`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from time import monotonic, time
from types import MappingProxyType, TracebackType
from typing import Final, NamedTuple

from django_poolkit.backends import request as requests
from django_poolkit.backends.request import RequestScope
from django_poolkit.pools.chance import chance
from django_poolkit.pools.forks import in_child
from django_poolkit.routing.blocks import Block, place_of
from django_poolkit.routing.figures import Decisions
from django_poolkit.routing.floors import Floor, later

OUTSIDE_PIN: Final = 5.0
"""For how many seconds after a write outside of any scope its thread or task reads the primary."""

_WRITING_METHODS: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})


@dataclass(frozen=True, slots=True)
class Settled:
    """Which replicas of a cluster have come as far as a scope must see."""

    hosts: Mapping[str, frozenset[str] | None]
    """By alias of a replica that has: those of its hosts that have; None where it is one server.
    No alias, or no host: the primary has to be read."""

    @property
    def replicas(self) -> list[str]:
        """Aliases of those of which there is a host to be read."""
        return [alias for alias, keys in self.hosts.items() if keys is None or keys]


_raising = threading.RLock()
"""Held while a floor is raised: threads of one work may do so at the same time."""


def _after_fork() -> None:
    global _raising
    _raising = threading.RLock()


in_child(_after_fork)

NOTHING_SETTLED: Final[Mapping[str, Settled]] = MappingProxyType({})


class Scope:
    """What one unit of work has done, and where it reads.

    Shared by all threads and tasks of the work: each change is one atomic call.
    """

    __slots__ = (
        "__weakref__", "behind", "command", "decisions", "draw", "fallen", "floors", "hosts",
        "over", "placed", "replicas", "settled", "strays", "unplaced", "unsafe", "visitor", "wrote",
    )  # fmt: skip

    def __init__(self, *, unsafe: bool = False, command: bool = False) -> None:
        self.unsafe = unsafe
        """Whether it is a request by a method that is there to change something."""
        self.command = command
        """Whether it is a management command, which reads the primary."""
        self.over = False
        """Whether the block that opened it has ended. Tasks that it started may go on."""
        self.wrote: set[str] = set()
        """The clusters, by name, on whose primary a statement that may write has begun."""
        self.replicas: dict[str, str] = {}
        """By cluster: the alias of the replica that it reads."""
        self.hosts: dict[str, str] = {}
        """By logical alias: the host that it reads."""
        self.floors: dict[str, Floor] = {}
        """By cluster: what it must see. What has come in, and what it has written."""
        self.visitor: bytes | None = None
        """Stands for who asks, from one request to the next; None where nobody can tell."""
        self.settled: Mapping[str, Settled] = NOTHING_SETTLED
        """By cluster: who of its replicas has come that far. Replaced as a whole."""
        self.unplaced: set[str] = set()
        """The clusters that it may have written where nobody says where that has ended."""
        self.placed: set[str] = set()
        """The clusters whose floor is of what it has written or seen on their primaries itself."""
        self.behind: set[str] = set()
        """The clusters whose primary it has read because no replica had come that far."""
        self.strays: set[tuple[str, str | None]] = set()
        """By alias and host: replicas that it reads, and that are not the visitor's own."""
        self.fallen: set[str] = set()
        """The clusters whose primary it reads because no replica could be read."""
        self.draw = chance.random()
        """Says which trials of replicas it takes part in, from 0.0 to 1.0."""
        self.decisions: Decisions | None = None
        """What was decided in it; None where nobody wants to know."""

    def raise_floor(self, cluster: str, floor: Floor) -> None:
        """Enter that this, too, must be seen of a cluster."""
        with _raising:
            after = later(self.floors.get(cluster), floor)
            assert after is not None
            self.floors[cluster] = after

    def place(self, cluster: str, floor: Floor) -> None:
        """Enter what was written or seen on the primary of a cluster.

        What had come in is below a position there, whatever timeline it was on: the primary has
        it, or it is lost.
        """
        with _raising:
            fulfils = floor.position is not None and cluster not in self.placed
            before = None if fulfils else self.floors.get(cluster)
            after = later(before, floor)
            assert after is not None
            self.placed.add(cluster)
            self.floors[cluster] = after


class _Entry(NamedTuple):
    scope: Scope
    request: RequestScope | None
    owner: ScopeBlock


# The blocks that are open, innermost last.
_entries: ContextVar[tuple[_Entry, ...]] = ContextVar("django_poolkit_scopes", default=())
_NO_PINS: Final[Mapping[str, float]] = MappingProxyType({})
# Where there is no scope: until when which cluster is read from the primary. Replaced, not
# changed: who starts with a copy of the context has no part in what happens here.
_pins: ContextVar[Mapping[str, float]] = ContextVar("django_poolkit_pins", default=_NO_PINS)


def current() -> Scope | None:
    """Return the scope of the work being done, None outside of one."""
    request = requests.current()
    entries = _entries.get()
    if entries:
        entry = entries[-1]
        # One opened around a server, by a command or a test, is none of its requests'.
        if request is None or entry.request is request:
            return entry.scope
    return None if request is None else _of_request(request)


def _of_request(request: RequestScope) -> Scope:
    found: Scope | None = request.routing.get("scope")
    if found is None:
        # Two threads of one request may both find none, and must not have one each. No lock: a
        # process that is forked meanwhile would find it locked for ever.
        made = Scope(unsafe=request.method in _WRITING_METHODS)
        found = request.routing.setdefault("scope", made)
    return found


def end_of(request: RequestScope) -> None:
    """End the scope of a request, if it has one. What is left of the request may still use it."""
    if (found := request.routing.get("scope")) is not None:
        found.over = True


class ScopeBlock(Block[Scope]):
    """A block with a scope. Joins the one that it is entered in, if there is one."""

    __slots__ = ()

    def __enter__(self) -> Scope:
        request = requests.current()
        here = current()
        # A command may run for ever, and its jobs are no parts of one work. Neither does what
        # goes on after a request belong to that.
        if here is None or here.command or here.over or (request is not None and request.over):
            here = self._opened()
        _entries.set((*_entries.get(), _Entry(here, request, self)))
        return here

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        entries = _entries.get()
        if (place := place_of(self, entries)) is None:
            return
        ended = entries[place].scope
        entries = entries[:place] + entries[place + 1 :]
        _entries.set(entries)
        if not any(entry.scope is ended for entry in entries):
            self._end(ended)

    def _opened(self) -> Scope:
        return Scope()

    def _end(self, ended: Scope) -> None:
        request = requests.current()
        if request is None or request.routing.get("scope") is not ended:
            ended.over = True


class CommandBlock(ScopeBlock):
    """The scope of a management command, which reads the primary."""

    __slots__ = ()

    def _opened(self) -> Scope:
        return Scope(command=True)


def settled(here: Scope, cluster: str, floor: Floor, found: Settled | None) -> None:
    """Enter which replicas have come as far as a floor of a scope; None for all of them.

    Where others have raised it meanwhile, as those do who share the scope, what they have found
    for theirs holds as well.
    """
    with _raising:
        before = here.settled.get(cluster)
        if here.floors.get(cluster) != floor and before is not None:
            found = before if found is None else _both(before, found)
        rest = {name: each for name, each in here.settled.items() if name != cluster}
        if found is not None:
            rest[cluster] = found
        here.settled = MappingProxyType(rest)


def _both(one: Settled, other: Settled) -> Settled:
    hosts: dict[str, frozenset[str] | None] = {}
    for alias in one.hosts.keys() & other.hosts.keys():
        keys, more = one.hosts[alias], other.hosts[alias]
        hosts[alias] = None if keys is None or more is None else keys & more
    return Settled(MappingProxyType(hosts))


def reached(here: Scope, cluster: str) -> Settled | None:
    """Return who of a cluster has come as far as a scope must see; None where all will do.

    As they do where its floor has ended since, unless it had to read the primary.
    """
    found = here.settled.get(cluster)
    if found is None or not found.replicas:
        return found
    floor = here.floors.get(cluster)
    return found if floor is None or time() < floor.expires else None


def unsettle(here: Scope, cluster: str, alias: str) -> None:
    """Take away all hosts of a replica, which have turned out to be of no use to a scope."""
    with _raising:
        if (before := here.settled.get(cluster)) is None:
            return  # its floor has ended meanwhile, and another thread found that out
        # It stays there, with none: another thread may have been sent to it already.
        hosts = {**before.hosts, alias: frozenset[str]()}
        settled = Settled(MappingProxyType(hosts))
        here.settled = MappingProxyType({**here.settled, cluster: settled})


def mark_written(cluster: str) -> None:
    """Enter that a statement which may write begins on the primary of a cluster."""
    if (here := current()) is not None:
        here.wrote.add(cluster)
    else:
        _pins.set({**_pins.get(), cluster: monotonic() + OUTSIDE_PIN})


def has_written(here: Scope | None, cluster: str) -> bool:
    """Return whether a scope has written; without one, whether its thread has just done so."""
    if here is not None:
        return cluster in here.wrote
    until = _pins.get().get(cluster)
    return until is not None and monotonic() < until


def pinned() -> dict[str, float]:
    """Return which clusters a thread without a scope has just written, and for how many seconds
    it will read their primaries."""
    now = monotonic()
    return {cluster: until - now for cluster, until in _pins.get().items() if until > now}
