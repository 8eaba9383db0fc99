"""Which wrappers the bridge can serve: those whose connections come from a pool of ours."""

from __future__ import annotations

from functools import partial
from typing import Any, NoReturn

from django_poolkit.backends.postgresql.base import PooledDatabaseWrapperMixin

# To find the pool of a wrapper is dear, and what was found for the last one of its alias is
# nearly always right for the next: the wrapper compares its settings.
_seen: dict[str, tuple[Any, ...] | None] = {}


def prepare(alias: str, wrapper: Any) -> None:
    """Prepare a wrapper that has been made for a call. One that would block refuses to connect."""
    if isinstance(wrapper, PooledDatabaseWrapperMixin):
        wrapper._bridged = True
        wrapper._seen = _seen.get(alias)
        if wrapper.pool is not None:
            _seen[alias] = wrapper._seen
            return
    # It is the one of this call, so that nobody else is refused.
    wrapper.connect = wrapper.ensure_connection = partial(_refuse, alias)


def refuse(alias: str, wrapper: Any) -> None:
    """Refuse a wrapper that would block. Raises RuntimeError."""
    if not isinstance(wrapper, PooledDatabaseWrapperMixin) or wrapper.pool is None:
        _refuse(alias)


def _refuse(alias: str) -> NoReturn:
    raise RuntimeError(
        f"the alias {alias!r} has no pool of django_poolkit, so that its connections would block "
        "the event loop: call this by sync_to_async(), or give the alias an ENGINE of "
        "django_poolkit's, and OPTIONS['pool'] other than False"
    )
