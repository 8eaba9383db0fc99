"""Objects that a replica has given, saved with all their fields over what may be newer."""

from __future__ import annotations

import sys
import warnings
from typing import Any, Final

from django_poolkit.routing import topology
from django_poolkit.routing.errors import StaleWrite, StaleWriteWarning

_DJANGOS: Final = ("django.", "asgiref.", __name__)


def look(
    sender: Any, instance: Any, raw: bool = False, using: str = "", update_fields: Any = None,
    **kwargs: Any,
) -> None:  # fmt: skip
    """Look at an object about to be saved. A receiver of Django's `pre_save`.

    Raises StaleWrite, or warns, as the settings of the cluster have it.
    """
    source = instance._state.db
    if raw or update_fields is not None or source is None or source == using:
        return
    cluster = topology.cluster_of(using)
    if cluster is None or cluster.stale_write == "allow" or using != cluster.primary:
        return
    if source not in cluster.replicas or instance._state.adding:
        return
    label = instance._meta.label
    message = (
        f"a {label} that was read from {source!r} is saved with all its fields: what others have "
        "written since is undone. Name what changes in save(update_fields=[...]), or read it from "
        "the primary, best with select_for_update()"
    )
    if cluster.stale_write == "raise":
        raise StaleWrite(message, label, source)
    warnings.warn(message, StaleWriteWarning, stacklevel=_depth())


def _depth() -> int:
    """Return how far up the first caller is that is not Django's own."""
    depth, frame = 2, sys._getframe(2)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_DJANGOS):
        depth, frame = depth + 1, frame.f_back
    return depth
