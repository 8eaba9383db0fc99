"""What advice is asked about: what was measured, and what is supposed in place of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from django.db import connections

from django_poolkit.conf.databases import pool_config
from django_poolkit.control.measured import GIVEN, Kind
from django_poolkit.control.servers import pooled_aliases
from django_poolkit.pools import budget as budgets
from django_poolkit.pools.config import PoolConfig
from django_poolkit.pools.queueing import Load
from django_poolkit.pools.sizing import UseTimes

_DAY: Final = 86_400.0


class AdviceError(Exception):
    """What was asked for makes no sense, or lacks something; the message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is to be advised on: what is measured, or what would be if."""

    target: float = 0.05
    """Seconds that 99 of 100 acquires wait at most."""
    times: float = 1.0
    """How many times the load."""
    since_start: bool = False
    command: str | None = None
    requests_per_second: float | None = None
    """Of all processes together."""
    leases_per_request: float | None = None
    use: float | None = None
    """Seconds for which a connection is leased, on average."""
    threads: int | None = None
    """Callers that a process has at once, at most."""
    workers: int | None = None
    """Processes on each host, in place of those that are there."""
    hosts: int = 1
    max_connections: int | None = None
    spare: int = budgets.SPARE


def select(
    everything: Sequence[Kind], question: Question, aliases: Sequence[str]
) -> tuple[list[Kind], list[Kind]]:
    """Return the kinds of processes that are meant, with what is supposed of them, and the rest.

    Raises AdviceError where it cannot be told what is meant.
    """
    chosen = [kind for kind in everything if _wanted(kind, question, aliases)]
    if question.requests_per_second is not None or question.use is not None:
        chosen = [_supposed(kind, question) for kind in _one(chosen, question, aliases)]
    if question.workers is not None and question.requests_per_second is None and chosen:
        chosen = [kind.spread(question.workers) for kind in _one(chosen, question, aliases)]
    keys = {(kind.pool, kind.command) for kind in chosen}
    return chosen, [kind for kind in everything if (kind.pool, kind.command) not in keys]


def _wanted(kind: Kind, question: Question, aliases: Sequence[str]) -> bool:
    if question.command is not None and kind.command != question.command:
        return False
    return not aliases or not set(kind.aliases).isdisjoint(aliases)


def _one(chosen: list[Kind], question: Question, aliases: Sequence[str]) -> list[Kind]:
    """Return the only kind of processes that a supposition can be about.

    Those that hardly do anything are left out. Where there is none, one is made up.
    """
    busy = [kind for kind in chosen if kind.load] or chosen
    if len(busy) > 1:
        kinds = ", ".join(f"{kind.pool!r} in {kind.command!r}" for kind in busy)
        raise AdviceError(
            f"there are several kinds of pools: {kinds}. Say which one is meant, by --database "
            "and --command"
        )
    if busy:
        return busy
    names = list(aliases) or pooled_aliases()
    if len(names) != 1:
        raise AdviceError("no process runs: say by --database which alias is meant")
    config = config_of(names[0])
    return [
        Kind(
            pool=names[0], aliases=(names[0],), command=question.command or "",
            mode=config.mode, pids=(), max_size=config.max_size, source=GIVEN, load=None,
        )
    ]  # fmt: skip


def _supposed(kind: Kind, question: Question) -> Kind:
    """Return the kind with what the question says in place of what was measured."""
    load, processes = kind.load, processes_of(kind, question)
    if question.use is not None:
        use = UseTimes.exponential(question.use)
    elif load is not None:
        use = load.use
    else:
        raise AdviceError(
            "nothing is measured yet: say by --use-seconds for how long a connection is leased"
        )
    held = load.held if load else 0
    if question.requests_per_second is not None:
        rate = question.requests_per_second * _leases(kind, question) / processes
        load = Load(asked=((60.0, rate),), use=use, held=held)
        return replace(kind, load=load, average=rate, source=GIVEN, waits=None, use_p99=None)
    if load is None:
        raise AdviceError(
            "nothing is measured yet: say by --requests-per-second how many requests come"
        )
    return replace(kind, load=replace(load, use=use), use_p99=None)


def _leases(kind: Kind, question: Question) -> float:
    if question.leases_per_request is not None:
        return question.leases_per_request
    if "transaction" in kind.mode:
        raise AdviceError(
            "in transaction mode a request leases a connection for each statement or block: say "
            "by --leases-per-request how often that is"
        )
    return 1.0


def processes_of(kind: Kind, question: Question) -> int:
    """Return how many processes of a kind there are on all hosts, or would be."""
    return (question.workers or len(kind.pids) or 1) * question.hosts


def config_of(alias: str) -> PoolConfig:
    """Return the options of an alias, or those of the alias to which a host belongs."""
    name = alias.partition("/")[0]
    if name in connections.settings and name in pooled_aliases():
        return pool_config(name, connections[name].settings_dict) or PoolConfig()
    return PoolConfig()


def patience_of(alias: str) -> float:
    """Return the seconds for which callers of an alias wait at most; a day where that is endless.

    Neither a simulation nor JSON nor `pgbouncer.ini` has room for endless ones.
    """
    return min(config_of(alias).timeout, _DAY)
