"""What tests of calls and blocks share: statements, as a task awaits them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django_poolkit.aio import bridged
from django_poolkit.pools.postgres import ConnectionPool
from tests.app.models import Item
from tests.backends.transaction_mode.support import backend, create, scalar

Pooled = Callable[..., ConnectionPool]
Run = Callable[[Callable[[], Any]], Any]

acreate = bridged(create)
apid = bridged(backend)
ascalar = bridged(scalar)
aslow = bridged(lambda: scalar("SELECT pg_sleep(60)"))


def count() -> int:
    return Item.objects.count()
