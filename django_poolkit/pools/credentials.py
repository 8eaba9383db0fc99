"""Credentials that a function supplies: a token of a cloud, a secret of a vault.

The function is called in a thread of its own, once for all connects that want its answer at a
time, and the answer is kept for a while. Nothing is held meanwhile: no lease, and no lock of a
pool. Nothing here is ever logged or shown: not the answer, nor what the function has raised.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import re
import threading
from collections.abc import Callable, Mapping
from time import monotonic
from types import MappingProxyType
from typing import Any, Final
from weakref import WeakSet

from django_poolkit.pools.errors import CredentialsError, PoolConfigError
from django_poolkit.pools.forks import in_child

Source = Callable[..., Any] | str
"""A function that returns a password, or a mapping of `KEYS`; or the dotted path of one.

One that wants an argument is given a mapping of `PLACE`: a token may be good for one host and one
user only."""
KEYS: Final = ("password", "user", "ttl")
"""What a mapping may hold: the secret, for whom, and for how many seconds it is to be kept."""
PLACE: Final = ("host", "hostaddr", "port", "user", "dbname")
"""What a function that wants an argument is told of the connect, where it is known."""
TTL: Final = 300.0
"""Seconds for which an answer is kept that does not say so itself."""

PATH: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*[.:][^\W\d]\w*")
"""What a dotted path looks like: `package.module.function` or `package.module:function`."""

# Seconds between two calls that a refusal by the server asks for. Where a secret stays wrong, each
# connect is refused, and to ask as often may be dear, or lock an account.
_REFUSALS_APART: Final = 2.0
# Seconds after which a call that has not answered is given up, and the next connect calls again.
# Its thread is left behind, so not more often than that.
_GIVEN_UP: Final = 60.0

logger = logging.getLogger("django_poolkit.pool")


class Credentials:
    """What one pool connects with, by whoever knows it."""

    def __init__(
        self, source: Source, *, ttl: float = TTL, origin: str = "credentials", name: str = ""
    ) -> None:
        self._source = source
        self._ttl = ttl
        self._origin = origin
        """Which line of the settings, for errors."""
        self._name = name
        self._found: tuple[Callable[..., Any], bool] | None = None
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        # Guards the rest. Nothing is called, logged or waited for inside it.
        self._lock = threading.Lock()
        self._kept: Answer | None = None
        self._call: _Call | None = None
        self._refused_at = -_REFUSALS_APART
        self._epoch = 0

    def get(self, given: Mapping[str, Any], timeout: float) -> Answer:
        """Return what to connect with, from memory where it is fresh.

        `given` are the connect parameters. Blocks for `timeout` seconds at most. Raises what
        the function raises, and CredentialsError.
        """
        with self._lock:
            kept, call = self._kept, self._call
            if kept is not None and kept.fresh():
                return kept
            if call is not None and monotonic() - call.started > _GIVEN_UP:
                call = None
            new = call is None
            if call is None:
                call = self._call = _Call(self._epoch)
        if new:
            place = {key: str(given[key]) for key in PLACE if given.get(key)}
            try:
                call.start(self._ask, place)
            except BaseException as error:  # the system gives no thread
                self._end(call, None, error)
                raise
        return self._await(call, timeout)

    def _await(self, call: _Call, timeout: float) -> Answer:
        if not call.done.wait(max(0.0, timeout)):
            seconds = monotonic() - call.started
            raise CredentialsError(f"{self._origin} has given nothing for {seconds:.1f} s")
        if call.error is not None:
            raise call.error
        assert call.answer is not None
        return call.answer

    def _ask(self, call: _Call, place: Mapping[str, Any]) -> None:
        """Call the function, in the call's own thread."""
        answer: Answer | None = None
        failed: BaseException | None = None
        try:
            function, wants_place = self._function()
            given = function(MappingProxyType(place)) if wants_place else function()
            answer = self._read(given)
        except BaseException as error:  # SystemExit too, which would end in this thread
            failed = error
        self._end(call, answer, failed)

    def _end(self, call: _Call, answer: Answer | None, error: BaseException | None) -> None:
        call.answer, call.error = answer, error
        with self._lock:
            if self._call is call:
                self._call = None
            if answer is not None and call.epoch == self._epoch:
                self._kept = answer
        call.done.set()

    def refused(self, answer: Answer) -> bool:
        """Take note that the server did not let `answer` in; return whether to ask again.

        False where that has been tried just now.
        """
        with self._lock:
            if self._kept is not answer:
                return True  # another connect was faster, or it was not kept at all
            now = monotonic()
            if now - self._refused_at < _REFUSALS_APART:
                return False
            self._refused_at = now
            self._kept = None
            return True

    def forget(self) -> None:
        """Have the next connect ask anew. What a call under way brings is for its own callers."""
        with self._lock:
            self._kept = self._call = None
            self._epoch += 1

    # -- what is called, and what it returns

    def _function(self) -> tuple[Callable[..., Any], bool]:
        """Return the function, and whether it wants the place that it is for."""
        if self._found is None:
            function = function_of(self._source, self._origin)
            self._found = function, wants_an_argument(function)
        return self._found

    def _read(self, given: Any) -> Answer:
        values = given if isinstance(given, Mapping) else {"password": given}
        if unknown := sorted(str(key) for key in values if key not in KEYS):
            # Names alone, and not too many: somebody may have mixed up the two.
            keys = ", ".join(repr(key) for key in KEYS)
            raise CredentialsError(
                f"{self._origin} returned {len(unknown)} entries beside {keys}: give no others"
            )
        for key in ("password", "user"):
            value = values.get(key)
            missing = key == "password" and not value
            if missing or not (isinstance(value, str) or key not in values):
                if inspect.iscoroutine(value):
                    value.close()
                    kind = "a coroutine: it must be a plain function"
                else:
                    kind = "an empty text" if value == "" else type(value).__name__
                where = f" as {key!r}" if isinstance(given, Mapping) else ""
                raise CredentialsError(
                    f"{self._origin} returned {kind}{where}, not a {key} as a str"
                )
        ttl = values.get("ttl", self._ttl)
        if isinstance(ttl, bool) or not isinstance(ttl, (int, float)) or not ttl >= 0:
            raise CredentialsError(
                f"{self._origin} returned {type(ttl).__name__} as 'ttl', not seconds of 0 or more"
            )
        return Answer({key: values[key] for key in ("user", "password") if key in values}, ttl)

    def __repr__(self) -> str:
        return f"<Credentials of pool {self._name!r}>"


