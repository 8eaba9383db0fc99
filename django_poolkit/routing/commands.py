"""Management commands read the primary: they come after migrations, and change things."""

from __future__ import annotations

import functools
from typing import Any, Final

from django.core.management.base import BaseCommand

from django_poolkit.routing import scopes
from django_poolkit.routing.overrides import use_primary
from django_poolkit.routing.scopes import CommandBlock

_SERVING: Final = frozenset({"runserver", "runserver_plus", "test", "testserver"})
"""Commands in which other things run, that are no commands."""


def install() -> None:
    """Have every command from now on run in a scope of its own. May be called again."""
    # Django tells nobody that a command begins, and `call_command()` passes no entry of ours.
    execute = BaseCommand.execute
    if getattr(execute, "poolkit", False):
        return

    @functools.wraps(execute)
    def executed(self: BaseCommand, *args: Any, **options: Any) -> Any:
        if type(self).__module__.rpartition(".")[2] in _SERVING:
            return execute(self, *args, **options)
        # In a request or a job it is a part of that, and only reads elsewhere.
        with CommandBlock() if scopes.current() is None else use_primary():
            return execute(self, *args, **options)

    executed.poolkit = True  # type: ignore[attr-defined]
    BaseCommand.execute = executed  # type: ignore[method-assign]
