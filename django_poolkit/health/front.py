"""The answers below `HEALTH["PATH"]`, given before the application sees the request.

So that neither its middleware nor its state decides about them: a host name that is not allowed,
a redirect to HTTPS, a session backend that is down. For both protocols, and for views.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping
from time import monotonic
from typing import Any, Final

from django.core.signals import setting_changed

from django_poolkit.conf.health import HealthConfig, health_config
from django_poolkit.health import answers, areport, known, report
from django_poolkit.health.access import PASSED_ON, Asked, may_see_details
from django_poolkit.health.answers import METHODS, Answer
from django_poolkit.health.report import Report, Result

logger = logging.getLogger("django_poolkit.health")

DEFAULT_GROUP: Final = "ready"
"""What the prefix itself answers for."""


def answer(asked: Asked, *, details: bool | None = None) -> Answer:
    """Return the answer to a request. Blocks for `HEALTH["TIMEOUT"]` seconds and a moment at most.

    `details` says whether it may name what there is; None leaves that to token and address.
    """
    group = _group(asked)
    if isinstance(group, Answer):
        return group
    try:
        found = report(group)
    except Exception as error:
        found = _broken(group, error)
    return _answer(found, asked, details)


async def aanswer(asked: Asked, *, details: bool | None = None) -> Answer:
    """Return the answer to a request, as `answer()` does. Needs no thread of the loop's."""
    group = _group(asked)
    if isinstance(group, Answer):
        return group
    try:
        found = await areport(group)
    except Exception as error:
        found = _broken(group, error)
    return _answer(found, asked, details)


def _group(asked: Asked) -> str | Answer:
    if asked.method not in METHODS:
        return answers.not_allowed(asked.method)
    group = asked.path.strip("/") or DEFAULT_GROUP
    return group if known(group) else answers.not_found(asked.method)


def _answer(found: Report, asked: Asked, details: bool | None) -> Answer:
    return answers.of_report(
        found,
        method=asked.method,
        accept=asked.accept,
        details=may_see_details(asked, config()) if details is None else details,
        status_codes=config().status_codes,
    )


def _broken(group: str, error: Exception) -> Report:
    # Who probes is told that it fails, never a page of somebody's debugger.
    logger.error("event=report_failed group=%s error=%s", group, type(error).__name__)
    result = Result(name=group, status="fail", reason="unknown", observed=monotonic())
    return Report(group=group, results=(result,))


# -- whether a request is for us


def path_behind(path: str) -> str | None:
    """Return what stands behind the prefix in a path, None where it is not below it."""
    # Each request of the site is asked, and nearly all are told by this alone.
    if not path.startswith(_beginnings()):
        return None
    prefix = config().path or ""
    if path.startswith(prefix):
        return path[len(prefix) :]
    return "" if path == prefix[:-1] else None


@functools.cache
def config() -> HealthConfig:
    """Return the section, read once: each request of the site asks for the prefix.

    Raises ImproperlyConfigured as `health_config()` does.
    """
    return health_config()


@functools.cache
def _beginnings() -> tuple[str, ...]:
    """Return what all paths of ours begin with: the prefix without its slash, if there is one."""
    prefix = config().path
    return () if prefix is None else (prefix[:-1],)


def _forget(*, setting: str, **_: Any) -> None:
    if setting == "POOLKIT":
        config.cache_clear()
        _beginnings.cache_clear()


setting_changed.connect(_forget, dispatch_uid="django_poolkit.health.front")


# -- what it asks, by protocol


def from_asgi(scope: Mapping[str, Any]) -> Asked | None:
    """Return what an HTTP scope asks for, None where that is none of ours."""
    # Of a server that mounts the application somewhere, the path has the mount point in it.
    behind = path_behind(scope["path"].removeprefix(scope.get("root_path", "")))
    return None if behind is None else _from_scope(scope, behind)


def _from_scope(scope: Mapping[str, Any], behind: str) -> Asked:
    headers: list[tuple[bytes, bytes]] = [
        (bytes(key).lower(), bytes(value)) for key, value in scope["headers"]
    ]

    def joined(name: bytes) -> str:
        return b",".join(value for key, value in headers if key == name).decode("latin-1")

    client = scope.get("client")
    return Asked(
        method=scope["method"],
        path=behind,
        accept=joined(b"accept"),
        authorization=joined(b"authorization"),
        address=client[0] if client else None,
        passed_on=_is_passed_on(key.decode("latin-1") for key, _ in headers),
    )


def from_environ(environ: Mapping[str, Any], path: str) -> Asked | None:
    """Return what a WSGI environ asks for at a path, None where that is none of ours."""
    behind = path_behind(path)
    return None if behind is None else asked_by(environ, behind)


def asked_by(environ: Mapping[str, Any], behind: str) -> Asked:
    """Return what a WSGI environ, or `request.META`, asks for behind the prefix."""
    return Asked(
        method=environ.get("REQUEST_METHOD", ""),
        path=behind,
        accept=environ.get("HTTP_ACCEPT", ""),
        authorization=environ.get("HTTP_AUTHORIZATION", ""),
        address=environ.get("REMOTE_ADDR") or None,
        passed_on=_is_passed_on(
            key[len("HTTP_") :].replace("_", "-").lower()
            for key in environ
            if key.startswith("HTTP_")
        ),
    )


def _is_passed_on(names: Iterable[str]) -> bool:
    return any(name in PASSED_ON for name in names)
