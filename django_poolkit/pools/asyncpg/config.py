"""The options of an asyncpg pool: their defaults, stated once, and what is refused.

Keys in capitals are ours. Those in small letters are asyncpg's own, and keep their meaning; a few
of them have other defaults here. Nothing in this module needs asyncpg to be installed.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, get_args

from django_poolkit.pools.config import Stacks
from django_poolkit.pools.errors import PoolConfigError

Reset = Literal["dirty", "always"]
Codecs = Literal["django", "asyncpg"]

# asyncpg's, as far as they say nothing of where the server is and who one is there. What the
# pool itself goes by:
_OF_THE_POOL: Final[Mapping[str, Any]] = {
    "min_size": 0,
    "max_size": 10,
    "max_queries": 50_000,
    "max_inactive_connection_lifetime": 300.0,
    "setup": None,
    "reset": None,
}
# What each connection is made with:
_OF_THE_CONNECTION: Final = (
    "init", "connect", "connection_class", "record_class", "command_timeout", "timeout",
    "statement_cache_size", "max_cached_statement_lifetime", "max_cacheable_statement_size",
    "server_settings",
)  # fmt: skip
_ELSEWHERE: Final = (
    "dsn", "host", "port", "user", "password", "passfile", "database", "service", "servicefile",
    "ssl", "direct_tls", "target_session_attrs", "krbsrvname", "gsslib",
)  # fmt: skip
_HOOKS: Final = ("setup", "reset", "init", "connect")
_SECONDS: Final = ("TIMEOUT", "BYPASS", "KEEPALIVE", "max_inactive_connection_lifetime")
_POSITIVE: Final = ("MAX_LIFETIME", "PROBE_TIMEOUT", "RECONNECT_CAP", "CLOSE_TIMEOUT")


@dataclass(frozen=True, slots=True, kw_only=True)
class AsyncpgConfig:
    """How one asyncpg pool behaves. Durations are seconds."""

    name: str | None = None
    timeout: float = 5.0
    """`TIMEOUT`: how long an acquire waits before `PoolTimeout`."""
    max_waiting: int = 0
    """`MAX_WAITING`: waiters at most, before `TooManyWaiters`; 0 means no bound."""
    max_lifetime: float = 3600.0
    """`MAX_LIFETIME`: age at which a connection is replaced, less a random share of up to 25 %."""
    bypass: float = 0.5
    """`BYPASS`: idle time below which a connection is handed out without a round trip."""
    probe_timeout: float = 1.0
    """`PROBE_TIMEOUT`: deadline of that round trip; never more than is left of the acquire."""
    keepalive: float = 0.0
    """`KEEPALIVE`: probe connections that have been idle for so long; 0 means never."""
    reconnect_cap: float = 2.0
    """`RECONNECT_CAP`: longest pause between two connect attempts."""
    close_timeout: float = 3.0
    """`CLOSE_TIMEOUT`: how long connections have to say goodbye."""
    reset_policy: Reset = "dirty"
    """`RESET`: reset a returned connection after a statement that left session state behind
    (`dirty`), or after each lease in which a statement ran (`always`)."""
    codecs: Codecs = "django"
    """`CODECS`: whether values are read as Django's fields give them, or as asyncpg does."""
    leak_after: float | None = None
    """`LEAK_AFTER`: warn of a lease held for longer, with the stack that acquired it."""
    stacks: Stacks | None = None
    """`STACKS`: of which leases the acquiring stack is taken, as for the other pools."""
    harmless_functions: frozenset[str] = frozenset()
    """`HARMLESS_FUNCTIONS`: SQL functions of the project that leave no session state behind."""

    min_size: int = 0
    """Connections kept open although nobody needs them, on each event loop."""
    max_size: int = 10
    """Connections at most, on each event loop."""
    max_queries: int = 50_000
    """Queries after which a connection is replaced."""
    max_inactive_connection_lifetime: float = 300.0
    """Idle time after which a connection above `min_size` is closed; 0 means never."""
    setup: Callable[[Any], Awaitable[None]] | None = None
    """Awaited with the connection on each acquire. What it raises discards the connection."""
    reset: Callable[[Any], Awaitable[None]] | None = None
    """Awaited with the connection on each return, after our own reset."""
    connection: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What each connection is made with, of asyncpg's own. Not shown: it may hold secrets."""

    def __post_init__(self) -> None:
        _check(self)

    @property
    def observe(self) -> bool:
        """Whether statements are observed: never, there is no mode to change to."""
        return False

    @classmethod
    def from_options(
        cls, options: Mapping[str, Any], *, path: str = "AsyncpgPool"
    ) -> AsyncpgConfig:
        """Read the options as users write them.

        `path` names the place of the mapping in every error. Raises PoolConfigError.
        """
        values: dict[str, Any] = {}
        connection: dict[str, Any] = {}
        for key, value in options.items():
            if key in _OURS:
                values[_OURS[key]] = value
            elif key in _OF_THE_POOL:
                values[key] = value
            elif key in _OF_THE_CONNECTION:
                connection[key] = value
            elif key in _ELSEWHERE:
                raise PoolConfigError(
                    f"{path}[{key!r}]: where the server is, and who one is there, is said in "
                    "DATABASES for all pools of an alias"
                )
            else:
                raise PoolConfigError(_unknown(key, path))
        names = values.get("harmless_functions", ())
        if isinstance(names, str) or not isinstance(names, Collection):
            raise PoolConfigError(
                _bad("HARMLESS_FUNCTIONS", names, "must be a list of names", path)
            )
        if not all(isinstance(name, str) for name in names):
            raise PoolConfigError(_bad("HARMLESS_FUNCTIONS", names, "must hold strings only", path))
        values["harmless_functions"] = frozenset(names)
        try:
            return cls(**values, connection=connection)
        except PoolConfigError as error:
            raise PoolConfigError(f"{path}{error}") from None


