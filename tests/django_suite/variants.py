"""What Django's suite is run on: its own backend, and ours in both modes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from django_poolkit.testing import Node
from django_poolkit.testing.pgbouncer import PgBouncer

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
        entry |= {"ENGINE": engine, "OPTIONS": {"pool": {"mode": self.mode}}}
        return entry if _through is None else _led(entry, _through)


_through: PgBouncer | None = None


@contextmanager
def pgbouncer_before(node: Node) -> Iterator[None]:
    """Lead ours through a PgBouncer that lends its sessions by transaction, as long as this lasts.

    Each session is lent once: those that lie idle would keep a test database from being dropped.
    """
    global _through
    with PgBouncer(node, server_lifetime=0, default_pool_size=10) as bouncer:
        _through = bouncer
        try:
            yield
        finally:
            _through = None


def leads_through_pgbouncer() -> bool:
    """Return whether ours are led through a PgBouncer at the moment."""
    return _through is not None


def _led(entry: dict[str, Any], bouncer: PgBouncer) -> dict[str, Any]:
    pool = {**entry["OPTIONS"]["pool"], "pooler": "pgbouncer-transaction"}
    options = {**entry["OPTIONS"], "pool": pool}
    return entry | {"HOST": bouncer.host, "PORT": str(bouncer.port), "OPTIONS": options}


STOCK = Variant(None)
