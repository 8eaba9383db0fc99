"""The answer to a request that a pool had no connection for: 503, small, and honest."""

from __future__ import annotations

import json
import logging
from typing import Final, NamedTuple
from urllib.parse import quote

from django_poolkit.backends.request import EXHAUSTED, RequestScope
from django_poolkit.health.negotiation import ranges
from django_poolkit.pools.chance import chance
from django_poolkit.pools.errors import (
    PoolDeadlock,
    PoolError,
    PoolPaused,
    PoolTimeout,
    TooManyWaiters,
)

logger = logging.getLogger("django_poolkit.request")

STATUS: Final = 503
REASON: Final = "Service Unavailable"

# Seconds after which a client may come back. A pool that turns requests away is short of
# connections for moments, and clients told one and the same second would come back as one.
RETRY_AFTER: Final = (1, 3)

_DETAIL: Final = "The server is busy. Please try again in a moment."
_BODIES: Final = {
    "text/plain": f"{REASON}\n\n{_DETAIL}\n",
    "text/html": (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{REASON}</title></head>\n<body><h1>{REASON}</h1><p>{_DETAIL}</p></body></html>\n"
    ),
    "application/problem+json": json.dumps(
        {"type": "about:blank", "title": REASON, "status": STATUS, "detail": _DETAIL}
    ),
}
_KINDS: Final = {"application/json": "application/problem+json"}


class Answer(NamedTuple):
    """A response, free of the protocol that it is sent by."""

    headers: list[tuple[str, str]]
    body: bytes
    """Empty in answer to HEAD, while Content-Length counts what GET would bring."""


def find(error: BaseException | None) -> PoolError | None:
    """Return the exhaustion of a pool that an error is, or comes from; None if there is none."""
    seen: set[int] = set()
    left = [error]
    while left:
        error = left.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        if isinstance(error, EXHAUSTED):
            return error
        if isinstance(error, BaseExceptionGroup):
            left.extend(error.exceptions)
        left.append(error.__cause__)
        if not error.__suppress_context__:
            left.append(error.__context__)
    return None


def answer(scope: RequestScope, error: PoolError, *, method: str, path: str, accept: str) -> Answer:
    """Return the answer to a request that failed by `error`, and log it in one line."""
    kind = preferred(accept)
    body = _BODIES[kind].encode()
    headers = [
        ("Content-Type", kind if kind.endswith("json") else f"{kind}; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
    ]
    if not scope.may_have_committed():
        headers.append(("Retry-After", str(chance.randint(*RETRY_AFTER))))
    scope.answered = True
    note("answered_503", error, method=method, path=path)
    return Answer(headers, b"" if method == "HEAD" else body)


def revoked(scope: RequestScope, status: int) -> bool:
    """Return whether a response on its way out is ours, and its Retry-After no longer true.

    Middleware that it passes may have written something.
    """
    return scope.answered and status == STATUS and scope.may_have_committed()


def note(event: str, error: PoolError, *, method: str, path: str) -> None:
    """Log in one line what became of a request. The query string stays out of it."""
    waited = f"{error.waited:.2f}" if isinstance(error, PoolTimeout) else "-"
    logger.warning(
        "pool=%s event=%s reason=%s waited=%s method=%s path=%s",
        error.pool, event, _reason(error), waited, quote(method), quote(path),
    )  # fmt: skip


def preferred(accept: str) -> str:
    """Return the content type to answer in: the one an Accept header likes best."""
    best, kind = 0.0, "text/plain"
    for name, quality in ranges(accept):
        offered = _KINDS.get(name, name)
        if offered in _BODIES and quality > best:
            best, kind = quality, offered
    return kind


def _reason(error: PoolError) -> str:
    if isinstance(error, TooManyWaiters):
        return "too_many_waiters"
    if isinstance(error, PoolDeadlock):
        return "deadlock"
    return "paused" if isinstance(error, PoolPaused) else "timeout"
