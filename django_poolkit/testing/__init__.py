"""Test against real servers: a PostgreSQL cluster on this machine, its faults, a started site."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django_poolkit.testing.cluster import Cluster
    from django_poolkit.testing.lifespan import AsyncSite, Site
    from django_poolkit.testing.node import Node

__all__ = ["AsyncSite", "Cluster", "Node", "Site"]

_MODULES = {"AsyncSite": "lifespan", "Cluster": "cluster", "Node": "node", "Site": "lifespan"}


def __getattr__(name: str) -> Any:
    # Lazy, since pytest imports this package in every project, for the plugin's sake.
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