def supplier(
    source: Source | None, ttl: float, origins: Mapping[str, str], name: str
) -> Credentials | None:
    """Return what supplies the credentials of a pool, None where its parameters hold them."""
    if source is None:
        return None
    origin = origins.get("credentials", "['credentials']")
    return Credentials(source, ttl=ttl, origin=origin, name=name)


class Answer:
    """What a function supplied. Does not show it."""

    __slots__ = ("_until", "params")

    def __init__(self, params: Mapping[str, str], ttl: float) -> None:
        self.params = params
        """`password` and, where it was told, `user`."""
        self._until = monotonic() + ttl

    def fresh(self) -> bool:
        """Return whether it is to be used for another connect."""
        return monotonic() < self._until

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Answer) and self.params == other.params

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "<Answer>"


class _Call:
    """One call of the function. Written by its thread, read once `done` is set."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.started = monotonic()
        self.done = threading.Event()
        self.answer: Answer | None = None
        self.error: BaseException | None = None

    def start(self, work: Callable[..., None], place: Mapping[str, Any]) -> None:
        thread = threading.Thread(
            target=work, args=(self, place), name="poolkit-credentials", daemon=True
        )
        thread.start()


def wants_an_argument(function: Callable[..., Any]) -> bool:
    """Return whether a function cannot be called without an argument.

    Raises PoolConfigError where it wants more than one.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # one in C that does not tell
        return False
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (2, 4)]
    if len(needed) > 1 or any(p.kind == p.KEYWORD_ONLY for p in needed):
        raise PoolConfigError("must be a function of no argument, or of one: where it connects to")
    return bool(needed)


class _ByPath:
    """A function that is imported when it is first called."""

    def __init__(self, path: str, origin: str) -> None:
        self._path, self._origin = path, origin

    def __call__(self, place: Mapping[str, str]) -> Any:
        function = self._import()
        return function(place) if wants_an_argument(function) else function()

    def _import(self) -> Callable[..., Any]:
        module, name = re.split(r"[.:](?=\w+$)", self._path)
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise CredentialsError(
                f"{self._origin}: {self._path!r} cannot be imported ({type(error).__name__})"
            ) from error
        if not callable(found):
            raise CredentialsError(f"{self._origin}: {self._path!r} is no function")
        return found  # type: ignore[no-any-return]


def function_of(source: Source, origin: str = "credentials") -> Callable[..., Any]:
    """Return a source as a function, one that is named by its path included. Imports nothing."""
    return _ByPath(source, origin) if isinstance(source, str) else source


def resolved(
    params: Mapping[str, Any], *, origin: str = "PASSWORD", timeout: float = 30.0
) -> dict[str, Any]:
    """Return connect parameters for one connection beside all pools.

    A `password` that is a function is asked. Blocks and raises as `Credentials.get()`.
    """
    password = params.get("password")
    if not callable(password):
        return dict(params)
    answer = Credentials(password, origin=origin).get(params, timeout)
    return {**params, **answer.params}


_all: WeakSet[Credentials] = WeakSet()


def _after_fork() -> None:
    # The thread of a call is the parent's alone, as whoever holds the lock may be.
    for credentials in list(_all):
        kept = credentials._kept
        credentials._begin()
        credentials._kept = kept


in_child(_after_fork)
