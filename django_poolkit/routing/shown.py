"""What a request's reads were sent where for, in a header of its answer: for those who look for it.

Off unless `ROUTING["DEBUG_HEADER"]` names it. It has the names of clusters and words of the code,
and neither hosts nor aliases, models or values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from django.http.response import HttpResponseBase

from django_poolkit.routing import scopes
from django_poolkit.routing.figures import Decisions
from django_poolkit.routing.scopes import Scope

on = False
"""Whether any request of this process wants it. Read by every query."""

_FROM_REPLICA: Final = frozenset({"read", "use_replica"})


def begin(scope: Scope) -> None:
    """Take note of what is decided in a scope from here on."""
    global on
    if scope.decisions is None:
        scope.decisions = Decisions()
    on = True


def note(cluster: str, reason: str) -> None:
    """Take note of a decision in the present scope, if that is wanted."""
    here = scopes.current()
    if here is not None and here.decisions is not None:
        here.decisions.count(cluster, reason)


def show(scope: Scope, response: HttpResponseBase, name: str) -> None:
    """Set the header of this name, unless nothing has been decided."""
    if scope.decisions is not None and (text := ", ".join(_members(scope.decisions))):
        response.headers[name] = text


def _members(decisions: Decisions) -> Iterator[str]:
    """Yield the members of a list of RFC 9651, in the order in which they first came."""
    for (cluster, reason), count in decisions.read().items():
        parts = [reason, f"cluster={_quoted(cluster)}"]
        if reason != "error":
            parts.append(f"from={'replica' if reason in _FROM_REPLICA else 'primary'}")
        yield ";".join([*parts, f"count={count}"])


def _quoted(text: str) -> str:
    # No other character may stand in a string of RFC 9651.
    plain = "".join(each if " " <= each <= "~" else "?" for each in text)
    escaped = plain.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
