"""What is wrong with what carries floors from one request to the next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from django.core import checks
from django.core.checks import CheckMessage, Error
from django.utils.module_loading import import_string

from django_poolkit.conf import site
from django_poolkit.conf.routing import RoutingConfig
from django_poolkit.routing.carriers import names_of

_OURS: Final = "django_poolkit.middleware.PoolkitMiddleware"
_BACKENDS: Final = "django.core.cache.backends."
_USELESS: Final = {
    f"{_BACKENDS}locmem.LocMemCache": "it is of one process: no other knows what it has",
    f"{_BACKENDS}dummy.DummyCache": "it keeps nothing",
    f"{_BACKENDS}db.DatabaseCache": "it is in a database, which would be asked for each request",
}


def middleware() -> Iterator[CheckMessage]:
    """Look whether the middleware is there, and whether it sees what all others do."""
    names = site.middleware()
    place = next((place for place, name in enumerate(names) if _is_ours(name)), None)
    if place is None:
        yield checks.Warning(
            "POOLKIT['CLUSTERS'] has replicas, and nothing tells a visitor's next request what it "
            "has to see.",
            hint=f"Put {_OURS!r} first in MIDDLEWARE.",
            id="poolkit.W007",
        )
    elif place > 0:
        yield checks.Warning(
            f"MIDDLEWARE has {names[0]!r} before {names[place]!r}, which does not see what that "
            "writes or keeps.",
            hint=f"Put {names[place]!r} first in MIDDLEWARE.",
            id="poolkit.W008",
        )


def cookie(config: RoutingConfig) -> Iterator[CheckMessage]:
    """Look whether a cookie of Django's would be taken for one of ours."""
    if config.cookie is None:
        return
    for name, key in site.cookie_names().items():
        if names_of(config.cookie).fullmatch(name):
            yield Error(
                f"{key} ({name!r}) is a name that POOLKIT['ROUTING']['COOKIE'] "
                f"({config.cookie!r}) may give to a cookie.",
                hint="Change either of them.",
                id="poolkit.E007",
            )


def cache(config: RoutingConfig) -> Iterator[CheckMessage]:
    """Look whether the cache can be of use."""
    if config.cache is None:
        return
    backend = site.cache_backend(config.cache)
    why = "there is no such cache" if backend is None else _USELESS.get(backend)
    if why is not None:
        yield checks.Warning(
            f"POOLKIT['ROUTING']['CACHE'] is {config.cache!r}: {why}.",
            hint="Name a cache that all processes share, or None.",
            id="poolkit.W009",
        )


def _is_ours(name: str) -> bool:
    if name == _OURS:
        return True
    try:
        found: Any = import_string(name)
    except ImportError:
        return False  # Django says so itself
    bases = found.__mro__ if isinstance(found, type) else ()
    return any(f"{base.__module__}.{base.__qualname__}" == _OURS for base in bases)
