"""What Django's own settings say of a site, as far as the kit goes by it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from django.conf import settings


class SessionCookie(NamedTuple):
    """How a project's session cookie is set."""

    name: str
    path: str
    domain: str | None
    secure: bool


def session_cookie_name() -> str:
    """Return what the session cookie is called, whether there are sessions or not."""
    name: str = settings.SESSION_COOKIE_NAME
    return name


def session_cookie() -> SessionCookie:
    """Return how the session cookie is set, whether there are sessions or not."""
    return SessionCookie(
        settings.SESSION_COOKIE_NAME,
        settings.SESSION_COOKIE_PATH,
        settings.SESSION_COOKIE_DOMAIN,
        bool(settings.SESSION_COOKIE_SECURE),
    )


def secret_key() -> str | bytes:
    """Return the key by which a site signs."""
    key: str | bytes = settings.SECRET_KEY
    return key


def cookie_names() -> dict[str, str]:
    """Return the names of Django's cookies, each with the setting that has it."""
    keys = ("SESSION_COOKIE_NAME", "CSRF_COOKIE_NAME", "LANGUAGE_COOKIE_NAME")
    return {getattr(settings, key): key for key in keys}


def middleware() -> Sequence[str]:
    """Return the names of all middleware, the outermost first."""
    return tuple(settings.MIDDLEWARE)


def cache_backend(alias: str) -> str | None:
    """Return the backend of a cache, None where there is no such cache."""
    entry = settings.CACHES.get(alias)
    return None if entry is None else str(entry.get("BACKEND", ""))


def asgi_application() -> str | None:
    """Return the dotted path of the site's ASGI application, None where the settings name none.

    Django has no such setting of its own; Channels, daphne and many a project have it.
    """
    path = getattr(settings, "ASGI_APPLICATION", None)
    return str(path) if path else None


def web_workers() -> int | None:
    """Return how many worker processes serve the site on this host, None where nobody says.

    The variable WEB_CONCURRENCY is what gunicorn, uvicorn and hosting platforms go by.
    """
    text = os.environ.get("WEB_CONCURRENCY", "").strip()
    return int(text) if text.isdecimal() and int(text) > 0 else None


def default_sslmode() -> str | None:
    """Return which sslmode libpq takes where the settings name none, None for its own default."""
    return os.environ.get("PGSSLMODE") or None
