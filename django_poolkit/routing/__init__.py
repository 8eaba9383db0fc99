"""Reads from replicas, writes to the primary: the router, and how to tell it something.

`DATABASE_ROUTERS = ["django_poolkit.routing.ReadWriteRouter"]`, and `POOLKIT["CLUSTERS"]`.
"""

from __future__ import annotations

from django_poolkit.routing.errors import (
    LockOnReplica,
    NoReplica,
    ReplicasBehind,
    StaleWrite,
    StaleWriteWarning,
)
from django_poolkit.routing.jobs import acarry, carry, scope
from django_poolkit.routing.overrides import use_primary, use_replica
from django_poolkit.routing.router import ReadWriteRouter
from django_poolkit.routing.scopes import Scope

__all__ = [
    "LockOnReplica",
    "NoReplica",
    "ReadWriteRouter",
    "ReplicasBehind",
    "Scope",
    "StaleWrite",
    "StaleWriteWarning",
    "acarry",
    "carry",
    "scope",
    "use_primary",
    "use_replica",
]
