"""A pause between two tries: of the thread, or in the bridge of the task alone."""

from __future__ import annotations

import asyncio
from time import sleep

from django_poolkit.pools.postgres import port


def pause(seconds: float) -> None:
    """Wait for so long. In the bridge others have the thread meanwhile, and it may be cancelled."""
    if type(port.getcurrent()) is port.Greenlet:
        port.await_only(asyncio.sleep(seconds))
    else:
        sleep(seconds)
