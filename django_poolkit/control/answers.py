"""What a process says of itself and its pools, and what it does to them when it is told to.

The commands behind the control socket. All return at once: who pauses or kills asks again until
what was ordered has come about.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import django

import django_poolkit
from django_poolkit.conf.control import control_config
from django_poolkit.control.lately import Lately
from django_poolkit.control.orders import LONGEST
from django_poolkit.control.protocol import BadArguments
from django_poolkit.control.recent import Recent
from django_poolkit.pools.forks import in_child
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.postgres.naming import host_mark
from django_poolkit.registry import asyncpg, pools, process, sessions
from django_poolkit.routing.monitor import monitor
from django_poolkit.session_table import Measured

if TYPE_CHECKING:
    from django_poolkit.pools.asyncpg.pool import AsyncpgPool

Pool: TypeAlias = "ConnectionPool | AsyncpgPool"
Arguments = Mapping[str, Any]
Answer = dict[str, Any]

MOST_LEASES: Final = 1000
"""Leases of a pool that are described, the oldest of them."""
LARGEST: Final = 262_143
"""The most connections that PostgreSQL's `max_connections` allows. To plan for more of them, as a
slip of the hand may ask, costs a process its memory, and no scrape can tell of such numbers."""

recent = Recent()
in_child(recent.after_fork)
lately = Lately()
in_child(lately.after_fork)


def sample() -> None:
    """Take what is told of the time that has passed. Blocks while the pools' locks are held."""
    recent.sample()
    lately.sample()


def status(arguments: Arguments) -> Answer:
    """Say everything of this process. `leases`, `pins` and `history` ask for more, `databases` for
    less, and `steerable` for what can be steered."""
    config = control_config()
    chosen = _chosen(arguments)
    told: list[Measured] = [*chosen, *_sessions(arguments)]
    answer: Answer = {
        "pid": process.pid,
        "uid": os.geteuid(),
        "host": host_mark(),
        "service": config.service,
        "command": process.command,
        "started": process.started,
        "age": process.age,
        "draining": process.draining,
        "steering": bool(config.steering),
        "django": django.get_version(),
        "version": django_poolkit.__version__,
        "pools": [_described(each) for each in told],
        "members": _members(arguments),
    }
    if _flag(arguments, "leases"):
        answer["leases"] = [lease for pool in chosen for lease in _leases(pool)]
    if _flag(arguments, "history"):
        for each, described in zip(told, answer["pools"], strict=True):
            described["history"] = lately.of(each)
        answer["events"] = lately.events()
    if _flag(arguments, "pins"):
        answer["observations"] = {
            pool.name: pool.observations().as_dict()
            for pool in chosen
            if isinstance(pool, ConnectionPool) and pool.config.observe
        }
        answer["rds_proxy"] = {
            pool.name: pool.statements.proxied.rows()
            for pool in chosen
            if isinstance(pool, ConnectionPool) and pool.statements.proxied is not None
        }
    return answer


def pause(arguments: Arguments) -> Answer:
    """Give nothing out for `seconds`; connections are closed as they come home.

    Not beyond `until`, by the wall clock: who was frozen may read this long after it was sent.
    """
    seconds = _number(arguments, "seconds")
    if seconds is None or not 0 < seconds <= LONGEST:
        raise BadArguments(f"seconds must be a number above 0, and at most {LONGEST:g}")
    if (until := _number(arguments, "until")) is not None:
        seconds = min(seconds, until - time.time())
    if seconds <= 0:
        raise BadArguments("until has passed, so that this pause is over before it begins")
    return _each("pause", arguments, lambda pool: pool.pause(seconds))


def resume(arguments: Arguments) -> Answer:
    """End a pause."""
    return _each("resume", arguments, lambda pool: pool.resume())


def recycle(arguments: Arguments) -> Answer:
    """Replace all connections as they come home."""
    return _each("recycle", arguments, lambda pool: pool.recycle())


def resize(arguments: Arguments) -> Answer:
    """Change `min_size`, `max_size` or both. A size that is not named stays, if it can."""
    low, high = _size(arguments, "min_size"), _size(arguments, "max_size")
    if low is None and high is None:
        raise BadArguments("min_size, max_size or both must be given")
    chosen = _chosen(arguments)
    for pool in chosen:  # all of them, or none
        _sizes(pool, low, high)
    for pool in chosen:
        pool.resize(*_sizes(pool, low, high))
    return _outcome(chosen)


