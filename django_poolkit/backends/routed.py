"""What Starlette and FastAPI call that by which they serve a request, read from its ASGI scope.

They enter it there as they find it, so whoever looks later knows more. Nothing of theirs is
imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def path_of(asgi: Mapping[str, Any]) -> str:
    """Return the path below that at which the application is mounted. May hold secrets."""
    path: str = asgi["path"]
    return path.removeprefix(asgi.get("root_path", ""))


def route_of(asgi: Mapping[str, Any]) -> str | None:
    """Return the path of a route as it is declared, `/orders/{number}`, never as it was asked for.

    Of an endpoint that no such route leads to, its module and name. Empty where no route is found,
    or none yet; None where that is not for these to say: an application that has none, as Django's,
    also where it is mounted in one of theirs.
    """
    endpoint = asgi.get("endpoint")
    if endpoint is None:
        return "" if "app" in asgi else None
    # A function or a class. What is mounted is an object.
    if (name := getattr(endpoint, "__qualname__", None)) is None:
        return None
    path = getattr(asgi.get("route"), "path", None)
    return path if isinstance(path, str) else f"{endpoint.__module__}.{name}"
