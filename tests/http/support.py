"""What several tests of client sessions need."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from django_poolkit.http.shared import SharedClientSession


class MakeSession(Protocol):
    """Makes the client session `api` of these settings, in place of the one before."""

    def __call__(self, **options: Any) -> SharedClientSession: ...


async def until(fact: Callable[[], bool]) -> None:
    """Wait until a fact holds, for ten seconds at most."""
    async with asyncio.timeout(10):
        while not fact():  # noqa: ASYNC110 - threads bring it about
            await asyncio.sleep(0.005)


async def read(session: SharedClientSession, url: str, **options: Any) -> bytes:
    """Return the body of what a GET request brings."""
    async with session.get(url, **options) as response:
        return await response.read()


def said(stderr: str) -> str:
    """Return what a process has complained of, without asyncio's word on a machine that is slow."""
    lines = stderr.splitlines()
    return "\n".join(line for line in lines if not line.startswith("Executing <"))
