"""The options of a PostgreSQL pool: their defaults, stated once, and what is refused.

Keys keep psycopg_pool's spelling where it has them. A bad value is never repaired: it raises
`PoolConfigError` with the key, the type of the value, and what to write instead.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Final, Literal, get_args

from django_poolkit.pools import credentials as supplied
from django_poolkit.pools.errors import PoolConfigError
from django_poolkit.pools.poolers import Pooler, contradiction, traits
from django_poolkit.pools.presets import applied

ResetPolicy = Literal["dirty", "request", "always"]
Mode = Literal["session", "transaction"]
AtomicLease = Literal["lazy", "eager"]
Stacks = Literal["all", "sampled", "none"]
Prepare = Literal[False, True, "pooler"]

# Guards that PostgreSQL or libpq keep for us, by their own names.
# PostgreSQL's are sent as start-up options, libpq's as connection parameters.
SERVER_GUARDS: Final = (
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "transaction_timeout",
)
LIBPQ_GUARDS: Final = (
    "connect_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
)
_WITH_UNIT = re.compile(r"^(0|\d+(\.\d+)?\s*(us|ms|s|min|h|d))$")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """How one pool behaves. Durations are seconds."""

    mode: Mode = "session"
    """When a lease ends: with the request (`session`), or with the statement, inside `atomic()`
    with the block (`transaction`). For Django's connections; a bare pool has no mode."""
    atomic_lease: AtomicLease = "lazy"
    """In transaction mode: whether `atomic()` acquires at its first statement (`lazy`), or at
    once, before the side effects of the block (`eager`)."""
    observe: bool = False
    """In session mode: count by call site what transaction mode would pin, and save."""
    verify_state: bool = False
    """For tests: ask the server at each release for session state that no text showed. A round
    trip; raises SessionStateLeft."""
    min_size: int = 0
    """Connections kept open although nobody needs them."""
    max_size: int = 10
    """Connections of this pool in this process, at most."""
    timeout: float = 5.0
    """How long an acquire waits before `PoolTimeout`."""
    max_waiting: int = 0
    """Waiters at most, before `TooManyWaiters`; 0 means no bound."""
    max_lifetime: float = 3600.0
    """Age at which a connection is replaced, less a random share of up to 25 %."""
    max_idle: float = 600.0
    """Idle time after which a connection above `min_size` is closed."""
    reconnect_timeout: float = 300.0
    """Outage after which `reconnect_failed` is called. Attempts go on."""
    reconnect_failed: Callable[[Any], None] | None = None
    """Called in a worker thread, once an outage, with the pool."""
    reconnect_cap: float = 2.0
    """Longest pause between two connect attempts."""
    num_workers: int = 3
    """Threads that connect, and so the connects at once."""
    bypass: float = 0.5
    """Idle time below which a connection is handed out without a round trip."""
    probe_timeout: float = 1.0
    """Deadline of that round trip; never more than what is left of the acquire."""
    keepalive: float = 0.0
    """Probe connections that have been idle for so long; 0 means never."""
    reset: ResetPolicy = "request"
    """Whether a returned connection is reset: after a statement that left session state
    behind (`dirty`, the default in transaction mode), after any statement that the ORM did not
    write (`request`), or `always`."""
    reset_callback: Callable[[Any], None] | None = None
    """psycopg_pool's `reset` callable, run inline on each return."""
    check: Callable[[Any], None] | None = None
    """Called with the connection on each acquire; an exception discards it."""
    configure: Callable[[Any], None] | None = None
    """Called with each new connection, and after each reset, which undoes what it SET. Has to
    leave the connection idle."""
    leak_after: float | None = None
    """Warn of a lease held for longer, with the stack that acquired it."""
    stacks: Stacks | None = None
    """Of which leases the acquiring stack is taken: of `all`, of `sampled` ones (one a
    millisecond at most), or of `none`. None means all where `leak_after` is set, else
    sampled ones."""
    prepare: Prepare = False
    """Prepare statements that repeat. A pooler in between has to keep track of them, and is tried
    at each connect: `pooler` declares that it need not be."""
    prepared_max: int = 100
    """Prepared statements that a connection keeps, at most; the longest unused go."""
    pooler: Pooler | None = None
    """Which pooler stands in between, if any. None means that none is known of; then one is
    looked for, and warned of."""
    credentials: supplied.Source | None = field(default=None, repr=False)
    """Supplies the password, and the user if it likes: a function, or its dotted path. Called in
    a thread of its own, for new connections alone."""
    credentials_ttl: float = supplied.TTL
    """How long what it has supplied is used; 0 means for the connects that wait for it."""
    harmless_functions: frozenset[str] = frozenset()
    """SQL functions of the project that leave no session state behind."""
    trusted_modules: tuple[str, ...] = ()
    """Python packages whose statements count as the ORM's own."""
    shares: Mapping[str, float] | None = None
    """By the name of a view, task or command, or of a `share()`: the part of `max_size`, above 0
    and up to 1, that it may hold at once; at least one connection."""
    name: str | None = None
    retry_reads: bool = False
    """Whether a read outside of transactions whose connection breaks is made once more, on another
    one. For Django's connections; never a statement that may write."""
    close_returns: bool = False
    """Whether closing a psycopg connection gives it back, as SQLAlchemy's NullPool needs."""
    guards: Mapping[str, str | int] | None = None
    """Server-side and libpq guards, by their own names."""

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, path: str = "pool") -> PoolConfig:
        """Read the options as users write them; what a `preset` stands for is filled in.

        `path` names the place of the mapping in every error. Raises PoolConfigError.
        """
        try:
            values = applied(options)
        except PoolConfigError as error:
            raise PoolConfigError(f"{path}{error}") from None
        guards: dict[str, str | int] = {}
        for key in (*SERVER_GUARDS, *LIBPQ_GUARDS):
            if key in values:
                guards[key] = values.pop(key)
        reset = values.get("reset")
        if callable(reset):
            values["reset_callback"] = values.pop("reset")
        if values.get("max_size", MISSING) is None:
            # psycopg_pool: None means a pool of the fixed size min_size.
            values["max_size"] = values.get("min_size", cls.default("min_size"))
        for key in ("trusted_modules", "harmless_functions"):
            if key in values:
                values[key] = _names(values[key], key, path)
        shared = traits(values.get("pooler")).shares
        if (values.get("mode") == "transaction" or shared) and "reset" not in options:
            values["reset"] = "dirty"  # what may leave state behind is pinned, and so told apart
        known = {f.name for f in fields(cls)} - {"guards", "reset_callback"}
        for key in values.keys() - known - {"reset_callback"}:
            raise PoolConfigError(_unknown(key, known | {"preset"}, path))
        if "reset_callback" in options:
            raise PoolConfigError(_unknown("reset_callback", known, path))
        try:
            return cls(**values, guards=guards or None)
        except PoolConfigError as error:
            raise PoolConfigError(f"{path}{error}") from None

    @classmethod
    def default(cls, key: str) -> Any:
        """Return the default of one option."""
        return next(f.default for f in fields(cls) if f.name == key)


