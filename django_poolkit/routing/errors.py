"""What the router has to say against what a program does."""

from __future__ import annotations

from django.db import NotSupportedError, OperationalError

from django_poolkit.backends.postgresql.errors import PoolTimeout


class ReplicasBehind(OperationalError):
    """A replica cannot be reached, and no other one has what the visitor has to see."""


class NoReplica(OperationalError):
    """No replica may be read at present, and the primary is not to be read in its place."""


class PrimaryUnavailable(PoolTimeout):
    """The primary of a cluster gives no connection: what needs it fails, replicas are read on.

    Comes from the PoolTimeout of its pool, whose attributes it has.
    """

    cluster: str = ""
    """Its name in `POOLKIT["CLUSTERS"]`."""
    reason: str = "refuses"
    """Why there is none: it `refuses`, or another server is in its place (`timeline`, `system`)."""


class LockOnReplica(NotSupportedError):
    """A statement takes an advisory lock on a replica, where it would exclude nobody elsewhere."""


class StaleWrite(Exception):
    """An object that a replica has given is being saved with all its fields.

    The replica may have been behind: then this undoes what others have written since.
    """

    model: str
    """Label of the object's model."""
    alias: str
    """Where it was read."""

    def __init__(self, message: str, model: str = "", alias: str = "") -> None:
        super().__init__(message, model, alias)
        self.model = model
        self.alias = alias

    def __str__(self) -> str:
        return str(self.args[0])


class StaleWriteWarning(UserWarning):
    """As `StaleWrite`, where the settings have it only told."""
