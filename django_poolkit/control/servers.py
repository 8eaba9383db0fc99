"""What processes say of their connections, held against what the servers count.

A server is asked once for each alias, over one connection at a time, so that to look at a server
which has hardly a connection left does not take it. An alias with several hosts counts as one for
each of them, `alias/key`.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

from django.db import connections

from django_poolkit.backends.postgresql.base import PooledDatabaseWrapperMixin
from django_poolkit.conf.databases import pool_config
from django_poolkit.pools.postgres import activity, naming
from django_poolkit.pools.postgres.activity import Activity, Sessions

DEADLINE: Final = 6.0
"""Seconds after which a server counts as unreachable, whatever holds it up (a resolver may)."""
# Kinds of pools that take connections of a server; client sessions take none.
_OF_SERVERS: Final = ("postgresql", "asyncpg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Some of a server's connections, by whose they are."""

    whose: str
    """`process` for one that answered; `here` for others of this host that a pool of ours has
    named, `elsewhere` for those of other hosts, `others` for all that are named otherwise."""
    pids: tuple[int, ...] = ()
    hosts: int = 0
    may_open: int | None = None
    """The sum of `max_size` of the pools that lead there; None where nobody can say."""
    open: int | None = None
    """How many there are, as the processes themselves say."""
    connections: int | None = None
    """The same as the server says."""
    idle_in_transaction: int | None = None
    """None where the server was not reached, or shows it to other roles only."""
    longest: float = 0.0
    """Seconds for which the first of those has been idle in its transaction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One server, and whose its connections are."""

    aliases: tuple[str, ...]
    errors: Mapping[str, str] = field(default_factory=dict)
    """Why it was not reached, by alias."""
    max_connections: int | None = None
    reserved: int | None = None
    connections: int | None = None
    """All of them but the one that asked. These three are None where no alias reached it."""
    may_open: int
    """What the processes that answered may have at most: the sum of their `max_size`, and of the
    connections by which their health is asked for."""
    shares: tuple[Share, ...]

    @property
    def usable(self) -> int | None:
        """`max_connections` without those that an ordinary role cannot have."""
        if self.max_connections is None or self.reserved is None:
            return None
        return self.max_connections - self.reserved

    @property
    def short(self) -> int:
        """How many connections are missing, should each pool want all that it may have.

        Of those who cannot be asked, what they have now is counted.
        """
        if self.usable is None:
            return 0
        rest = sum(share.connections or 0 for share in self.shares if share.whose != "process")
        return max(0, self.may_open + rest - self.usable)


def pooled_aliases() -> list[str]:
    """Return the aliases of `DATABASES` that are pooled. Opens nothing, and makes no pool."""
    return [
        alias
        for alias in connections
        if isinstance(wrapper := connections[alias], PooledDatabaseWrapperMixin)
        and pool_config(alias, wrapper.settings_dict) is not None
    ]


def pooled_names() -> list[str]:
    """Return those aliases, and the full names of the hosts where one has several."""
    hosts = [
        name
        for alias in connections
        if isinstance(wrapper := connections[alias], PooledDatabaseWrapperMixin)
        for name in wrapper.at_hosts()
        if name != alias
    ]
    return [*pooled_aliases(), *hosts]


def _places(alias: str) -> dict[str, Any]:
    """Return a wrapper for each server that a pooled alias leads to, by its name."""
    wrapper: Any = connections[alias]
    places: dict[str, Any] = wrapper.at_hosts()
    return places


def check(aliases: Collection[str], processes: Sequence[Mapping[str, Any]]) -> list[Server]:
    """Ask the servers of these aliases or hosts, and hold what they say against the processes.

    `processes` are results of `status` with all of their pools. Blocks for 6 seconds at most.
    """
    groups: dict[Any, list[str]] = {}
    places: dict[str, Any] = {}
    wanted: set[str] = set()
    for alias in pooled_aliases():
        found = _places(alias)
        wanted.update(name for name in found if not {name, alias}.isdisjoint(aliases))
        for name, wrapper in found.items():
            groups.setdefault(_address(wrapper), []).append(name)
        places |= found
    asked = [group for group in groups.values() if not wanted.isdisjoint(group)]
    answers = _ask([{name: places[name] for name in group if name in wanted} for group in asked])
    # One server may have several addresses.
    servers: dict[str, tuple[list[str], dict[str, Activity | str]]] = {}
    for group in asked:
        found = {alias: answers[alias] for alias in group if alias in answers}
        reached = [answer for answer in found.values() if isinstance(answer, Activity)]
        names, merged = servers.setdefault(reached[0].server if reached else group[0], ([], {}))
        names += group
        merged |= found
    return [_server(names, found, processes) for names, found in servers.values()]


