"""Who asks, as far as that can be told without asking a database: a visitor, and a user."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

from django.http import HttpRequest
from django.utils.crypto import salted_hmac
from django.utils.functional import LazyObject, empty

from django_poolkit.conf.site import secret_key, session_cookie_name

_SALT: Final = "django_poolkit.routing.visitors"
# django.contrib.auth.SESSION_KEY, which is not imported for it: the app may not be installed.
_USER_KEY: Final = "_auth_user_id"


def visitor_of(request: HttpRequest) -> bytes | None:
    """Return what stands for a visitor from one request to the next, None where nothing does.

    A hash of the session's cookie, else of the header by which a client of an API is known. It is
    keyed, so that nobody can tell either from where it is kept.
    """
    if session := request.COOKIES.get(session_cookie_name()):
        return _hash("session", session)
    if credentials := request.META.get("HTTP_AUTHORIZATION"):
        return _hash("credentials", credentials)
    return None


def visitor_after(request: HttpRequest) -> bytes | None:
    """Return what will stand for the visitor in its next request: a login changes its session."""
    session = _loaded_session(request)
    if session is not None and session.session_key:
        return _hash("session", session.session_key)
    return visitor_of(request)


def user_of(request: HttpRequest) -> str | None:
    """Return what stands for the user who is logged in, if it is known already.

    Never loads a session, nor a user.
    """
    # Of the request itself: that of AuthenticationMiddleware is a lazy object, others' may not be.
    user: Any = request.__dict__.get("user")
    if isinstance(user, LazyObject) and user._wrapped is empty:
        user = None
    if user is not None:
        if not getattr(user, "is_authenticated", False):
            return None
        key = getattr(user, "pk", None)
    else:
        session = _loaded_session(request)
        key = None if session is None else session._session_cache.get(_USER_KEY)
    return None if key is None else _hash("user", str(key)).hex()


def seconds_of_session(request: HttpRequest) -> float | None:
    """Return for how long the visitor's session lasts, None where it has not been loaded."""
    session = _loaded_session(request)
    return None if session is None else float(session.get_expiry_age())


def _loaded_session(request: HttpRequest) -> Any:
    session = getattr(request, "session", None)
    # Set by SessionBase._get_session() (django/contrib/sessions/backends/base.py).
    return None if getattr(session, "_session_cache", None) is None else session


def _hash(kind: str, text: str) -> bytes:
    key = _key(secret_key())
    return blake2b(text.encode(), key=key, person=kind.encode(), digest_size=16).digest()


@lru_cache(maxsize=4)
def _key(secret: str | bytes) -> bytes:
    return salted_hmac(_SALT, b"", secret, algorithm="sha256").digest()
