"""What kind of work acquires: the view that a request goes to, or the command that runs.

Asked only by a pool with `shares`, at each acquire for which nobody has named one by hand.
"""

from __future__ import annotations

import functools
import sys

from django_poolkit import registry
from django_poolkit.backends import request


def of_caller() -> str | None:
    """Return the name of the view, as `shop:order`, or else of Django's command, None of neither.

    Blocks for no longer than the URL configuration is asked, which is once a request.
    """
    if (scope := request.current()) is not None:
        return scope.view()
    return _command(tuple(sys.argv[:2]))


@functools.cache
def _command(start: tuple[str, ...]) -> str | None:
    # The name of what a launcher runs, as `migrate` of `manage.py migrate`.
    _, _, name = registry.process.command.partition(" ")
    return name or None
