"""Test against real servers: a PostgreSQL cluster on this machine, and its faults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django_poolkit.testing.cluster import Cluster
    from django_poolkit.testing.node import Node

__all__ = ["Cluster", "Node"]


def __getattr__(name: str) -> Any:
    # Lazy, since pytest imports this package in every project, for the plugin's sake.
    if name == "Cluster":
        from django_poolkit.testing.cluster import Cluster

        return Cluster
    if name == "Node":
        from django_poolkit.testing.node import Node

        return Node
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
