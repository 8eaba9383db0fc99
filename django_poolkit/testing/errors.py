"""What goes wrong with a local cluster, with the last words of the server."""

from __future__ import annotations


class ClusterError(RuntimeError):
    """The cluster could not do what was asked; the message carries the server's log."""


class ClusterTimeout(ClusterError, TimeoutError):
    """A bounded wait on the cluster ran out."""


class PortTaken(ClusterError):
    """The server could not bind its port."""