def _unknown(key: str, known: Collection[str], path: str) -> str:
    near = _near(str(key), [*known, *SERVER_GUARDS, *LIBPQ_GUARDS], end="")
    return f"{path}[{key!r}]: there is no such option.{near}"


def _near(word: str, known: Collection[str], *, end: str = ".") -> str:
    import difflib

    close = difflib.get_close_matches(word, known, n=1)
    return f"{end} Did you mean {close[0]!r}?" if close else ""


def _names(value: Any, key: str, path: str) -> tuple[str, ...] | frozenset[str]:
    if isinstance(value, str) or not isinstance(value, Collection):
        raise PoolConfigError(_bad(key, value, "must be a list of names", path))
    if not all(isinstance(name, str) for name in value):
        raise PoolConfigError(_bad(key, value, "must hold strings only", path))
    return frozenset(value) if key == "harmless_functions" else tuple(value)


def _bad(key: str, value: object, what: str, path: str = "") -> str:
    # A collection may hold anything, and a password is what people paste in the wrong place.
    shown = repr(value) if isinstance(value, (int, float, bool, type(None))) else "a value"
    return f"{path}[{key!r}] {what}; got {shown} of type {type(value).__name__}"


_INTEGERS: Final = {
    "min_size": 0, "max_size": 1, "max_waiting": 0, "num_workers": 1, "prepared_max": 1,
}  # fmt: skip
_SECONDS: Final = ("timeout", "reconnect_timeout", "bypass", "keepalive", "credentials_ttl")
_POSITIVE_SECONDS: Final = ("max_lifetime", "max_idle", "reconnect_cap", "probe_timeout")
_CALLABLES: Final = ("reconnect_failed", "reset_callback", "check", "configure")
_FLAGS: Final = ("close_returns", "observe", "retry_reads", "verify_state")