def _address(wrapper: Any) -> tuple[str, ...]:
    settings = wrapper.settings_dict
    service = settings["OPTIONS"].get("service")
    return tuple(str(part or "") for part in (settings["HOST"], settings["PORT"], service))


def _ask(groups: list[dict[str, Any]]) -> dict[str, Activity | str]:
    """Return what the server of each alias answers, or why it does not.

    A group has the wrappers of one server, by their aliases.
    """
    answers: dict[str, Activity | str] = {}

    def ask_group(params: dict[str, Any]) -> None:
        for alias, given in params.items():
            try:
                answers[alias] = activity.ask(given)
            except ConnectionError as error:
                answers[alias] = str(error)

    threads = []
    for group in groups:
        params = {alias: wrapper.get_connection_params() for alias, wrapper in group.items()}
        # One that hangs must not hold up the end of the process either.
        threads.append(threading.Thread(target=ask_group, args=(params,), daemon=True))
        threads[-1].start()
    deadline = monotonic() + DEADLINE
    for thread in threads:
        thread.join(max(0.0, deadline - monotonic()))
    done = dict(answers)
    late = f"no answer within {DEADLINE:g} s"
    return {alias: done.get(alias, late) for group in groups for alias in group}


def _server(
    aliases: list[str],
    answers: Mapping[str, Activity | str],
    processes: Sequence[Mapping[str, Any]],
) -> Server:
    reached = [answer for answer in answers.values() if isinstance(answer, Activity)]
    sessions = _merged(reached)
    shares = [_of_process(process, aliases, sessions if reached else None) for process in processes]
    answered = {(process["pid"], process["host"]) for process in processes}
    rest = [found for found in sessions if _owner(found) not in answered]
    for whose in ("here", "elsewhere", "others"):
        if found := [one for one in rest if _whose(one) == whose]:
            shares.append(_share(found, whose=whose))
    return Server(
        aliases=tuple(aliases),
        errors={alias: text for alias, text in answers.items() if isinstance(text, str)},
        max_connections=reached[0].max_connections if reached else None,
        reserved=reached[0].reserved if reached else None,
        connections=sum(found.connections for found in sessions) if reached else None,
        may_open=sum(share.may_open or 0 for share in shares),
        shares=tuple(share for share in shares if share.may_open or share.connections),
    )


def _merged(answers: Sequence[Activity]) -> list[Sessions]:
    """Return the sessions, each name as the role sees it that may see its state."""
    seen: dict[str, Sessions] = {}
    for answer in answers:
        for found in answer.sessions:
            known = seen.get(found.application_name)
            if known is None or known.idle_in_transaction is None:
                seen[found.application_name] = found
    return list(seen.values())


def _owner(sessions: Sessions) -> tuple[int, str] | None:
    owner = naming.parse(sessions.application_name)
    return None if owner is None else (owner.pid, owner.host)


def _whose(sessions: Sessions) -> str:
    owner = _owner(sessions)
    if owner is None:
        return "others"
    return "here" if owner[1] == naming.host_mark() else "elsewhere"


def _of_process(
    process: Mapping[str, Any], aliases: Collection[str], sessions: list[Sessions] | None
) -> Share:
    pools = [
        pool
        for pool in process["pools"]
        if pool["kind"] in _OF_SERVERS and set(pool["aliases"]) & set(aliases)
    ]
    owner = process["pid"], process["host"]
    return _share(
        sessions and [found for found in sessions if _owner(found) == owner],
        whose="process",
        pids=(process["pid"],),
        # Where its health is asked for, each pool has one connection more for that.
        may_open=sum(pool["max_size"] + pool["probing"] for pool in pools),
        open=sum(pool["idle"] + pool["used"] + pool["probing"] for pool in pools),
    )


def _share(sessions: Sequence[Sessions] | None, **facts: Any) -> Share:
    if sessions is None:
        return Share(**facts)
    owners = {owner for found in sessions if (owner := _owner(found))}
    idle = [found.idle_in_transaction for found in sessions]
    counted: dict[str, Any] = {
        "pids": tuple(sorted(pid for pid, _ in owners)),
        "hosts": len({host for _, host in owners}),
        "connections": sum(found.connections for found in sessions),
        "idle_in_transaction": None if None in idle else sum(count or 0 for count in idle),
        "longest": max((found.longest for found in sessions), default=0.0),
    }
    return Share(**(counted | facts))
