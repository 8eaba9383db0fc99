"""`retry_read()` and `aretry_read()`: a call that only reads is made again where its server failed.

What a call does in Python nobody here can undo, and so it is the caller who says that it may be
made again. That it only reads is seen to: what may write is refused before it is sent.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import math
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from time import monotonic
from typing import Any, Final, ParamSpec, TypeVar, cast, overload

from asgiref.sync import sync_to_async
from django.db import DatabaseError, NotSupportedError, connections

from django_poolkit.backends import pausing, ports
from django_poolkit.backends.postgresql.failing import Failed, in_transaction, let_go, look
from django_poolkit.pools import deadline
from django_poolkit.pools.chance import chance

__all__ = ["aretry_read", "retry_read"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

logger = logging.getLogger("django_poolkit.pool")

ATTEMPTS: Final = 3
SECONDS: Final = 5.0
BASE: Final = 0.05
"""Seconds before the second attempt at most; twice as many before each further one."""
LONGEST: Final = 1.0
"""Seconds before an attempt at most."""
# An error is raised from another one: the driver's, Django's, and maybe the project's own.
_CAUSES: Final = 5


class _Attempt:
    """What failed in one attempt. Shared by the threads and tasks in which its function runs."""

    def __init__(self) -> None:
        # Only ever appended to, which is one step.
        self.failures: list[tuple[BaseException, Any, Failed]] = []

    def reason_of(self, error: BaseException) -> Failed | None:
        """Return what failed so that the function raised this."""
        cause: BaseException | None = error
        for _ in range(_CAUSES):
            for failure, _, failed in self.failures:
                if failure is cause:
                    return failed
            cause = cause.__cause__ if cause is not None else None
        return None

    def let_go(self) -> None:
        """Have the wrappers of this thread take connections that are well."""
        for _, wrapper, failed in self.failures:
            if failed.reason == "broken":
                let_go(wrapper)


_current: ContextVar[_Attempt | None] = ContextVar("django_poolkit_retry", default=None)


class _Course:
    """The attempts of one call."""

    def __init__(self, attempts: int, seconds: float) -> None:
        self._left = attempts
        self._until = monotonic() + seconds
        self._number = 0

    def pause(self, attempt: _Attempt, error: BaseException) -> float | None:
        """Return how long to wait for the next attempt, None where there is none."""
        failed = attempt.reason_of(error)
        self._number += 1
        if failed is None or (failed.reason == "broken" and failed.keeps_state):
            return None
        pause = chance.uniform(0.0, min(LONGEST, BASE * 2 ** (self._number - 1)))
        left, bound = self._until - monotonic(), deadline.current()
        if bound is not None:
            left = min(left, bound.left())
        if self._number >= self._left or pause >= left:
            if self._number > 1:
                error.add_note(f"django_poolkit: given up after {self._number} attempts to read")
            return None
        failed.pool.count_repeat("call")
        form = "pool=%s event=call_repeated reason=%s attempt=%d"
        logger.warning(form, failed.pool.name, failed.reason, self._number + 1)
        return pause


@overload
def retry_read(function: Callable[_P, _R], /) -> Callable[_P, _R]: ...
@overload
def retry_read(
    *, attempts: int = ATTEMPTS, seconds: float = SECONDS
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]: ...
def retry_read(
    function: Callable[..., Any] | None = None,
    /,
    *,
    attempts: int = ATTEMPTS,
    seconds: float = SECONDS,
) -> Any:
    """Have a function that only reads be called again where its connection or its server failed.

    A decorator, with or without arguments; `retry_read(function)(…)` is one call. It is called up
    to `attempts` times, after a short wait by chance; none begins later than `seconds` after the
    first, nor after the `deadline()` that holds. Inside of `atomic()`, or of another call of this
    kind, it is called once. What it returns lazily is read after it, and not made again.

    A statement in it that may write raises NotSupportedError, and is not sent. Raises ValueError
    for bounds that make no sense, and TypeError for a coroutine function or a generator.
    """
    _check(attempts, seconds)
    if function is None:
        return functools.partial(_repeating, attempts=attempts, seconds=seconds)
    return _repeating(function, attempts=attempts, seconds=seconds)


@overload
def aretry_read(
    function: Callable[_P, Coroutine[Any, Any, _R]], /
) -> Callable[_P, Coroutine[Any, Any, _R]]: ...
@overload
def aretry_read(
    *, attempts: int = ATTEMPTS, seconds: float = SECONDS
) -> Callable[[Callable[_P, Coroutine[Any, Any, _R]]], Callable[_P, Coroutine[Any, Any, _R]]]: ...
def aretry_read(
    function: Callable[..., Any] | None = None,
    /,
    *,
    attempts: int = ATTEMPTS,
    seconds: float = SECONDS,
) -> Any:
    """Do the same for a coroutine function: with Django's async ORM, in threads or in the bridge.

    A cancellation is no failure, and ends the call at once.
    """
    _check(attempts, seconds)
    if function is None:
        return functools.partial(_repeating_task, attempts=attempts, seconds=seconds)
    return _repeating_task(function, attempts=attempts, seconds=seconds)


def _repeating(function: Callable[_P, _R], *, attempts: int, seconds: float) -> Callable[_P, _R]:
    if inspect.iscoroutinefunction(function):
        raise TypeError(f"{function.__qualname__}() is a coroutine function: use aretry_read()")
    _refuse_generators(function, "retry_read")
    _connect()

    @functools.wraps(function)
    def repeated(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if _current.get() is not None:
            return function(*args, **kwargs)
        course = _Course(attempts if _stands_alone() else 1, seconds)
        while True:
            attempt = _Attempt()
            token = _current.set(attempt)
            try:
                return function(*args, **kwargs)
            except DatabaseError as error:
                if (pause := course.pause(attempt, error)) is None:
                    raise
            finally:
                _current.reset(token)
            attempt.let_go()
            pausing.pause(pause)

    return repeated


def _repeating_task(
    function: Callable[_P, Coroutine[Any, Any, _R]], *, attempts: int, seconds: float
) -> Callable[_P, Coroutine[Any, Any, _R]]:
    _refuse_generators(function, "aretry_read")
    if not inspect.iscoroutinefunction(function):
        name = getattr(function, "__qualname__", type(function).__name__)
        raise TypeError(f"{name}() is no coroutine function: use retry_read()")
    _connect()

    @functools.wraps(function)
    async def repeated(*args: _P.args, **kwargs: _P.kwargs) -> Any:
        if _current.get() is not None:
            return await function(*args, **kwargs)
        course = _Course(attempts if _stands_alone() else 1, seconds)
        while True:
            attempt = _Attempt()
            token = _current.set(attempt)
            try:
                return await function(*args, **kwargs)
            except DatabaseError as error:
                if (pause := course.pause(attempt, error)) is None:
                    raise
            finally:
                _current.reset(token)
            # In Django's thread, where its wrappers are; those of the bridge are gone by now.
            await sync_to_async(attempt.let_go, thread_sensitive=True)()
            await asyncio.sleep(pause)

    return cast("Callable[_P, Coroutine[Any, Any, _R]]", repeated)


def _stands_alone() -> bool:
    """Return whether no transaction is under way here, which would be lost."""
    return not any(map(in_transaction, connections.all(initialized_only=True)))


def _connect() -> None:
    # Until somebody wants it, no statement asks.
    ports.note_failure, ports.refuse_write = _note_failure, _refuse_write


def _note_failure(wrapper: object, error: BaseException) -> None:
    attempt = _current.get()
    if attempt is not None and (failed := look(wrapper, error)) is not None:
        attempt.failures.append((error, wrapper, failed))


def _refuse_write(alias: str) -> None:
    if _current.get() is not None:
        raise NotSupportedError(
            f"a statement on {alias!r} may write, or takes an advisory lock, and retry_read() "
            "would make it twice: move it out. A function of yours that only reads is to stand in "
            f"DATABASES[{alias!r}]['OPTIONS']['pool']['harmless_functions']"
        )


def _check(attempts: object, seconds: object) -> None:
    if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
        shown = attempts if isinstance(attempts, int) else f"a {type(attempts).__name__}"
        raise ValueError(f"attempts must be a whole number of at least 1; got {shown}")
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not number or not 0 < cast(float, seconds) < math.inf:
        given = seconds if number else f"a {type(seconds).__name__}"
        raise ValueError(f"seconds must be above 0 and finite; got {given}")


def _refuse_generators(function: Callable[..., Any], name: str) -> None:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{name}() cannot call the generator {function.__qualname__}() again: its body runs "
            "after the call"
        )
