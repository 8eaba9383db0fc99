"""Where a server stands in its cluster: its role, its timeline, and how far it has come."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import Final

from django_poolkit.pools.postgres.prober import Prober, framed

# What a primary has flushed is what a replica can have. A replica's timeline is that of its
# receiver, which only pg_read_all_stats shows; the control file has it since the last restart
# point. A replica fed by an archive needs no receiver.
_QUESTION: Final = b"""
SELECT r.recovering, c.system_identifier,
    CASE WHEN r.recovering THEN greatest(
             (SELECT w.received_tli FROM pg_stat_get_wal_receiver() w),
             (SELECT m.min_recovery_end_timeline FROM pg_control_recovery() m),
             (SELECT k.timeline_id FROM pg_control_checkpoint() k))
         ELSE ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::int END,
    CASE WHEN r.recovering THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END
        - '0/0'::pg_lsn,
    EXISTS (SELECT FROM pg_stat_get_wal_receiver() w WHERE w.pid IS NOT NULL)
        OR current_setting('restore_command') <> '',
    CASE WHEN r.recovering
         THEN extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) END
FROM (SELECT pg_is_in_recovery() AS recovering OFFSET 0) r, pg_control_system() c
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a server stood at one moment."""

    observed: float
    """When it was asked, by the monotonic clock."""
    in_recovery: bool
    """Whether it is a replica."""
    system: int
    """Which cluster of servers it belongs to."""
    timeline: int
    """Which of its histories it is on. Of a replica it may be an earlier one, up to its next
    restart point, where the role has not got pg_read_all_stats."""
    position: int
    """How much a primary has written, or a replica has replayed: bytes of the log."""
    fed: bool
    """Whether a replica has somebody who sends to it."""
    age: float | None
    """Seconds since the newest commit that a replica shows; None where there is none. Grows
    while the primary has nothing to do."""


def ask(prober: Prober, seconds: float) -> Standing:
    """Ask a server where it stands. Blocks for `seconds`, a tenth more at most.

    Raises ProbeFailed.
    """
    observed = monotonic()
    row = prober.row(framed(_QUESTION, seconds), seconds)
    recovering, system, timeline, position, fed, age = row
    return Standing(
        observed=observed,
        in_recovery=recovering == b"t",
        system=int(system or b"0"),
        timeline=int(timeline or b"0"),
        position=int(position or b"0"),
        fed=fed == b"t",
        age=None if age is None else max(0.0, float(age)),
    )
