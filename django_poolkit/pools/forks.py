"""What is to be done in a forked child, whoever forks it.

uWSGI forks in C, after the application has been loaded, and tells Python nothing of it unless it
is made to: what `os.register_at_fork()` knows is not called, and each worker would go on with the
connections of the process that it was forked from, all of them on the same sockets. But it calls a
function of its own module in each worker: ours are called from there.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

logger = logging.getLogger("django_poolkit.pool")

_process = os.getpid()
_functions: list[Callable[[], object]] = []


def in_child(function: Callable[[], object]) -> None:
    """Have `function` called in each forked child, in the order of these calls."""
    os.register_at_fork(after_in_child=function)
    _functions.append(function)


def _told() -> None:
    global _process
    _process = os.getpid()


def tell() -> None:
    """Call all that is to be called in a forked child, if this is one and nobody has."""
    if os.getpid() == _process:
        return
    # Before anything is logged: a thread that only the parent has may be doing so, for ever.
    getattr(logging, "_after_at_fork_child_reinit_locks", _told)()
    # Else the threads of the parent would be taken to live.
    getattr(threading, "_after_fork", _told)()
    for function in _functions:
        try:
            function()
        except Exception as error:  # the others are none the worse for it
            logger.warning("event=fork_failed error=%s", type(error).__name__, exc_info=True)
    logger.warning(
        "event=untold_fork: uWSGI has forked without telling Python. The pools have begun anew, "
        "but other libraries know nothing of it; its option --lazy-apps avoids that"
    )


def watch(server: Any) -> None:
    """Have uWSGI, whose module `server` is, call `tell()` in each worker that it forks."""
    before = getattr(server, "post_fork_hook", None)

    def post_fork_hook() -> None:
        tell()
        if before is not None:
            before()

    server.post_fork_hook = post_fork_hook


def _uwsgi() -> Any:
    try:
        server = importlib.import_module("uwsgi")  # which there is inside of it alone
    except ImportError:
        return None
    with suppress(ImportError):  # or it would take the place of the hook later
        importlib.import_module("uwsgidecorators")
    return server


in_child(_told)
if (_server := _uwsgi()) is not None:
    watch(_server)