def drain(arguments: Arguments) -> Answer:
    """Have this process's readiness fail; what it serves goes on."""
    process.drain()
    return _outcome([])


def undrain(arguments: Arguments) -> Answer:
    """Take that back."""
    process.undrain()
    return _outcome([])


def kill_lease(arguments: Arguments) -> Answer:
    """Take the connection of one lease, by `pool` and `key`, away from its owner."""
    name, key = arguments.get("pool"), arguments.get("key")
    if not isinstance(name, str) or not isinstance(key, int) or isinstance(key, bool):
        raise BadArguments("pool must be a pool's name, and key a whole number")
    for pool in (*pools, *asyncpg):
        if pool.name == name and pool.kill(key):
            return _outcome([pool])
    raise BadArguments("there is no such lease: it has ended, or never was")


HANDLERS: Final[Mapping[str, Callable[[Arguments], Answer]]] = {
    "status": status,
    "pause": pause,
    "resume": resume,
    "recycle": recycle,
    "resize": resize,
    "drain": drain,
    "undrain": undrain,
    "kill_lease": kill_lease,
}
"""What is done, by the word for it."""
STEERING: Final = frozenset(HANDLERS) - {"status"}
"""What only those may ask for who may steer."""


def _described(measured: Measured) -> Answer:
    stats = measured.stats()
    return stats.as_dict() | {
        "utilization": stats.utilization,
        "saturated": stats.saturated,
        "recent": recent.of(measured, stats),
    }


def _members(arguments: Arguments) -> list[Answer]:
    """Return the servers of clusters that this process looks at, as far as they are wanted."""
    names = arguments.get("databases")
    return [
        asdict(each)
        for each in monitor.seen()
        if names is None or each.alias in names or each.name in names
    ]


def _leases(pool: Pool) -> list[Answer]:
    found = []
    for lease in pool.leases()[:MOST_LEASES]:
        words = asdict(lease)
        # Outside of a request it is the command that it was acquired for.
        words["where"] = lease.where or process.command
        found.append({"id": f"{process.pid}/{pool.name}/{lease.key}", "pool": pool.name, **words})
    return found


def _each(command: str, arguments: Arguments, act: Callable[[Pool], None]) -> Answer:
    chosen = _chosen(arguments)
    for pool in chosen:
        act(pool)
        lately.note(pool.name, command)
    return _outcome(chosen)


def _outcome(chosen: list[Pool]) -> Answer:
    keys = ("name", "aliases", "state", "pause_left", "min_size", "max_size", "size", "used",
            "idle", "waiters")  # fmt: skip
    found = [pool.stats().as_dict() for pool in chosen]
    return {
        "pid": process.pid,
        "draining": process.draining,
        "pools": [{key: stats[key] for key in keys} for stats in found],
    }


def _chosen(arguments: Arguments) -> list[Pool]:
    """Return the pools that serve one of `databases`, or are called so; all where none are named.

    Only by their names can those be told apart that serve one database.
    """
    names = arguments.get("databases")
    there = [pool for pool in (*pools, *asyncpg) if not pool.ended]
    if names is None:
        return there
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadArguments("databases must be a list of aliases and pools, or absent")
    wanted = set(names)
    return [pool for pool in there if not wanted.isdisjoint((pool.name, *pool.aliases))]


def _sessions(arguments: Arguments) -> list[Measured]:
    """Return the client sessions: they serve no database, and cannot be steered."""
    if arguments.get("databases") is not None or _flag(arguments, "steerable"):
        return []
    return [session for session in sessions if not session.ended]


def _flag(arguments: Arguments, name: str) -> bool:
    value = arguments.get(name, False)
    if not isinstance(value, bool):
        raise BadArguments(f"{name} must be true or false")
    return value


def _number(arguments: Arguments, name: str) -> float | None:
    value = arguments.get(name)
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        with suppress(OverflowError):  # of whole numbers there are longer ones
            return float(value)
    raise BadArguments(f"{name} must be a number")


def _size(arguments: Arguments, name: str) -> int | None:
    value = arguments.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise BadArguments(f"{name} must be a whole number, or absent")
    if value is not None and value > LARGEST:
        raise BadArguments(f"{name} must be at most {LARGEST}, the most that PostgreSQL can have")
    return value


def _sizes(pool: Pool, low: int | None, high: int | None) -> tuple[int, int]:
    sizes = pool.min_size if low is None else low, pool.max_size if high is None else high
    try:
        return pool._check_size(*sizes)
    except ValueError as error:
        raise BadArguments(f"pool {pool.name!r}: {error}") from None
