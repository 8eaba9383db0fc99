"""What a client session may ask for: hosts, redirects, proven servers. Looked at for each hop."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import ClientHandlerType, ClientRequest, ClientResponse, ClientSession, TraceConfig
from yarl import URL

from django_poolkit.conf.http import HttpConfig, Redirects
from django_poolkit.http import options
from django_poolkit.http.errors import RequestRefused

# What a request says to anybody. The others may hold a secret.
_HARMLESS: Final = frozenset(
    {
        "accept", "accept-charset", "accept-encoding", "accept-language", "connection",
        "content-encoding", "content-language", "content-length", "content-type", "host",
        "transfer-encoding", "user-agent",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Policy:
    """The part of the settings that is about where a request goes."""

    redirects: Redirects
    hosts: Collection[str] | None
    direct: bool
    """Whether no proxy may be used, as it would look up addresses by itself."""

    @classmethod
    def of(cls, config: HttpConfig, base_url: URL | None) -> Policy:
        """Return what the settings come to.

        A client session with a `base_url` asks its host alone, unless `ALLOWED_HOSTS` says
        otherwise: an absolute URL, which may come from a user, would take its headers elsewhere.
        """
        hosts = config.allowed_hosts
        if hosts is None and base_url is not None:
            hosts = (_host_of(base_url),)
        return cls(config.redirects, hosts, direct=config.addresses is not None)

    def verify(self, request: ClientRequest) -> None:
        """Raise RequestRefused for a request that must not be sent."""
        url = request.url
        if url.scheme not in ("http", "https"):
            raise RequestRefused(f"{url.scheme or 'a URL without a scheme'} is not HTTP")
        host = _host_of(url)
        if self.hosts is not None and not any(_matches(host, pattern) for pattern in self.hosts):
            raise RequestRefused(f"{url.origin()} is none of the allowed hosts")
        if not options.is_verified(request.ssl):
            raise RequestRefused("ssl must not give up verification; see CAFILE")
        if self.direct and request.proxy is not None:
            raise RequestRefused("a proxy looks up hosts by itself, so that ADDRESSES cannot hold")

    def verify_crossing(self, before: URL, request: ClientRequest) -> None:
        """Raise RequestRefused where a request must not leave the origin that was asked for."""
        origin = request.url.origin()
        if self.redirects != "any":
            raise RequestRefused(f"{before} redirects to {origin}, which REDIRECTS does not allow")
        if before.scheme == "https" and origin.scheme == "http":
            raise RequestRefused(f"{before} redirects to {origin}, which anybody could read")
        if request.body:
            raise RequestRefused(f"{before} redirects to {origin}, which is not to see the body")


class Guard:
    """The innermost middleware of one request: sees each hop as it is about to be sent."""

    def __init__(self, policy: Policy, bound: Callable[[ClientResponse], None]) -> None:
        self._policy = policy
        self._bound = bound
        self._origin: URL | None = None
        self._left = False

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        self._policy.verify(request)
        origin = request.url.origin()
        if self._origin is not None and origin != self._origin:
            self._policy.verify_crossing(self._origin, request)
            self._left = True
        self._origin = origin
        if self._left:
            # aiohttp drops Authorization and cookies, and sends an X-Api-Key on. What has once
            # been led elsewhere is not led back with them either.
            for name in set(request.headers):
                if name.lower() not in _HARMLESS:
                    del request.headers[name]
        response = await handler(request)
        self._bound(response)
        return response


class OutsideGuard:
    """Sees what middlewares send with aiohttp's session itself: each hop, and what leads to it.

    No middleware is told which hops are one request. So none of these is led to another origin,
    to which aiohttp would take an X-Api-Key along.
    """

    def __init__(self, policy: Policy, bound: Callable[[ClientResponse], None]) -> None:
        self._policy = policy
        self._bound = bound
        self._answers: weakref.WeakSet[ClientResponse] = weakref.WeakSet()

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        self._policy.verify(request)
        response = await handler(request)
        self._bound(response)
        self._answers.add(response)
        return response

    def trace(self) -> TraceConfig:
        """Return what has to be among the `trace_configs` of the client session."""
        trace = TraceConfig()
        trace.on_request_redirect.append(self._redirected)
        return trace

    async def _redirected(self, session: ClientSession, context: Any, params: Any) -> None:
        response: ClientResponse = params.response
        if response not in self._answers:
            return
        location = response.headers.get("Location") or response.headers.get("URI") or ""
        try:
            origin = response.url.join(URL(location)).origin()
        except ValueError:  # aiohttp will say so
            return
        if self._policy.redirects == "never" or origin != response.url.origin():
            response.close()
            before = response.url.origin()
            raise RequestRefused(f"{before} redirects to {origin}, and a middleware asked for it")


def _host_of(url: URL) -> str:
    """Return the host of a URL, without the dot that ends a name which is complete."""
    return (url.raw_host or "").rstrip(".").lower()


def _matches(host: str, pattern: str) -> bool:
    """As Django's ALLOWED_HOSTS: `.example.com` is that host and all below, `*` is any."""
    return pattern in ("*", host) or (
        pattern.startswith(".") and (host.endswith(pattern) or host == pattern[1:])
    )
