"""What Django has a thread do around each request, done on the loop where no thread is needed.

The receivers of `request_started` and `request_finished`, and `response.close()`, which sends the
latter, look after what a request's thread has. A request that has had no thread has nothing of
that kind; to start one only to look would cost more than all the rest of it.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from asgiref.sync import AsyncToSync, SyncToAsync
from django.core.cache import caches, close_caches
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.base import reset_urlconf
from django.core.signals import request_finished
from django.db import close_old_connections, reset_queries
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from django_poolkit.aio.calls import Call

# Django's own receivers: they look at connections and caches of whoever calls them.
_KNOWN: Final = frozenset([reset_queries, close_old_connections, close_caches, reset_urlconf])
# What a response has to close that is the handler's own: the files of a request's body.
_CLOSERS: Final = frozenset([ASGIRequest.close, HttpRequest.close])


def without_thread() -> bool:
    """Return whether the running request is one of a thread of its own, and has none yet."""
    # Below `async_to_sync()` it is its caller's thread that all this is the matter of.
    if getattr(AsyncToSync.executors, "current", None) is not None:
        return False
    context = SyncToAsync.thread_sensitive_context.get(None)
    return context is not None and context not in SyncToAsync.context_to_thread_executor


def quick_send(asend: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Return an `asend` of a core signal that needs no thread for Django's own receivers."""
    signal = asend.__self__  # type: ignore[attr-defined]

    @functools.wraps(asend)
    async def quick(sender: Any, **named: Any) -> Any:
        if without_thread() and _harmless(signal, sender):
            return await Call().run(signal.send, sender, **named)
        return await asend(sender, **named)

    return quick


def quick_close(sync_to_async: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `sync_to_async` that leaves no thread `close` of responses that hold nothing."""

    @functools.wraps(sync_to_async)
    def chosen(function: Any = None, **options: Any) -> Any:
        if options or not _closes_nothing(function):
            return sync_to_async(function, **options)
        if without_thread():
            return functools.partial(Call().run, function)
        return sync_to_async(function)

    return chosen


def _closes_nothing(function: Any) -> bool:
    """Return whether this is `close` of a response whose closing can wait for nothing."""
    response = getattr(function, "__self__", None)
    return (
        isinstance(response, HttpResponseBase)
        and getattr(function, "__func__", None) is HttpResponseBase.close
        and _all_of(_CLOSERS, response._resource_closers)  # type: ignore[attr-defined]
        and _harmless(request_finished, response._handler_class)  # type: ignore[attr-defined]
    )


def _all_of(known: frozenset[Any], functions: Iterable[Any]) -> bool:
    return all(getattr(each, "__func__", each) in known for each in functions)


def _harmless(signal: Any, sender: Any) -> bool:
    """Return whether all who are told are Django's own, and none of them can block."""
    receivers, awaited = signal._live_receivers(sender)
    return not awaited and _all_of(_KNOWN, receivers) and _quiet_caches()


def _quiet_caches() -> bool:
    """Return whether to close the caches in use is nothing: a foreign one may do anything."""
    return all(
        type(cache).close.__module__.startswith("django.core.cache.")
        for cache in caches.all(initialized_only=True)
    )
