"""`PoolkitMiddleware`: 503 where a pool had no connection; health; what a visitor sees next."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.core.exceptions import BadRequest, PermissionDenied, SuspiciousOperation
from django.http import Http404, HttpRequest, HttpResponse
from django.http.multipartparser import MultiPartParserError
from django.http.response import HttpResponseBase

from django_poolkit import exhaustion
from django_poolkit.backends import request as requests
from django_poolkit.backends.request import KEY, RequestScope
from django_poolkit.health import front
from django_poolkit.health.access import Asked
from django_poolkit.health.response import as_response
from django_poolkit.pools.errors import PoolError
from django_poolkit.routing import carriers, scopes, views

GetResponse = Callable[[HttpRequest], HttpResponseBase]
AsyncGetResponse = Callable[[HttpRequest], Awaitable[HttpResponseBase]]

# What a view raises to answer something else than 500, perhaps because it met an exhausted pool.
_ANSWERS = (Http404, PermissionDenied, BadRequest, SuspiciousOperation, MultiPartParserError)


class PoolkitMiddleware:
    """Answers 503 where a pool was exhausted, also in a template or an inner middleware.

    Put it first in `MIDDLEWARE`: it sees what those after it do. It ends no lease; that is for
    the wrappers in `django_poolkit.asgi` and `django_poolkit.wsgi`, with which it cooperates.
    A view that caught the error and answered by itself keeps its answer, unless that is a 500.

    It also answers below `HEALTH["PATH"]`, where no wrapper has done so. And where there are
    replicas, it gives the visitor what its next request has to bring to see what this one wrote.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: GetResponse | AsyncGetResponse) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
            # Django would have a thread run the other, each time.
            self.process_view = self._process_view_async  # type: ignore[method-assign]

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Serve a request. A coroutine where the rest of the chain is asynchronous."""
        if self._is_async:
            return self._serve_async(request)
        if (asked := _asked(request)) is not None:
            return as_response(front.answer(asked))
        get_response = cast(GetResponse, self.get_response)
        with requests.entered(_scope_of(request)) as scope:
            carriage = carriers.carriage_of(request, scope)
            if carriage is not None:
                carriage.arrive()
            try:
                response = _checked(scope, request, get_response(request))
            except Exception as error:
                response = _instead_of(scope, request, error)
            if carriage is not None:
                carriage.leave(response)
            return _left(scope, response)

    async def _serve_async(self, request: HttpRequest) -> HttpResponseBase:
        if (asked := _asked(request)) is not None:
            return as_response(await front.aanswer(asked))
        get_response = cast(AsyncGetResponse, self.get_response)
        with requests.entered(_scope_of(request)) as scope:
            carriage = carriers.carriage_of(request, scope)
            if carriage is not None:
                await carriage.aarrive()
            try:
                response = _checked(scope, request, await get_response(request))
            except Exception as error:
                response = _instead_of(scope, request, error)
            if carriage is not None:
                await carriage.aleave(response)
            return _left(scope, response)

    def process_view(self, request: HttpRequest, view: Any, args: Any, kwargs: Any) -> Any:
        """Take note of what is known now: the view that is to run, and perhaps the user."""
        scope = _scope_of(request)
        views.enter(scope, view)
        if (carriage := carriers.known(scope)) is not None:
            carriage.meet_user()

    async def _process_view_async(
        self, request: HttpRequest, view: Any, args: Any, kwargs: Any
    ) -> Any:
        scope = _scope_of(request)
        views.enter(scope, view)
        if (carriage := carriers.known(scope)) is not None:
            await carriage.ameet_user()

    def process_exception(
        self, request: HttpRequest, exception: Exception
    ) -> HttpResponseBase | None:
        """Answer an error of a view before Django reports it as a bug."""
        if isinstance(exception, _ANSWERS) or (error := exhaustion.find(exception)) is None:
            return None
        return _answer(_scope_of(request), request, error)


def _asked(request: HttpRequest) -> Asked | None:
    return front.from_environ(request.META, request.path_info)


def _scope_of(request: HttpRequest) -> RequestScope:
    """Return the scope of a wrapper or middleware further out, or a new one."""
    known = request.META.get(KEY) or getattr(request, "scope", {}).get(KEY)
    if isinstance(known, RequestScope) and not known.over:
        scope = known
    else:
        scope = RequestScope(method=request.method or "", path=request.path_info)
    request.META[KEY] = scope
    return scope


def _checked(
    scope: RequestScope, request: HttpRequest, response: HttpResponseBase
) -> HttpResponseBase:
    if response.status_code == 500 and scope.exhausted is not None:
        replaced, response = response, _answer(scope, request, scope.exhausted)
        response._resource_closers += replaced._resource_closers  # type: ignore[attr-defined]
    elif exhaustion.revoked(scope, response.status_code):
        response.headers.pop("Retry-After", None)
    return response


def _left(scope: RequestScope, response: HttpResponseBase) -> HttpResponseBase:
    """End what no wrapper ends: what tasks of the view go on with is no part of the request."""
    if not scope.owned:
        if response.streaming:
            _bind(scope, response)
        else:
            scopes.end_of(scope)
    return response


def _bind(scope: RequestScope, response: Any) -> None:
    """Have what is yet to be streamed made within the scope."""
    # Servers send files as they are, if they get them so; that reads no database.
    if getattr(response, "file_to_stream", None) is None:
        bound = _abound if response.is_async else _bound
        response.streaming_content = bound(scope, response.streaming_content)


def _bound(scope: RequestScope, pieces: Iterator[bytes]) -> Iterator[bytes]:
    done = object()
    while True:
        with requests.entered(scope):
            piece: Any = next(pieces, done)
        if piece is done:
            return
        yield piece


async def _abound(scope: RequestScope, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    done = object()
    while True:
        with requests.entered(scope):
            piece: Any = await anext(pieces, done)
        if piece is done:
            return
        yield piece


def _instead_of(scope: RequestScope, request: HttpRequest, error: Exception) -> HttpResponseBase:
    # Reached where DEBUG_PROPAGATE_EXCEPTIONS has errors pass.
    found = None if isinstance(error, _ANSWERS) else exhaustion.find(error)
    if found is None:
        raise error
    return _answer(scope, request, found)


def _answer(scope: RequestScope, request: HttpRequest, error: PoolError) -> HttpResponse:
    answer = exhaustion.answer(
        scope,
        error,
        method=request.method or "",
        path=request.path,
        accept=request.META.get("HTTP_ACCEPT", ""),
    )
    response = HttpResponse(answer.body, status=exhaustion.STATUS, headers=dict(answer.headers))
    # It has been logged, once and as what it is: Django would log an error, and mail ADMINS
    # (django/utils/log.py, log_response()).
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response
