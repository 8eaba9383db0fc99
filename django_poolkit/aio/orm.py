"""Django's own async methods on the event loop: which names are given another meaning, and why.

Django's `aget()` and its kind have a thread run the method without the `a`, by a function named
`sync_to_async`. Here that name is given to a function of ours, in the modules of one table and in
none besides: whoever calls asgiref's own gets a thread, as ever. Names are looked up as a call is
made, so nothing of Django is copied, and all of it can be undone.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any, Final

from django_poolkit.aio import hops, middlewares, needed, placing, slow
from django_poolkit.aio.calls import Call
from django_poolkit.aio.iteration import bridged_generator
from django_poolkit.aio.names import Name, NamesMissing, missing
from django_poolkit.conf.async_orm import AsyncOrmConfig

_placing = placing.Placing(())
_COROUTINE: Final = inspect.CO_COROUTINE


def _on_loop(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def chosen(function: Any = None, **options: Any) -> Any:
        # Django gives the ORM's neither options nor coroutine functions; asgiref knows what to do.
        # inspect's own looks for partials and marks as well, and takes ten times as long as this.
        code = getattr(function, "__code__", None)
        if options or function is None or (code is not None and code.co_flags & _COROUTINE):
            return original(function, **options)
        return functools.partial(_call, original, function)

    return chosen


def _call(original: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Return the coroutine of a call, on the loop or on a thread."""
    if _placing.on_loop(function, args, kwargs):
        return Call().run(function, *args, **kwargs)
    return original(function)(*args, **kwargs)


def _iteration(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def chosen(self: Any) -> Any:
        if _placing.on_loop(self.queryset._fetch_all, (), {}):
            return bridged_generator(self)
        return original(self)

    return chosen


def _serves(model: Any) -> bool:
    return _placing.on_loop(model._default_manager.get, (), {})


def _moved(module: str, reason: str, **more: Any) -> Name:
    return Name(
        module=f"django.{module}", attribute="sync_to_async", make=_on_loop, reason=reason, **more
    )


TABLE: Final = (
    _moved("db.models.query", "methods of querysets, and the prefetching of objects"),
    _moved("db.models.base", "asave(), adelete() and arefresh_from_db() of objects"),
    _moved("db.models.fields.related_descriptors", "methods of related managers"),
    _moved(
        "contrib.contenttypes.fields",
        "methods of generic related managers",
        app="django.contrib.contenttypes",
    ),
    _moved("contrib.sessions.backends.db", "asave() of sessions that are kept in the database"),
    _moved("core.paginator", "pages of a sequence that is whole already", since=(6, 0)),
    Name(
        module="django.db.models.query",
        attribute="BaseIterable._async_generator",
        make=_iteration,
        reason="aiterator(), whose cursor belongs to the iteration and not to one of its calls",
    ),
    Name(
        module="django.core.signals",
        attribute="request_started.asend",
        make=hops.quick_send,
        reason="Django's own receivers, in a request without a thread",
        part="request",
    ),
    Name(
        module="django.core.signals",
        attribute="request_finished.asend",
        make=hops.quick_send,
        reason="Django's own receivers, in a request without a thread",
        part="request",
    ),
    Name(
        module="django.core.handlers.asgi",
        attribute="sync_to_async",
        make=hops.quick_close,
        reason="response.close(), in a request without a thread",
        part="request",
    ),
    Name(
        module="django.utils.deprecation",
        attribute="sync_to_async",
        make=middlewares.on_loop(_serves),
        reason="process_request() and process_response() of middleware that is listed",
        part="middleware",
    ),
    Name(
        module="django.core.handlers.base",
        attribute="sync_to_async",
        make=middlewares.on_loop(_serves),
        reason="process_view() of middleware that is listed",
        part="middleware",
    ),
)
"""All that is given another meaning."""

RELIED: Final = (
    "asgiref.sync:AsyncToSync.executors",
    "asgiref.sync:SyncToAsync.context_to_thread_executor",
    "asgiref.sync:SyncToAsync.thread_sensitive_context",
    "django.contrib.sessions.backends.db:SessionStore.asave.sync_transaction.using",
    "django.dispatch.dispatcher:Signal._live_receivers",
    "django.http.response:HttpResponseBase.close",
)
"""What is looked at only, and has to be there as well."""


def names_missing(config: AsyncOrmConfig) -> list[str]:
    """Return the names that are needed, and that this Django has not got."""
    return [*needed.missing(), *missing(_wanted(config), RELIED)]


def install(config: AsyncOrmConfig) -> None:
    """Have Django's async methods run on the loop from now on. Once that is done, does nothing.

    Raises NamesMissing for a Django that is not as it was read; nothing is changed then.
    """
    global _placing
    with _lock:
        if _undo:
            return
        if gone := names_missing(config):
            raise NamesMissing(gone)
        needed.install()
        slow.watch(config.slow_slice)
        _placing = placing.Placing({*config.thread_aliases, *placing.unserved()})
        for name in _wanted(config):
            if name.there:
                _undo.append(name.put())


def _wanted(config: AsyncOrmConfig) -> list[Name]:
    return [name for name in TABLE if name.part != "middleware" or config.middleware]


def uninstall() -> None:
    """Give every name back its meaning, but for those that `bridged()` needs."""
    with _lock:
        while _undo:
            _undo.pop()()
        slow.watch(None)


def installed() -> bool:
    """Return whether Django's async methods run on the loop."""
    return bool(_undo)


# Both guarded by _lock.
_lock = threading.RLock()
_undo: list[Callable[[], None]] = []
