"""Poolers in between that a project has declared: what each of them keeps for its clients.

One that lends its sessions by transaction leads each transaction of a client to whichever session
is free. What is set in one of them stays there, for whoever comes next. PgBouncer keeps a few
settings for each client, and sets them wherever it leads that. RDS Proxy keeps none: it holds a
client on one session for good as soon as that sets anything.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

Pooler = Literal["pgbouncer-transaction", "pgbouncer-session", "rds-proxy"]

_TRACKED: Final = frozenset(
    ("application_name", "client_encoding", "datestyle", "standard_conforming_strings", "timezone")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What is to be known of a pooler. Names of settings are in small letters; None is any."""

    shares: bool = False
    """Whether it lends its sessions by transaction, so that there is none to be reset."""
    loses: bool = False
    """Whether session state is lost with that, or met by somebody else."""
    at_start: Collection[str] | None = None
    """Settings that it takes in the start-up options."""
    by_statement: Collection[str] | None = None
    """Settings that may be SET, and stay with the client."""

    def takes_at_start(self, setting: str) -> bool:
        """Return whether a setting may be among the start-up options."""
        return self.at_start is None or setting.lower() in self.at_start

    def keeps(self, setting: str) -> bool:
        """Return whether a setting that is SET stays with the client, and costs it nothing."""
        return self.by_statement is None or setting.lower() in self.by_statement


_DIRECT: Final = Traits()
_TRAITS: Final[Mapping[str, Traits]] = {
    "pgbouncer-transaction": Traits(
        shares=True, loses=True, at_start=_TRACKED, by_statement=_TRACKED
    ),
    "pgbouncer-session": Traits(at_start=_TRACKED),
    "rds-proxy": Traits(shares=True, at_start=(), by_statement=()),
}


def traits(pooler: str | None) -> Traits:
    """Return what is to be known of a pooler; of none where none is declared."""
    return _DIRECT if pooler is None else _TRAITS.get(pooler, _DIRECT)


def contradiction(config: Any) -> str | None:
    """Return which option of a pool does not go with its pooler, and why; None if all do.

    `config` is a `PoolConfig`, with a pooler that exists.
    """
    found = traits(config.pooler)
    if not found.shares:
        return None
    name = f"['pooler'] {config.pooler!r}"
    if config.verify_state:
        return f"['verify_state'] asks for the state of one session, and {name} has no such"
    if config.reset != "dirty":
        return (
            f"['reset'] {config.reset!r} is not possible with {name}, which has no session of the "
            "client's to be reset: leave 'reset' out"
        )
    if config.prepare == "pooler":
        return (
            f"['prepare'] 'pooler' says that each client has a session of its own, and {name} that "
            "it has not: write True, which tries the pooler, or False"
        )
    if config.prepare and not found.loses:
        return f"['prepare'] has {name} hold each client on one session: turn it off"
    return None
