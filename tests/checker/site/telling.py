"""Middleware for the checker: what a visitor was given to bring, and why a view has failed."""

from __future__ import annotations

from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase

from django_poolkit import exhaustion
from django_poolkit.routing.token import unseal


def told(text: str | None) -> str:
    """Return what a token says: `timeline/position`, or `pin`; an empty text for none."""
    floor = None if text is None else unseal(text).get("default")
    if floor is None:
        return ""
    at = floor.position
    return "pin" if at is None else f"{at.timeline}/{at.lsn}"


class _Middleware:
    """Serves sync and async views."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        """Serve a request."""
        return self.get_response(request)


class Telling(_Middleware):
    """Says in a header what cookies and headers of ours have in them. In front of all others."""

    def __call__(self, request: HttpRequest) -> Any:
        """Serve a request."""
        if self._is_async:
            return self._serve_async(request)
        return _tell(self.get_response(request))

    async def _serve_async(self, request: HttpRequest) -> HttpResponseBase:
        return _tell(await self.get_response(request))


def _tell(response: HttpResponseBase) -> HttpResponseBase:
    tokens = [each.value for name, each in response.cookies.items() if name.startswith("poolkit_")]
    tokens.append(response.headers.get("X-Floor", ""))
    if found := [word for token in tokens if (word := told(token))]:
        response.headers["X-Told"] = found[0]
    return response


class Explaining(_Middleware):
    """Answers an error of the database by its name, but for those that the package answers."""

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Say what it was; no detail of it, only its class and its SQLSTATE."""
        if exhaustion.find(error) is not None:
            return None
        state = getattr(error.__cause__, "sqlstate", None)
        text = f"{type(error).__name__} {state} {error}"[:200].replace("\n", " ")
        return JsonResponse({"error": text}, status=500)
