"""Channels: what a consumer leases ends with each message, and bears its name.

    class Chat(LeasesByMessage, AsyncWebsocketConsumer):
        ...

A consumer runs for as long as somebody is connected, and no request ends meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from asgiref.sync import sync_to_async
from django.db import close_old_connections

from django_poolkit.backends import request
from django_poolkit.pools.share import share


class LeasesByMessage:
    """For a consumer, in front of the class that it is: leases end as a message's handler does.

    In session mode that is what the end of a request is elsewhere. Channels itself ends only what
    `database_sync_to_async()` and synchronous consumers took; and it has asynchronous ones begin
    without what was held before, so that the last message's lease lasts until the next one.

    The consumer's path, as `shop.consumers.Chat`, is where `poolstatus` says that a lease is, and
    the name of the share that it counts against. Messages of a channel layer are handled alike.
    """

    async def dispatch(self, message: Any) -> None:
        """Handle one message."""
        with _named(f"{type(self).__module__}.{type(self).__qualname__}"):
            try:
                await super().dispatch(message)  # type: ignore[misc]
            finally:
                await _end_leases()


@contextmanager
def _named(name: str) -> Iterator[None]:
    if (scope := request.current()) is not None:
        scope.server = name
        yield
    else:  # that of a worker, or nobody wraps the application
        with share(name):
            yield


async def _end_leases() -> None:
    """End what the thread of asynchronous consumers holds. Hops there only if it may."""
    scope = request.current()
    if scope is None or scope.leases:
        await sync_to_async(close_old_connections)()
