"""Reads from replicas, writes to the primary: the router, and how to tell it something.

`DATABASE_ROUTERS = ["django_poolkit.routing.ReadWriteRouter"]`, and `POOLKIT["CLUSTERS"]`.
"""

from __future__ import annotations

from django_poolkit.routing.errors import (
    LockOnReplica,
    NoReplica,
    PrimaryUnavailable,
    ReplicasBehind,
    StaleWrite,
    StaleWriteWarning,
)
from django_poolkit.routing.idempotent import idempotent
from django_poolkit.routing.jobs import acarry, carry, scope
from django_poolkit.routing.outage import is_read_only
from django_poolkit.routing.overrides import use_primary, use_replica
from django_poolkit.routing.router import ReadWriteRouter
from django_poolkit.routing.scopes import Scope

__all__ = [
    "LockOnReplica",
    "NoReplica",
    "PrimaryUnavailable",
    "ReadWriteRouter",
    "ReplicasBehind",
    "Scope",
    "StaleWrite",
    "StaleWriteWarning",
    "acarry",
    "carry",
    "idempotent",
    "is_read_only",
    "scope",
    "use_primary",
    "use_replica",
]
