"""What carries floors from one request of a visitor to its next: cookies, a header, a cache.

Each answer that has something new sets a cookie with a name of its own, and takes back those that
its request has brought: what they said is in the new one. So answers that overlap, of a browser
that asks for several things at once, undo nothing of each other's.
"""

from __future__ import annotations

import math
import re
import secrets
import time
from collections.abc import Mapping
from functools import cache
from typing import Final

from asgiref.sync import sync_to_async
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.cache import patch_cache_control

from django_poolkit.backends.request import RequestScope
from django_poolkit.conf.routing import RoutingConfig, routing_config
from django_poolkit.conf.site import session_cookie
from django_poolkit.routing import entries, figures, scopes, shown, visitors
from django_poolkit.routing.floors import Floor, later
from django_poolkit.routing.outgoing import aoutgoing, outgoing
from django_poolkit.routing.scopes import Scope
from django_poolkit.routing.settling import asettle, settle
from django_poolkit.routing.token import merge, seal, unseal
from django_poolkit.routing.topology import clusters
from django_poolkit.routing.watching import on_one_database

MOST: Final = 32
"""Tokens of one request that are looked at."""

_KEY: Final = "carriage"
# Caches between here and the browser have a word of their own (RFC 9213), or had one.
_TARGETED: Final = ("CDN-Cache-Control", "Surrogate-Control")


def carriage_of(request: HttpRequest, within: RequestScope) -> Carriage | None:
    """Return what a request brings and takes with it, to be called within its scope.

    None where there is no replica to be behind, and for one that has it already.
    """
    if not any(cluster.replicas for cluster in clusters().values()) or on_one_database():
        return None
    if (scope := scopes.current()) is None:
        return None
    config = routing_config()
    made = Carriage(request, scope, config)
    held: object = within.routing.setdefault(_KEY, made)
    if held is not made:
        return None
    if config.debug_header is not None:
        shown.begin(scope)
    return made


def known(within: RequestScope) -> Carriage | None:
    """Return that of a request, None where it has none."""
    carriage: Carriage | None = within.routing.get(_KEY)
    return carriage


@cache
def names_of(cookie: str) -> re.Pattern[str]:
    """Return what the names of cookies look like, which all begin with the one that is set."""
    return re.compile(re.escape(cookie) + "_[0-9a-f]{4}")


