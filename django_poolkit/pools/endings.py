"""What is to be done before a process ends, also where Python's exit hooks are not called.

A process that multiprocessing or billiard, Celery's own, has forked ends by `os._exit()`: nothing
that `atexit` knows is called there. Who is told of such an end calls `end()`.
"""

from __future__ import annotations

import atexit
import logging
from collections.abc import Callable
from functools import partial
from typing import ParamSpec

logger = logging.getLogger("django_poolkit.pool")

_P = ParamSpec("_P")
_functions: list[Callable[[], object]] = []


def at_end(function: Callable[_P, object], /, *args: _P.args, **kwargs: _P.kwargs) -> None:
    """Have `function` called before the process ends, after those that were named later.

    It may be called twice, and must mind neither that nor a process that has been forked.
    """
    call = partial(function, *args, **kwargs)
    _functions.append(call)
    atexit.register(call)


def end() -> None:
    """Do what is done at the end of the process. Does not raise."""
    for function in reversed(_functions):
        try:
            function()
        except Exception as error:  # the others are none the worse for it
            logger.warning("event=end_failed error=%s", type(error).__name__, exc_info=True)
