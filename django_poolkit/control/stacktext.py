"""Which lines of a stack tell who it was: those of the application, and few of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

# The standard library and what was installed, by whatever Python the other process runs.
_LIBRARY: Final = re.compile(
    r"/(?:lib/python3[.\d]*|site-packages|dist-packages|django_poolkit)/|^<frozen "
)
_MOST: Final = 3


def telling(stack: Sequence[str]) -> tuple[str, ...]:
    """Return the innermost lines of the application's own, or of all where it has none."""
    own = [line for line in stack if _LIBRARY.search(line.rpartition(":")[0]) is None]
    return tuple((own or stack)[:_MOST])
