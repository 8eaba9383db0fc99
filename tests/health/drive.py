"""Asks for health by each of the ways that lead to it, in the test's own process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import include, path

from django_poolkit.asgi import Poolkit
from django_poolkit.wsgi import PoolkitWSGI
from tests.request_end.drive import Answered, Exchange, environ, scope
from tests.settings import POOLKIT

PREFIX = "/health/"
WRAPPERS = ["wsgi+wrapper", "asgi+wrapper"]
BEFORE = [*WRAPPERS, "wsgi+middleware", "asgi+middleware"]
"""Those that answer before the rest of the application."""
WAYS = [*BEFORE, "wsgi+urls", "asgi+urls"]

OURS = "django_poolkit.middleware.PoolkitMiddleware"
NOTED = "tests.health.drive.noted"
reached: list[str] = []
"""The paths that came to the middleware after ours."""


def noted(get_response: Callable[[HttpRequest], HttpResponse]) -> Any:
    """Write down what comes here: a middleware."""

    def middleware(request: HttpRequest) -> HttpResponse:
        reached.append(request.path)
        return get_response(request)

    return middleware


def other(request: HttpRequest, **_: Any) -> HttpResponse:
    """Answer for all that is none of ours."""
    return HttpResponse("other")


urlpatterns = [
    path("health/", include("django_poolkit.health.urls")),
    path("", other),
    path("<path:rest>", other),
]


@dataclass
class Site:
    """A project that is asked by one of the ways."""

    way: str
    poolkit: dict[str, Any] = field(default_factory=dict)
    middleware: list[str] = field(default_factory=lambda: [NOTED])
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        reached.clear()
        first = [OURS] if "middleware" in self.way else []
        health = {**({} if "urls" in self.way else {"PATH": PREFIX}), **self.poolkit}
        settings = {
            "ROOT_URLCONF": "tests.health.drive",
            "MIDDLEWARE": [*first, *self.middleware],
            "POOLKIT": {**POOLKIT, "HEALTH": health},
            **self.settings,
        }
        self._override: override_settings | None = override_settings(**settings)
        self._override.enable()
        try:
            wrap = "wrapper" in self.way
            wsgi, asgi = WSGIHandler(), ASGIHandler()
            self.wsgi: Any = PoolkitWSGI(wsgi) if wrap else wsgi
            self.asgi: Any = Poolkit(asgi) if wrap else asgi
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Take the settings back. A second call does nothing."""
        if self._override is not None:
            self._override.disable()
        self._override = None

    def get(
        self, path: str, *, method: str = "GET", client: str = "127.0.0.1", **headers: str
    ) -> Answered:
        """Ask, and return the answer. Headers are given as keywords, with underscores."""
        if self.way.startswith("asgi"):
            return asyncio.run(self.aget(path, method=method, client=client, **headers))
        return self.get_wsgi(path, method, client, headers)

    def get_wsgi(self, path: str, method: str, client: str, headers: dict[str, str]) -> Answered:
        fields = {f"HTTP_{name.upper()}": value for name, value in headers.items()}
        asked = environ(path, REQUEST_METHOD=method, REMOTE_ADDR=client, **fields)
        answered = Answered()

        def start_response(status: str, fields: Any, exc_info: Any = None) -> Callable[..., None]:
            answered.status = int(status.split()[0])
            answered.headers = {key.lower(): value for key, value in fields}
            return lambda data: None

        result = self.wsgi(asked, start_response)
        try:
            answered.body = b"".join(result)
            answered.complete = True
        finally:
            getattr(result, "close", lambda: None)()
        return answered

    async def aget(
        self, path: str, *, method: str = "GET", client: str = "127.0.0.1", **headers: str
    ) -> Answered:
        """Ask on the running event loop."""
        exchange = Exchange()
        asked = scope(path, method=method)
        asked["client"] = (client, 1234) if client else None
        asked["headers"] += [
            (name.replace("_", "-").encode(), value.encode("latin-1"))
            for name, value in headers.items()
        ]
        await self.asgi(asked, exchange.receive, exchange.send)
        return exchange.answered