class Carriage:
    """What a request has brought, and what its answer takes back."""

    __slots__ = ("_by_cookie", "_by_header", "_config", "_cookies", "_entry", "_linked",
                 "_request", "_user", "_visitor", "scope")  # fmt: skip

    def __init__(self, request: HttpRequest, scope: Scope, config: RoutingConfig) -> None:
        self.scope = scope
        self._request = request
        self._config = config
        self._cookies: list[str] = []
        self._by_cookie: dict[str, Floor] = {}
        self._by_header: dict[str, Floor] = {}
        self._entry: dict[str, Floor] = {}  # what the cache has said last
        self._visitor: bytes | None = None
        self._user: str | None = None
        self._linked: str | None = None  # whom the cache says the visitor to be

    # -- in

    def arrive(self) -> None:
        """Take in what the visitor must see, and wait a little for a replica that has it.

        Blocks for `WAIT` at most, and as the cache does. Never raises.
        """
        self._unpack()
        if self._asks_cache():
            self._read_entry()
        if self._to_settle():
            settle(self.scope)

    async def aarrive(self) -> None:
        """Do the same, without blocking the loop."""
        self._unpack()
        if self._asks_cache():
            await sync_to_async(self._read_entry)()
        if self._to_settle():
            await asettle(self.scope)

    def meet_user(self) -> None:
        """Do the same for the user, if who that is has become known since. Blocks as `arrive()`."""
        user = self._new_user()
        if user is not None and self._read_entry(user) and self._to_settle():
            settle(self.scope)

    async def ameet_user(self) -> None:
        """Do the same, without blocking the loop."""
        user = self._new_user()
        if user is not None and await sync_to_async(self._read_entry)(user) and self._to_settle():
            await asettle(self.scope)

    def _unpack(self) -> None:
        request, config = self._request, self._config
        self._visitor = self.scope.visitor = visitors.visitor_of(request)
        if config.cookie is not None and request.COOKIES:
            is_ours = names_of(config.cookie).fullmatch
            came = {name: text for name, text in request.COOKIES.items() if text and is_ours(name)}
            for name in list(came)[:MOST]:
                # What says nothing to us may be of another site at the same address.
                if floors := unseal(came[name]):
                    self._cookies.append(name)
                    merge(self._by_cookie, floors)
        if config.header is not None and (text := request.headers.get(config.header)):
            for part in text.split(",", MOST)[:MOST]:
                merge(self._by_header, unseal(part.strip()))
        self._enter(self._by_cookie)
        self._enter(self._by_header)

    def _asks_cache(self) -> bool:
        return self._config.cache is not None and self._visitor is not None

    def _read_entry(self, user: str | None = None) -> bool:
        assert self._config.cache is not None
        found, self._user = entries.read(self._config.cache, self._visitor, user)
        if user is None:
            self._linked = self._user
        self._entry = found
        self._enter(found)
        return bool(found)

    def _new_user(self) -> str | None:
        if self._config.cache is None:
            return None
        user = visitors.user_of(self._request)
        return None if user == self._user else user

    def _enter(self, floors: Mapping[str, Floor]) -> None:
        for name, floor in floors.items():
            self.scope.raise_floor(name, floor)

    def _to_settle(self) -> bool:
        # What is there to change something reads the primary.
        return bool(self.scope.floors) and not self.scope.unsafe

    # -- out

    def leave(self, response: HttpResponseBase) -> None:
        """Give the visitor what its next request has to bring. Blocks for 50 ms at most."""
        self._show(response)
        if not self._goes_nowhere(response):
            floors = outgoing(self.scope)
            self._give(response, floors)
            if self._config.cache is not None:
                self._write_entry(floors)

    async def aleave(self, response: HttpResponseBase) -> None:
        """Do the same, without blocking the loop."""
        self._show(response)
        if not self._goes_nowhere(response):
            floors = await aoutgoing(self.scope)
            self._give(response, floors)
            if self._config.cache is not None:
                await sync_to_async(self._write_entry)(floors)

    def _show(self, response: HttpResponseBase) -> None:
        if self._config.debug_header is not None:
            shown.show(self.scope, response, self._config.debug_header)

    def _goes_nowhere(self, response: HttpResponseBase) -> bool:
        if not self.scope.wrote or self._config.cache is not None or not _is_public(response):
            return False
        figures.carrier_failed("public")
        return True

    def _give(self, response: HttpResponseBase, floors: Mapping[str, Floor]) -> None:
        # Most have nothing to give or take back. And what is public, everyone would get.
        if not (floors or self._cookies) or _is_public(response):
            return
        given = False
        if self._config.cookie is not None:
            given = self._give_cookie(response, self._config.cookie, floors)
        if self._config.header is not None and _has_news(floors, self._by_header):
            response.headers[self._config.header] = seal(floors)
            given = True
        if given:
            # Shared caches may keep what nobody forbids them to keep, with its cookies.
            patch_cache_control(response, private=True)

    def _give_cookie(
        self, response: HttpResponseBase, name: str, floors: Mapping[str, Floor]
    ) -> bool:
        _, path, domain, secure = session_cookie()
        new = _has_news(floors, self._by_cookie)
        if not new and (floors or not self._cookies):
            return False
        for came in self._cookies:
            response.delete_cookie(came, path=path, domain=domain, samesite="Lax")
        if new:
            last = max(floor.expires for floor in floors.values())
            response.set_cookie(
                f"{name}_{secrets.token_hex(2)}",
                seal(floors),
                max_age=max(1, math.ceil(last - time.time())),
                path=path,
                domain=domain,
                secure=secure,
                httponly=True,
                samesite="Lax",
            )
        return True

    def _write_entry(self, floors: Mapping[str, Floor]) -> None:
        alias = self._config.cache
        assert alias is not None
        visitor, user = visitors.visitor_after(self._request), visitors.user_of(self._request)
        linked = self._linked if visitor == self._visitor else None
        user = user or linked
        # Who keeps no cookie must not go back either, in what it has seen of others.
        if floors and (self.scope.wrote or self.scope.behind or self.scope.strays):
            entries.write(alias, floors, visitor, user, self._entry)
        if user is not None and visitor is not None and user != linked:
            seconds = visitors.seconds_of_session(self._request)
            entries.link(alias, visitor, user, seconds)


def _has_news(floors: Mapping[str, Floor], brought: Mapping[str, Floor]) -> bool:
    """Return whether floors say more than what was brought does."""
    return any(later(brought.get(name), floor) != brought.get(name) for name, floor in
               floors.items())  # fmt: skip


def _is_public(response: HttpResponseBase) -> bool:
    """Return whether a cache that many share may keep a response, as it says itself."""
    said = _directives(response, "Cache-Control")
    if said & {"public", "s-maxage"} and not said & {"private", "no-store"}:
        return True
    targeted = [_directives(response, name) for name in _TARGETED if response.has_header(name)]
    return any(not said & {"private", "no-store"} for said in targeted)


def _directives(response: HttpResponseBase, name: str) -> set[str]:
    parts = response.headers.get(name, "").split(",")
    return {part.partition("=")[0].strip().lower() for part in parts}
