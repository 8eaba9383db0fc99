"""What a process does before it opens a pool: it shows itself, and obeys the orders that stand."""

from __future__ import annotations

import atexit

from django_poolkit import registry
from django_poolkit.conf.control import control_config
from django_poolkit.control import answers, orders, server
from django_poolkit.session_table import Measured


def join(pool: Measured) -> None:
    """Serve the control socket of this process, and pause the pool if that has been ordered.

    Called by `registry.pools.events.before_open`. In this order: who pauses posts the order
    first, and then looks for sockets.
    """
    config = control_config()
    if not config.enabled:
        return
    server.ensure_started(config, answers.HANDLERS, answers.STEERING, ticks=(answers.sample,))
    registry.pools.events.subscribe(answers.lately.observe, waits=False)
    atexit.unregister(_leave)
    atexit.register(_leave)  # or finalizers would tell a module that is gone already
    # So that what it does before the first tick is of the last minute, too.
    answers.sample()
    names = (pool.name, *pool.aliases)
    open_paused = getattr(pool, "open_paused", None)  # a client session cannot be paused
    if open_paused is not None and (left := orders.pause_left(config, names)):
        open_paused(left)
        if not orders.pause_left(config, names):
            # Resumed since the orders were read, perhaps before it was paused here.
            pool.resume()  # type: ignore[attr-defined]


def _leave() -> None:
    registry.pools.events.unsubscribe(answers.lately.observe)
