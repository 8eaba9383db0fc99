"""A session backend whose store is down."""

from __future__ import annotations

from typing import Any


class SessionStore:
    """Fails whatever is asked of it."""

    def __init__(self, session_key: str | None = None) -> None:
        raise ConnectionError("the session store is down")

    def __getattr__(self, name: str) -> Any:
        raise ConnectionError("the session store is down")
