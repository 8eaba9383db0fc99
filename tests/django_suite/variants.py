"""What Django's suite is run on: its own backend, and ours in both modes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from django_poolkit.testing import Node

Mode = Literal["session", "transaction"]
MODES: tuple[Mode, ...] = ("session", "transaction")

Way = Literal["threads", "async", "bridge"]
"""How tests run on ours: as Django has it; with its async methods on the loop; or each test that
is no coroutine as a whole in the bridge, on a loop."""
WAYS: tuple[Way, ...] = ("threads", "async", "bridge")


@dataclass(frozen=True)
class Variant:
    """One of the backends that are compared."""

    mode: Mode | None
    """None is Django's own backend, without a pool."""
    way: Way = "threads"

    @property
    def name(self) -> str:
        """How the report calls it."""
        name = "stock" if self.mode is None else self.mode
        return name if self.way == "threads" else f"{name}-{self.way}"

    def database(self, node: Node) -> dict[str, Any]:
        """Return an entry of `DATABASES`, without its name."""
        entry: dict[str, Any] = node.django_settings("")
        del entry["NAME"]
        if self.mode is None:
            return entry | {"ENGINE": "django.db.backends.postgresql", "OPTIONS": {}}
        engine = "django_poolkit.backends.postgresql"
        return entry | {"ENGINE": engine, "OPTIONS": {"pool": {"mode": self.mode}}}


STOCK = Variant(None)