def _check(config: PoolConfig) -> None:
    """Raise PoolConfigError for the first value that cannot be honoured."""
    for key, low in _INTEGERS.items():
        value = getattr(config, key)
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise PoolConfigError(_bad(key, value, f"must be a whole number of at least {low}"))
    if config.max_size < config.min_size:
        raise PoolConfigError(
            f"['max_size'] ({config.max_size}) is below ['min_size'] ({config.min_size})"
        )
    for key in (*_SECONDS, *_POSITIVE_SECONDS):
        _check_seconds(key, getattr(config, key), zero=key in _SECONDS)
    if config.leak_after is not None:
        _check_seconds("leak_after", config.leak_after, zero=False)
    for key in _CALLABLES:
        value = getattr(config, key)
        if value is not None and not callable(value):
            raise PoolConfigError(_bad(key, value, "must be callable, or absent"))
    for key in _FLAGS:
        if not isinstance(getattr(config, key), bool):
            raise PoolConfigError(_bad(key, getattr(config, key), "must be True or False"))
    if not isinstance(config.prepare, bool) and config.prepare != "pooler":
        raise PoolConfigError(_bad("prepare", config.prepare, "must be True, False or 'pooler'"))
    if config.credentials is not None:
        _check_credentials(config.credentials)
    if config.pooler is not None:
        _check_choice("pooler", config.pooler, get_args(Pooler))
        if (wrong := contradiction(config)) is not None:
            raise PoolConfigError(wrong)
    _check_choice("mode", config.mode, get_args(Mode))
    _check_choice("reset", config.reset, get_args(ResetPolicy))
    _check_choice("atomic_lease", config.atomic_lease, get_args(AtomicLease))
    if config.stacks is not None:
        _check_choice("stacks", config.stacks, get_args(Stacks))
    if config.atomic_lease == "eager" and config.mode != "transaction":
        raise PoolConfigError("['atomic_lease'] 'eager' needs ['mode'] 'transaction'")
    if config.observe and config.mode != "session":
        raise PoolConfigError("['observe'] needs ['mode'] 'session': it tells what a change brings")
    if config.name is not None and not (isinstance(config.name, str) and config.name):
        raise PoolConfigError(_bad("name", config.name, "must be a name, or absent"))
    _check_shares(config.shares)
    _check_guards(config.guards or {})


def _check_shares(shares: object) -> None:
    if shares is None:
        return
    if not isinstance(shares, Mapping):
        raise PoolConfigError(_bad("shares", shares, "must be a dict of names and numbers"))
    for name, part in shares.items():
        if not isinstance(name, str) or not name:
            raise PoolConfigError(_bad("shares", name, "must have names for keys"))
        number = isinstance(part, (int, float)) and not isinstance(part, bool)
        if not number or not 0 < part <= 1:  # nan neither
            what = "must be a number above 0, and 1 at most"
            raise PoolConfigError(_bad(name, part, what, "['shares']"))


def _check_seconds(key: str, value: object, *, zero: bool) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or math.isnan(value) or value < 0 or (value == 0 and not zero):  # type: ignore[arg-type,operator]
        bound = "0 or more" if zero else "above 0"
        raise PoolConfigError(_bad(key, value, f"must be seconds, {bound}"))


def _check_credentials(source: object) -> None:
    if isinstance(source, str):
        if not supplied.PATH.fullmatch(source):
            what = "must be a function or its dotted path, as 'shop.database.password'"
            raise PoolConfigError(_bad("credentials", source, what))
        return
    if not callable(source):
        raise PoolConfigError(_bad("credentials", source, "must be a function, or a dotted path"))
    try:
        supplied.wants_an_argument(source)
    except PoolConfigError as error:
        raise PoolConfigError(_bad("credentials", source, str(error))) from None


def _check_choice(key: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        names = " or ".join(repr(choice) for choice in choices)
        # Told is the choice, not what was written, which may be anything.
        meant = _near(value, choices) if isinstance(value, str) else ""
        raise PoolConfigError(_bad(key, value, f"must be {names}") + meant)


def _check_guards(guards: Mapping[str, object]) -> None:
    for key, value in guards.items():
        if key in SERVER_GUARDS:
            # A bare number would be milliseconds to PostgreSQL and seconds to everything else
            # in this mapping: so the unit has to stand beside it.
            if not isinstance(value, str) or not _WITH_UNIT.match(value):
                raise PoolConfigError(
                    _bad(key, value, "must be written with its unit, as '30s' or '500ms'")
                )
        elif not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise PoolConfigError(_bad(key, value, "must be a whole number, as libpq takes it"))
