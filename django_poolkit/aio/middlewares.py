"""Django's own middleware on the loop: those that are known not to block, in one list.

Django has a thread run what its middleware does before and after a view. Most of that is text and
headers, and a session, which the bridge can wait for. What is not on the list stays on its thread,
as do subclasses, which may do anything, and sessions that another engine keeps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from django.apps import apps

from django_poolkit.aio.calls import Call

Serves = Callable[[type[Any]], bool]
"""Tells of a model whether its aliases are asked on the loop."""
Condition = Callable[[Any, Serves], bool]
"""Tells of a request whether nothing that a middleware is to do with it can block."""

# Engines of sessions that are waited for on the loop, or wait for nothing. The others ask a cache
# or the disk.
_SESSIONS: Final = frozenset(
    ["django.contrib.sessions.backends.db", "django.contrib.sessions.backends.signed_cookies"]
)
_MESSAGES: Final = "django.contrib.messages.storage."


def _always(request: Any, serves: Serves) -> bool:
    return True


def _own_messages(request: Any, serves: Serves) -> bool:
    """Whether the messages are kept as Django keeps them: in a cookie, or in the session."""
    store = getattr(request, "_messages", None)
    return store is None or type(store).__module__.startswith(_MESSAGES)


def _no_files(request: Any, serves: Serves) -> bool:
    """Whether what was posted holds no files, whose handlers may be anybody's."""
    return bool(request.content_type != "multipart/form-data")


def _sites(request: Any, serves: Serves) -> bool:
    return serves(apps.get_app_config("sites").get_model("Site"))


MIDDLEWARE: Final[Mapping[str, Condition]] = MappingProxyType(
    {
        "django.contrib.auth.middleware.AuthenticationMiddleware": _always,
        "django.contrib.messages.middleware.MessageMiddleware": _own_messages,
        "django.contrib.sessions.middleware.SessionMiddleware": _always,
        "django.contrib.sites.middleware.CurrentSiteMiddleware": _sites,
        "django.middleware.clickjacking.XFrameOptionsMiddleware": _always,
        "django.middleware.common.CommonMiddleware": _always,
        "django.middleware.csp.ContentSecurityPolicyMiddleware": _always,
        "django.middleware.csrf.CsrfViewMiddleware": _no_files,
        "django.middleware.http.ConditionalGetMiddleware": _always,
        "django.middleware.locale.LocaleMiddleware": _always,
        "django.middleware.security.SecurityMiddleware": _always,
    }
)
"""What may run on the loop, and on which condition beside that of the session."""

_METHODS: Final = frozenset(["process_request", "process_view", "process_response"])


def on_loop(serves: Serves) -> Callable[[Any], Any]:
    """Return what makes a `sync_to_async` of it that leaves no thread what is on the list."""

    def make(sync_to_async: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(sync_to_async)
        def chosen(function: Any = None, **options: Any) -> Any:
            condition = _condition_of(function)
            if condition is None:
                return sync_to_async(function, **options)

            async def call(request: Any, *args: Any) -> Any:
                if condition(request, serves) and _waits_on_loop(request, serves):
                    return await Call().run(function, request, *args)
                return await sync_to_async(function, **options)(request, *args)

            return call

        return chosen

    return make


def _condition_of(function: Any) -> Condition | None:
    """Return the condition of a method that is on the list, None for any other function."""
    if getattr(function, "__name__", None) not in _METHODS:
        return None
    owner = type(getattr(function, "__self__", None))
    return MIDDLEWARE.get(f"{owner.__module__}.{owner.__qualname__}")


def _waits_on_loop(request: Any, serves: Serves) -> bool:
    """Return whether the session, which any of them may load, can be waited for on the loop."""
    session = getattr(request, "session", None)
    if session is None:
        return True
    kind = type(session)
    if kind.__module__ not in _SESSIONS or kind.__qualname__ != "SessionStore":
        return False
    model = getattr(session, "get_model_class", None)
    return model is None or serves(model())
