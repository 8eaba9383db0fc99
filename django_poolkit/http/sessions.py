"""The client sessions of `POOLKIT["HTTP"]` by name. Loads aiohttp when the first is asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from django_poolkit import registry
from django_poolkit.conf.http import http_config, http_names

if TYPE_CHECKING:
    from django_poolkit.http.shared import SharedClientSession


class ClientSessions(Mapping[str, "SharedClientSession"]):
    """The shared client sessions: `await client_sessions["default"].get(url)`.

    One is made when it is first asked for, and opened with its first request. Raises KeyError
    for a name that is not in `POOLKIT["HTTP"]`, ImproperlyConfigured for settings that cannot be
    honoured or where aiohttp is missing, and PoolClosed once the process is shutting down.
    """

    def __getitem__(self, name: str) -> SharedClientSession:
        return registry.sessions.get(name, _make)

    def __iter__(self) -> Iterator[str]:
        return iter(http_names())

    def __len__(self) -> int:
        return len(http_names())


client_sessions = ClientSessions()


@asynccontextmanager
async def resource(name: str) -> AsyncIterator[SharedClientSession]:
    """Open a client session on the running event loop, and close it for good, on all loops."""
    session = client_sessions[name]
    await session.open()
    try:
        yield session
    finally:
        await session.close()


def verify() -> None:
    """Check all of `POOLKIT["HTTP"]`; aiohttp's options where it is installed. Opens nothing.

    Raises ImproperlyConfigured for the first value that cannot be honoured.
    """
    for name in http_names():
        verify_one(name)


def verify_one(name: str) -> None:
    """Check one client session of `POOLKIT["HTTP"]`, as `verify()` does for all."""
    config = http_config(name)
    if find_spec("aiohttp"):
        _require_aiohttp()
        from django_poolkit.http import options

        options.read(config)


def _make(name: str) -> SharedClientSession:
    config = http_config(name)
    _require_aiohttp()
    from django_poolkit.http.shared import SharedClientSession

    return SharedClientSession(config)


def _require_aiohttp() -> None:
    needed = "POOLKIT['HTTP'] needs aiohttp 3.14 or later: pip install django-poolkit[http]"
    try:
        import aiohttp
    except ModuleNotFoundError as error:
        if error.name != "aiohttp":
            raise
        raise ImproperlyConfigured(needed) from error
    # Those before unpack whatever comes at once, before anybody could count it.
    if tuple(map(int, aiohttp.__version__.split(".")[:2])) < (3, 14):
        raise ImproperlyConfigured(f"{needed}. This is {aiohttp.__version__}.")


def _settings_changed(*, setting: str, **kwargs: Any) -> None:
    if setting == "POOLKIT":  # in a test
        registry.sessions.close_all(1.0)


setting_changed.connect(_settings_changed)
