"""Whether gevent has replaced what waits, so that greenlets wait where threads did.

It has to do so before anybody has taken hold of a lock or a function: its own advice, and what
`celery -P gevent` and gunicorn's worker do. Nothing of it is imported here.
"""

from __future__ import annotations

import select
import sys
from typing import Any


def is_patched(module: str) -> bool:
    """Return whether gevent has replaced what waits in a module of the standard library."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched(module))


def poller() -> Any:
    """Return a new object to look at sockets with, and never to wait for them.

    gevent's own would switch to another greenlet for each look, and cost as much.
    """
    if is_patched("select"):
        return sys.modules["gevent.monkey"].get_original("select", "poll")()
    return select.poll()


PATCHED_BEFORE = is_patched("threading")
"""Whether it had done so when this was imported, and the pools with it."""
