"""Which idle connections are to go, decided on a clock and not on the next return."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from django_poolkit.pools.chance import chance
from django_poolkit.pools.config import PoolConfig
from django_poolkit.pools.postgres.connection import PoolConnection

# HikariCP spreads lifetimes by 25 % since 6.1.0, because the 2.5 % before let connections
# that were born together die together.
LIFETIME_SPREAD: Final = 0.25
_SHORTEST_ROUND: Final = 0.05
_LONGEST_ROUND: Final = 30.0


def lifetime(max_lifetime: float) -> float:
    """Return the seconds one connection may live: up to a quarter less than the maximum."""
    return max_lifetime * chance.uniform(1.0 - LIFETIME_SPREAD, 1.0)


def interval(config: PoolConfig) -> float:
    """Return the seconds between two rounds: a quarter of the shortest time to be kept."""
    times = [config.max_lifetime, config.max_idle]
    if config.keepalive:
        times.append(config.keepalive)
    if config.leak_after:
        times.append(config.leak_after)
    return min(_LONGEST_ROUND, max(_SHORTEST_ROUND, min(times) / 4))


def next_round(config: PoolConfig, idle: Iterable[PoolConnection], now: float) -> float:
    """Return the seconds to the next round: up to when the first of the idle has had its time.

    A tenth of the interval at least, where more are to go than one round can let go.
    """
    usual = interval(config)
    first = min((connection._expire_at for connection in idle), default=now + usual)
    return min(usual, max(_SHORTEST_ROUND, usual / 10, first - now))


@dataclass(slots=True)
class Round:
    """What one round found among the idle connections."""

    retire: list[tuple[PoolConnection, str]] = field(default_factory=list)
    """To be closed now, each with its reason."""
    replace: int = 0
    """Connections to open before as many old ones can go."""
    probe: list[PoolConnection] = field(default_factory=list)
    """To be asked whether they live."""


def inspect(
    idle: Iterable[PoolConnection],
    *,
    config: PoolConfig,
    min_size: int,
    size: int,
    room: int,
    replacing: int,
    connecting: int,
    now: float,
) -> Round:
    """Sort the idle connections, longest idle first, into those that go and those that stay.

    `size` is the size of the pool, `room` what it may still grow by, `replacing` the number
    of replacements under way, `connecting` that of all connects. A connection that the pool
    needs for its `min_size` goes when its replacement has come; in a pool without room it goes
    first, one a round, and not before the last one has been replaced.
    """
    found = Round()
    spare = size - replacing - min_size
    if not room and not connecting:
        spare = max(spare, 1)
    for connection in idle:
        expired = connection._expire_at <= now
        if expired or now - connection._idle_since > config.max_idle:
            if spare > 0 and (expired or size - len(found.retire) > min_size):
                spare -= 1
                found.retire.append((connection, "max_lifetime" if expired else "max_idle"))
            elif expired:
                found.replace += 1
        elif config.keepalive and now - connection._used_at > config.keepalive:
            found.probe.append(connection)
    found.replace = max(0, min(found.replace, room) - replacing) if room else 0
    return found
