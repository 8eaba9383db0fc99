"""Where the router is told what it has to know: by the backend, by Django's signals."""

from __future__ import annotations

from django.db.models.signals import pre_save

from django_poolkit.backends import ports
from django_poolkit.routing import (
    choice,
    commands,
    faults,
    leading,
    outage,
    scopes,
    stale,
    topology,
    watching,
    writes,
)
from django_poolkit.routing.errors import LockOnReplica
from django_poolkit.routing.monitor import monitor


def install() -> None:
    """Connect the router with what tells it something, if there are clusters to route in.

    May be called again.
    """
    if not topology.clusters():
        return
    ports.note_write = note_write
    ports.note_lock = note_lock
    ports.note_lone_write = writes.note_lone_write
    ports.ask_commit = writes.ask_commit
    ports.note_commit = writes.note_commit
    ports.choose_host = choice.host_for
    ports.keeps_host = choice.keeps_host
    ports.note_refusal = choice.note_refusal
    ports.reroutes = faults.reroutes
    ports.another_alias = faults.another_alias
    ports.note_broken = faults.note_broken
    ports.explain = outage.explain
    ports.note_standby = outage.note_standby
    ports.note_pool = leading.note_pool
    pre_save.connect(stale.look, dispatch_uid="django_poolkit.stale_write")
    commands.install()


def note_write(alias: str) -> None:
    """Take note that a statement which may write begins on an alias."""
    cluster = topology.cluster_of(alias)
    if cluster is None:
        return
    for watcher in watching.watchers:
        watcher.writing(cluster, alias)
    if alias == cluster.primary:
        scopes.mark_written(cluster.name)
        if not monitor.started:
            outage.begin_to_look(cluster)


def note_lock(alias: str) -> None:
    """Take note that a statement which takes an advisory lock begins on an alias.

    Raises LockOnReplica where that is a replica.
    """
    if topology.role_of(alias) == "replica":
        raise LockOnReplica(
            f"an advisory lock on {alias!r}, which is a replica, would exclude nobody elsewhere: "
            "take it on the primary, by connection.cursor() or within use_primary()"
        )
