"""What SQLAlchemy calls the options of a pool, in our words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from django_poolkit.pools.config import LIBPQ_GUARDS, SERVER_GUARDS, PoolConfig
from django_poolkit.pools.errors import PoolConfigError

# SQLAlchemy's own, for the one of the two that is not given.
_POOL_SIZE: Final = 5
_MAX_OVERFLOW: Final = 10
_NEVER: Final = -1
_DATABASES: Final = {
    "host": "HOST", "port": "PORT", "user": "USER", "password": "PASSWORD",
    "dbname": "NAME", "database": "NAME",
}  # fmt: skip
# `-c name=value` and `-cname=value` of libpq's `options`, `--name=value` as well.
_SETTING: Final = re.compile(r"(?:-c\s*|--)([\w.-]+)=((?:\\.|\S)*)\s*")


def from_sqlalchemy(
    *,
    pool_size: int | None = None,
    max_overflow: int | None = None,
    pool_timeout: float | None = None,
    pool_recycle: float | None = None,
    pool_pre_ping: bool | None = None,
    connect_args: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what `OPTIONS["pool"]` has to say for what SQLAlchemy's `create_engine()` was told.

    What is not given stays out, so that our defaults hold. `pool_pre_ping` is accepted and adds
    nothing: each acquire looks whether its connection lives. `pool_recycle=-1` adds nothing either,
    and connections are replaced after an hour all the same. Raises PoolConfigError for what has no
    counterpart, with where it belongs; never with a value of `connect_args`.
    """
    options: dict[str, Any] = {}
    if pool_size is not None or max_overflow is not None:
        options["max_size"] = _max_size(pool_size, max_overflow)
    if pool_timeout is not None:
        options["timeout"] = _number("pool_timeout", pool_timeout)
    if pool_recycle is not None and _number("pool_recycle", pool_recycle) != _NEVER:
        if pool_recycle <= 0:
            raise _bad("pool_recycle", "must be seconds above 0, or -1", pool_recycle)
        options["max_lifetime"] = pool_recycle
    if pool_pre_ping is not None and not isinstance(pool_pre_ping, bool):
        raise _bad("pool_pre_ping", "must be True or False", pool_pre_ping)
    if connect_args is not None:
        if not isinstance(connect_args, Mapping):
            raise _bad("connect_args", "must be a dict", connect_args)
        options.update(_guards(connect_args))
    PoolConfig.from_options(options, path="from_sqlalchemy()")
    return options


def _max_size(pool_size: Any, max_overflow: Any) -> int:
    size = _POOL_SIZE if pool_size is None else _whole("pool_size", pool_size)
    overflow = _MAX_OVERFLOW if max_overflow is None else _whole("max_overflow", max_overflow)
    if size == 0 or overflow == _NEVER:
        name = "pool_size=0" if size == 0 else "max_overflow=-1"
        raise PoolConfigError(
            f"from_sqlalchemy(): {name} stands for a pool without a bound, which there is not "
            "here: say how many connections this process may have, as max_size"
        )
    if size < 0:
        raise _bad("pool_size", "must be a whole number of at least 1", pool_size)
    if overflow < 0:
        raise _bad("max_overflow", "must be a whole number of at least 0", max_overflow)
    return size + overflow


def _guards(connect_args: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in connect_args.items():
        if key in LIBPQ_GUARDS:
            yield key, value
        elif key == "options":
            yield from _of_libpq(value)
        elif key == "server_settings":
            if not isinstance(value, Mapping):
                raise _bad("connect_args['server_settings']", "must be a dict", value)
            for name, setting in value.items():
                yield _guard(name, str(setting), "connect_args['server_settings']")
        else:
            raise PoolConfigError(_elsewhere(key))


def _of_libpq(text: Any) -> Iterator[tuple[str, str]]:
    where = "connect_args['options']"
    if not isinstance(text, str):
        raise _bad(where, "must be a string", text)
    at = len(text) - len(text.lstrip())
    while at < len(text):
        found = _SETTING.match(text, at)
        if found is None:
            raise PoolConfigError(
                f"from_sqlalchemy(): {where} has more in it than '-c name=value': write it into "
                "DATABASES[…]['OPTIONS']['options'], beside 'pool'"
            )
        yield _guard(found[1].replace("-", "_"), found[2].replace("\\", ""), where)
        at = found.end()


def _guard(name: str, value: str, where: str) -> tuple[str, str]:
    if name not in SERVER_GUARDS:
        raise PoolConfigError(
            f"from_sqlalchemy(): {where} sets {name}, which is none of the pool's options: write "
            "it into DATABASES[…]['OPTIONS']['options'], as '-c name=value', beside 'pool'"
        )
    # PostgreSQL takes a bare number for milliseconds; ours have to say so.
    return name, f"{value}ms" if value.isdecimal() and value != "0" else value


def _elsewhere(key: object) -> str:
    place = _DATABASES.get(str(key))
    where = "['OPTIONS'], beside 'pool'" if place is None else f"[{place!r}]"
    return (
        f"from_sqlalchemy(): connect_args[{key!r}] is about the connection and not the pool: write "
        f"it into DATABASES[…]{where}"
    )


def _whole(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _bad(name, "must be a whole number", value)
    return value


def _number(name: str, value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise _bad(name, "must be a number of seconds", value)
    return value


def _bad(name: str, what: str, value: object) -> PoolConfigError:
    shown = repr(value) if isinstance(value, (int, float, bool)) else "a value"
    return PoolConfigError(
        f"from_sqlalchemy(): {name} {what}; got {shown} of type {type(value).__name__}"
    )
