"""What a lease that SQLAlchemy has tells those who look at the pool."""

from __future__ import annotations

from typing import Final

from django_poolkit.backends import purpose
from django_poolkit.pools.lease import Lease
from django_poolkit.pools.purpose import tell_lent

NAME: Final = "sqlalchemy"


def mark(lease: Lease, name: str) -> None:
    """Enter into a lease whose it is. `name` is that of the pool: an alias, and maybe a host."""
    lease.alias = name.partition("/")[0]
    lease.context = tell_lent(purpose.of_caller(NAME))
