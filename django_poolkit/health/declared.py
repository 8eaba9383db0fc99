"""The checks of a project: declared by a decorator, or named in the settings."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Final, TypeVar, get_args, overload

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils.module_loading import import_string

from django_poolkit.conf.health import KIT, is_group
from django_poolkit.health.report import Figures, Reason, Result, Status
from django_poolkit.lifespan import course

logger = logging.getLogger("django_poolkit.health")

F = TypeVar("F", bound=Callable[..., Any])

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}")
# Seconds that a coroutine has to end, when it has been cancelled.
_FAREWELL: Final = 0.2


@dataclass(frozen=True, kw_only=True, eq=False)
class Declared:
    """A check of a project."""

    name: str
    call: Callable[[], Any]
    groups: tuple[str, ...] = ("ready",)
    timeout: float | None = None
    cache: float | None = None
    origin: str = ""
    """Module and name of what was declared."""

    def look(self, seconds: float) -> Result:
        """Call it, and return what it says."""
        try:
            said = self.call()
            if inspect.isawaitable(said):
                said = _waited_for(said, seconds)
        except TimeoutError:
            return Result(name=self.name, status="fail", reason="timeout")
        finally:
            # What it has leased would be held until the next look, or for ever.
            connections.close_all()
        return self._result(said)

    def close(self) -> None:
        """Nothing is kept."""

    def _result(self, said: object) -> Result:
        if said is None or said is True:
            return Result(name=self.name, status="pass")
        if said is False:
            return Result(name=self.name, status="fail", reason="unknown")
        if isinstance(said, str) and said in get_args(Status):
            reason: Reason | None = None if said == "pass" else "unknown"
            return Result(name=self.name, status=said, reason=reason)  # type: ignore[arg-type]
        if isinstance(said, Result) and _is_sound(said):
            return replace(said, name=self.name)
        # Anything else may hold anything, and would be shown.
        logger.error("check=%s event=bad_result type=%s", self.name, type(said).__name__)
        return Result(name=self.name, status="fail", reason="config_error")


def _is_sound(result: Result) -> bool:
    numbers = (result.latency, result.lag)
    return (
        result.status in get_args(Status)
        and (result.reason is None or result.reason in get_args(Reason))
        and all(n is None or (_is_number(n) and math.isfinite(n)) for n in numbers)
        and (result.figures is None or type(result.figures) is Figures)
    )


def _waited_for(said: Awaitable[Any], seconds: float) -> Any:
    """Return the result of a coroutine, run where the resources of the process are open.

    That is the loop of the lifespan; where there is none, one of its own.
    """

    async def bounded() -> Any:
        async with asyncio.timeout(seconds):
            return await said

    span = course.current()
    if span is None or span.closed or not span.loop.is_running():
        return asyncio.run(bounded())
    running = bounded()
    try:
        future = asyncio.run_coroutine_threadsafe(running, span.loop)
    except RuntimeError:  # the loop has been closed meanwhile
        running.close()
        raise
    try:
        return future.result(seconds + _FAREWELL)
    except BaseException:
        future.cancel()
        raise


_declared: dict[str, Declared] = {}


@overload
def check(function: F, /) -> F: ...
@overload
def check(
    name: str | None = None,
    *,
    groups: tuple[str, ...] | list[str] = ("ready",),
    timeout: float | None = None,
    cache: float | None = None,
) -> Callable[[F], F]: ...
def check(function: Any = None, /, **options: Any) -> Any:
    """Declare a check: `@check`, or with options in parentheses, as `@check("disk")`.

    Below stands a function without arguments, `async` or not, or a class whose objects are called
    like one. It passes by returning None or True, and fails by False or by raising; `"warn"` and
    a `Result` say more. Its name is the function's unless one is given; it is a member of the
    `groups`. `timeout` and `cache` are seconds, those of the settings where None.

    Raises TypeError for what cannot be called, ValueError for options that cannot be honoured.
    """
    if callable(function):
        return _declare(function, **options)
    if function is not None:
        return lambda below: _declare(below, function, **options)
    return lambda below: _declare(below, **options)


def _declare(
    function: Any,
    name: str | None = None,
    *,
    groups: tuple[str, ...] | list[str] = ("ready",),
    timeout: float | None = None,
    cache: float | None = None,
) -> Any:
    if not callable(function):
        # Named by mistake, it may be anything, as a dict with passwords.
        kind = type(function).__name__
        raise TypeError(f"a check is a function without arguments; got a {kind}")
    name = name or getattr(function, "__name__", "")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in KIT:
        raise ValueError(
            "the name of a check has at most 40 letters, digits, dots, hyphens and underscores, "
            f"and is none of {', '.join(KIT)}; got {name!r}"
        )
    _refuse(name, groups, timeout, cache)
    module, inner = (getattr(function, key, "") for key in ("__module__", "__qualname__"))
    origin = f"{module}.{inner}"
    before = _declared.get(name)
    # The same function is declared again where its module is loaded again.
    if before is not None and before.origin != origin:
        raise ValueError(f"two checks are called {name!r}: {before.origin} and {origin}")
    _refuse_arguments(name, function)
    call: Any = function
    if inspect.isclass(function):
        call = function()
        _refuse_arguments(name, call)
    _declared[name] = Declared(
        name=name,
        call=call,
        groups=tuple(groups),
        timeout=None if timeout is None else float(timeout),
        cache=None if cache is None else float(cache),
        origin=origin,
    )
    return function


def _refuse(name: str, groups: object, timeout: object, cache: object) -> None:
    if not isinstance(groups, (list, tuple)) or not all(map(is_group, groups)):
        raise ValueError(f"check {name!r}: groups must be a list of names of groups")
    if {"db", "http", "asyncpg"} & set(groups):
        raise ValueError(
            f"check {name!r}: the groups 'db', 'http' and 'asyncpg' have no other members"
        )
    if timeout is not None and not (_is_number(timeout) and 0 < timeout < math.inf):  # type: ignore[operator]
        raise ValueError(f"check {name!r}: timeout must be above 0; got {timeout!r}")
    if cache is not None and not (_is_number(cache) and 0 <= cache < math.inf):  # type: ignore[operator]
        raise ValueError(f"check {name!r}: cache must be 0 or above; got {cache!r}")


def _refuse_arguments(name: str, function: Any) -> None:
    if not callable(function):
        raise TypeError(f"check {name!r} is called without arguments: its objects cannot be called")
    try:
        inspect.signature(function, follow_wrapped=False).bind()
    except ValueError:
        return  # made in C, and says nothing of itself
    except TypeError as error:
        raise TypeError(f"check {name!r} is called without arguments: {error}") from None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def declared(paths: tuple[str, ...]) -> dict[str, Declared]:
    """Return the checks of the project by name. Those at `paths` are imported first.

    Raises ImproperlyConfigured for a path that leads to none.
    """
    for path in paths:
        _load(path)
    return dict(_declared)


def _load(path: str) -> None:
    where = f"POOLKIT['HEALTH']['CHECKS'] names {path!r}, which"
    try:
        found = _imported(path)
    except Exception as error:
        what = type(error).__name__
        if isinstance(error, ModuleNotFoundError):
            what += f", there is no {error.name!r}"
        raise ImproperlyConfigured(f"{where} cannot be imported: {what}") from error
    if inspect.ismodule(found):
        return
    origin = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    if any(known.origin == origin for known in _declared.values()):
        return
    try:
        _declare(found)
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"{where} cannot be one: {error}") from error


def _imported(path: str) -> Any:
    try:
        return import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not (path == error.name or path.startswith(f"{error.name}.")):
            raise
        return import_string(path)
