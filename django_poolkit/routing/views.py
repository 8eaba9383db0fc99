"""Views that `ATOMIC_REQUESTS` runs in a transaction, and that only read.

Django opens it around the view, whether it writes or not. Where the cluster says so, reads in it
go to a replica as if it were not there, until something is written. A block of the view's own, or
of what runs around it, is meant as one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from django.db import connections

from django_poolkit.backends import request as requests
from django_poolkit.backends.request import RequestScope
from django_poolkit.routing.topology import Cluster, clusters

_KEY: Final = "view_blocks"


def enter(request: RequestScope, view: Callable[..., Any]) -> None:
    """Take note that a view is about to run, and in which transactions Django is to run it."""
    spared = getattr(view, "_non_atomic_requests", ())
    for cluster in clusters().values():
        alias = cluster.primary
        if (
            cluster.atomic_requests == "replica"
            and connections.settings[alias]["ATOMIC_REQUESTS"]
            and alias not in spared
            and not _blocks(alias)
        ):
            # By cluster: the block, once it is known.
            request.routing.setdefault(_KEY, {})[cluster.name] = None


def is_only_one(cluster: Cluster) -> bool:
    """Return whether the transaction on a primary is only the one that Django opened for a view.

    False wherever the cluster does not ask for the difference.
    """
    if cluster.atomic_requests != "replica" or (request := requests.current()) is None:
        return False
    known = request.routing.get(_KEY)
    if known is None or cluster.name not in known:
        return False
    blocks = _blocks(cluster.primary)
    if len(blocks) != 1:
        return False
    # The first that something is read in. A later one is somebody's own.
    if known[cluster.name] is None:
        known[cluster.name] = blocks[0]
    return known[cluster.name] is blocks[0]


def _blocks(alias: str) -> list[Any]:
    """Return the blocks that the caller's thread has open on an alias, without those of tests."""
    # Not `connections[alias]`: it would make a wrapper where there is none.
    wrapper: Any = getattr(connections._connections, alias, None)  # type: ignore[attr-defined]
    if wrapper is None:
        return []
    return [block for block in wrapper.atomic_blocks if not block._from_testcase]
