"""Requests that hold a connection while they wait for something else."""

from __future__ import annotations

from collections.abc import Iterator

from django.core import checks
from django.core.checks import CheckMessage

from django_poolkit.checks.aliases import client_sessions, pooled
from django_poolkit.checks.timeouts import seconds_of


def slow_blocks() -> Iterator[CheckMessage]:
    """Look for a transaction around each view, where views ask other sites."""
    names = [config.name for config in client_sessions()]
    if not names:
        return
    for alias, _ in pooled():
        if alias.settings["ATOMIC_REQUESTS"]:
            yield checks.Warning(
                f"{alias.path('ATOMIC_REQUESTS')} is on, and POOLKIT['HTTP'] has client sessions "
                f"({', '.join(names)}): a view that has asked the database holds its connection, "
                "in an open transaction, while it waits for their answers.",
                hint="Turn it off, and put transaction.atomic() around what belongs together; or "
                "decorate the views that ask others with transaction.non_atomic_requests.",
                id="poolkit.W022",
            )


def cut_blocks() -> Iterator[CheckMessage]:
    """Look for a guard that ends the transaction of a view while it waits for another site."""
    totals = [(config.options.get("total"), config.name) for config in client_sessions()]
    for alias, config in pooled():
        idle = seconds_of(config.guards, "idle_in_transaction_session_timeout")
        if not idle or not alias.settings["ATOMIC_REQUESTS"]:
            continue
        names = [name for total, name in totals if total is None or total > idle]
        if names:
            path = alias.of_pool("idle_in_transaction_session_timeout")
            yield checks.Warning(
                f"{path} ({idle:g} s) is below what a request of {', '.join(names)} in "
                f"POOLKIT['HTTP'] may take ('total'), and {alias.path('ATOMIC_REQUESTS')} is on: "
                "the server ends the transaction of a view that waits for it.",
                hint="Lower 'total', or have such views run outside of the transaction.",
                id="poolkit.W023",
            )


def slow_sessions() -> Iterator[CheckMessage]:
    """Look for connections that are held to the end of a request, where views ask other sites."""
    if not any(client_sessions()):
        return
    for alias, config in pooled():
        if config.mode == "session":
            yield checks.Info(
                f"{alias.of_pool('mode')} is 'session', and POOLKIT['HTTP'] has client sessions: "
                "a request that has asked the database holds its connection while it waits for "
                "their answers.",
                hint="In 'transaction' mode it is given back after the statement. Set 'observe' "
                "to see what that would change.",
                id="poolkit.I005",
            )