_OURS: Final[Mapping[str, str]] = {
    "RESET" if each.name == "reset_policy" else each.name.upper(): each.name
    for each in fields(AsyncpgConfig)
    if each.name not in (*_OF_THE_POOL, "connection", "name")
}
KEYS: Final = (*_OURS, *_OF_THE_POOL, *_OF_THE_CONNECTION)
"""All options that can be set."""


def _unknown(key: object, path: str) -> str:
    close = difflib.get_close_matches(str(key), KEYS, n=1)
    if not close and (other := str(key).swapcase()) in KEYS:
        close = [other]
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{path}[{key!r}]: there is no such option.{hint}"


def _bad(key: str, value: object, what: str, path: str = "") -> str:
    # What is in the wrong place may be anything, a password too.
    shown = repr(value) if isinstance(value, (int, float, bool, type(None))) else "a value"
    return f"{path}[{key!r}] {what}; got {shown} of type {type(value).__name__}"


def _check(config: AsyncpgConfig) -> None:
    """Raise PoolConfigError for the first value that cannot be honoured."""
    for key, low in {"min_size": 0, "max_size": 1, "max_queries": 1, "MAX_WAITING": 0}.items():
        value = getattr(config, key.lower())
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise PoolConfigError(_bad(key, value, f"must be a whole number of at least {low}"))
    if config.max_size < config.min_size:
        raise PoolConfigError(
            f"['max_size'] ({config.max_size}) is below ['min_size'] ({config.min_size})"
        )
    for key in (*_SECONDS, *_POSITIVE):
        _check_seconds(key, getattr(config, key.lower()), zero=key in _SECONDS)
    if config.leak_after is not None:
        _check_seconds("LEAK_AFTER", config.leak_after, zero=False)
    for key in ("timeout", "command_timeout"):
        if config.connection.get(key) is not None:
            _check_seconds(key, config.connection[key], zero=False)
    for key, value, choices in (
        ("RESET", config.reset_policy, get_args(Reset)),
        ("CODECS", config.codecs, get_args(Codecs)),
        ("STACKS", config.stacks, (None, *get_args(Stacks))),
    ):
        if value not in choices:
            names = " or ".join(repr(choice) for choice in choices if choice is not None)
            raise PoolConfigError(_bad(key, value, f"must be {names}"))
    for key in _HOOKS:
        value = getattr(config, key) if key in _OF_THE_POOL else config.connection.get(key)
        if value is not None and not callable(value):
            raise PoolConfigError(_bad(key, value, "must be a coroutine function, or absent"))
    _check_settings(config.connection.get("server_settings"))


def _check_seconds(key: str, value: object, *, zero: bool) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or math.isnan(value) or value < 0 or (value == 0 and not zero):  # type: ignore[arg-type,operator]
        bound = "0 or more" if zero else "above 0"
        raise PoolConfigError(_bad(key, value, f"must be seconds, {bound}"))


def _check_settings(value: object) -> None:
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise PoolConfigError(_bad("server_settings", value, "must be a dict of names and texts"))
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise PoolConfigError(
                _bad("server_settings", text, "must hold nothing but strings, as {'jit': 'off'}")
            )
