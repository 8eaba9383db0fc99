"""Test against real servers: a PostgreSQL cluster on this machine, and its faults."""

from __future__ import annotations

from django_poolkit.testing.cluster import Cluster
from django_poolkit.testing.node import Node

__all__ = ["Cluster", "Node"]
