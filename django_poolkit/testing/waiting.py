"""One bounded wait for a fact."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Fact = TypeVar("Fact")


def wait_until(
    predicate: Callable[[], Fact],
    timeout: float = 10.0,
    message: str | Callable[[], str] = "",
    *,
    interval: float = 0.005,
    error: type[TimeoutError] = TimeoutError,
) -> Fact:
    """Call `predicate` until its answer is true, and return that answer.

    Blocks the calling thread for at most `timeout` seconds (plus one call of
    `predicate`). `message` says what was waited for; a callable is asked only
    when the wait has failed, so it can describe the situation of that moment.

    Raises:
        TimeoutError: (or `error`) the answer was still false at the end.
    """
    deadline = time.monotonic() + timeout
    while True:
        fact = predicate()
        if fact:
            return fact
        if time.monotonic() >= deadline:
            text = message() if callable(message) else message
            raise error(f"not within {timeout:g} s: {text or repr(predicate)}")
        time.sleep(interval)
