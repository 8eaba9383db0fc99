"""Which wrappers the bridge can serve: those whose connections come from a pool of ours."""

from __future__ import annotations

from functools import partial
from typing import Any, NoReturn

from django_poolkit.backends.postgresql.base import PooledDatabaseWrapperMixin


def serves(wrapper: Any) -> bool:
    """Return whether the connections of a wrapper suspend a task where they wait."""
    return isinstance(wrapper, PooledDatabaseWrapperMixin) and wrapper.pool is not None


def refuse_unserved(alias: str, wrapper: Any) -> None:
    """Have a wrapper that would block the loop refuse to connect."""
    if not serves(wrapper):
        # It is the one of this call, so that nobody else is refused.
        wrapper.connect = wrapper.ensure_connection = partial(_refuse, alias)


def _refuse(alias: str) -> NoReturn:
    raise RuntimeError(
        f"the alias {alias!r} has no pool of django_poolkit, so its connections would block the "
        "event loop: call this by sync_to_async(), or have OPTIONS['pool'] of that alias not be "
        "False and its ENGINE be one of django_poolkit's"
    )
