"""The answer to a request for a group's health: status, headers and body, free of the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from django_poolkit.health import formats, page
from django_poolkit.health.negotiation import HTML, TEXT, preferred
from django_poolkit.health.report import Report, Status

METHODS: Final = ("GET", "HEAD")


class Answer(NamedTuple):
    """A response, free of the protocol that it is sent by."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    """Empty in answer to HEAD, while Content-Length counts what GET would bring."""


def of_report(
    report: Report,
    *,
    method: str,
    accept: str,
    details: bool,
    status_codes: Mapping[Status, int],
) -> Answer:
    """Return a report as an answer in the content type that `accept` likes best."""
    kind = preferred(accept)
    # One that names what there is must not be kept where others ask for the same address.
    private = "private, " if details else ""
    fresh = [
        ("Cache-Control", f"{private}max-age={max(0, int(report.max_age))}"),
        ("Age", str(max(0, int(report.age)))),
        ("Vary", "Accept, Authorization"),
    ]
    if kind == HTML:
        fresh.append(("Content-Security-Policy", page.POLICY))
    body = formats.written(report, kind, details=details)
    return _answer(status_codes[report.status], kind, fresh, body, method)


def not_found(method: str) -> Answer:
    """Return the answer where there is no such group. It repeats nothing of what was asked."""
    return _answer(404, TEXT, [("Cache-Control", "no-store")], b"Not Found\n", method)


def not_allowed(method: str) -> Answer:
    """Return the answer to a method that is neither GET nor HEAD."""
    headers = [("Allow", ", ".join(METHODS)), ("Cache-Control", "no-store")]
    return _answer(405, TEXT, headers, b"Method Not Allowed\n", method)


def _answer(
    status: int, kind: str, headers: list[tuple[str, str]], body: bytes, method: str
) -> Answer:
    first = [
        ("Content-Type", f"{kind}; charset=utf-8" if kind.startswith("text/") else kind),
        ("Content-Length", str(len(body))),
        ("X-Content-Type-Options", "nosniff"),
    ]
    return Answer(status, first + headers, b"" if method == "HEAD" else body)
