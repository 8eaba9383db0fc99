"""One server of a local cluster and its part in replication."""

from __future__ import annotations

from dataclasses import replace

from django_poolkit.testing.errors import ClusterError
from django_poolkit.testing.provision import conninfo
from django_poolkit.testing.server import Server


class Node(Server):
    """A primary or a replica, and what a test can do to it.

    Which of the two it is, the server itself knows (`in_recovery`); verbs for a
    replica raise `ClusterError` on a primary.
    """

    upstream: Node | None = None
    """The node that a replica follows."""
    _led = False
    """Whether that is another one than at the start."""

    @property
    def in_recovery(self) -> bool:
        """True for a replica, False for a primary or a promoted replica."""
        return bool(self._value("SELECT pg_is_in_recovery()"))

    @property
    def streaming(self) -> bool:
        """True if this replica's receiver is connected to its primary.

        Asks the replica alone, so it answers while the primary is paused, too.
        """
        return bool(self.execute("SELECT 1 FROM pg_stat_wal_receiver WHERE status = 'streaming'"))

    def pause_replay(self) -> None:
        """Stop applying what is received: the replica stays up and falls behind."""
        self._check_replica()
        self.execute("SELECT pg_wal_replay_pause()")
        self._wait(
            lambda: self._value("SELECT pg_get_wal_replay_pause_state()") == "paused",
            10.0,
            "replay does not pause",
        )

    def resume_replay(self) -> None:
        """Apply again; returns at once, `wait_caught_up` tells when it is done."""
        self._check_replica()
        self.execute("SELECT pg_wal_replay_resume()")

    def cut_streaming(self) -> None:
        """Cut this replica off from its primary; it stays up with what it has."""
        self._check_replica()
        self.set("primary_conninfo", "")
        self._wait(
            lambda: not self.execute("SELECT 1 FROM pg_stat_wal_receiver"),
            10.0,
            "the receiver does not end",
        )

    def restore_streaming(self, timeout: float = 30.0) -> None:
        """Undo `cut_streaming`; return when the replica receives again."""
        self._check_replica()
        if self._led and self.upstream is not None:
            self.follow(self.upstream, timeout)
            return
        self.reset("primary_conninfo")
        self.wait_streaming(timeout)

    def follow(self, primary: Node, timeout: float = 30.0) -> None:
        """Have this replica follow another node, as after that was promoted.

        Returns when it receives from there. It must not be ahead of where that was promoted.
        """
        self._check_replica()
        source = replace(primary.address, dbname="replication")
        text = conninfo(source, password=source.password, application_name=self.name)
        self.upstream, self._led = primary, True
        self.set("primary_conninfo", text)
        self.wait_streaming(timeout)

    def wait_streaming(self, timeout: float = 30.0) -> None:
        """Block until this replica receives, and its primary says so, too."""
        from psycopg import OperationalError

        # A receiver that is about to be turned away calls itself streaming for a moment
        # (PostgreSQL 18, WalReceiverMain in walreceiver.c).
        query = "SELECT 1 FROM pg_stat_replication WHERE application_name = %s AND state = %s"

        def confirmed() -> bool:
            try:
                sent = self.upstream is None or self.upstream.execute(
                    query, (self.name, "streaming")
                )
            except OperationalError:
                return False  # it is on its way up
            return bool(sent) and self.streaming

        self._wait(confirmed, timeout, "it does not stream")

    def wait_caught_up(self, replica: Node, timeout: float = 30.0) -> None:
        """Block until `replica` shows all that was committed here before the call.

        Commits made with synchronous_commit off count once they are flushed.
        """
        position = self._value("SELECT pg_current_wal_flush_lsn()::text")
        replica._wait(
            lambda: replica._value("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (position,)),
            timeout,
            f"it has not reached {position} of {self.name}",
        )

    def promote(self, timeout: float = 60.0) -> None:
        """Make this replica a primary; return when it takes writes.

        `Cluster.primary` and `.replicas` keep naming what they named at the start.
        """
        self._check_replica()
        self.execute("SELECT pg_promote(wait => false)")
        self._wait(lambda: not self.in_recovery, timeout, "it is not promoted")

    def _check_replica(self) -> None:
        if not self.in_recovery:
            raise ClusterError(f"{self.name} is no replica (or was promoted)")
