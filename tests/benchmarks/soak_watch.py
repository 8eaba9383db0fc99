"""What `tests.benchmarks.soak` watches: the sums of the pools, and what the process has."""

from __future__ import annotations

import gc
import os
import threading
from dataclasses import astuple, dataclass
from typing import Any, Final

from example_project.vitals import vitals
from tests.benchmarks.figures import Row, number

SAMPLE_EVERY: Final = 0.1
"""Seconds."""


@dataclass(frozen=True)
class Moment:
    """What there is when nobody does anything."""

    threads: int
    files: int
    objects: int
    mib: float

    def allowed(self) -> Moment:
        """Return what there may be later: a leak of a little each time would be beyond it."""
        return Moment(
            self.threads + 2, self.files + 2, int(self.objects * 1.05) + 3_000, self.mib * 1.1 + 8
        )


def look(pools: dict[str, Any]) -> Moment:
    """Count what there is."""
    gc.collect()
    own = vitals(os.getpid())
    sockets = sum(stats.size + stats.probing for stats in (p.stats() for p in pools.values()))
    return Moment(own.threads, own.files - sockets, len(gc.get_objects()), own.memory / 2**20)


class Sampler:
    """Looks at the pools' figures, ten times a second, from a thread of its own."""

    def __init__(self, pools: dict[str, Any]) -> None:
        self.samples = 0
        self.findings: list[str] = []
        self._pools = pools
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler")
        self._thread.start()

    def end(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(SAMPLE_EVERY):
            for alias, pool in self._pools.items():
                self.samples += 1
                if wrong := miscounted(pool.stats()):
                    self.findings.append(f"{alias}: {wrong}")


def miscounted(stats: Any) -> str | None:
    """Return what is wrong with a pool's figures, None where nothing is."""
    parts = stats.idle, stats.used, stats.connecting
    if stats.size == sum(parts) and min(parts) >= 0 and stats.size <= stats.max_size:
        return None
    idle, used, connecting = parts
    return (
        f"size {stats.size} of {stats.max_size}, idle {idle}, used {used}, connecting {connecting}"
    )


def growth(moments: list[Moment]) -> tuple[list[Row], list[str]]:
    """Compare the last quiet moment with the first ones; return the counts, and what has grown.

    With the most of their first half: a thread, or a loop, that is only started when it is first
    needed may be so after the first of all. What grows goes on growing in the second half.
    """
    if not moments:
        return [], ["there was no quiet moment"]
    begun, late = moments[: max(1, len(moments) // 2)], moments[-1]
    early = Moment(*(max(figures) for figures in zip(*map(astuple, begun), strict=True)))
    allowed = early.allowed()
    counts: list[Row] = []
    grown = []
    for name, title in (
        ("threads", "threads"), ("files", "open files"), ("objects", "objects"), ("mib", "MiB"),
    ):  # fmt: skip
        three = {
            when: getattr(moment, name)
            for when, moment in (("early", early), ("late", late), ("allowed", allowed))
        }
        counts += [{"measure": title, "when": when, "value": v} for when, v in three.items()]
        if three["late"] > three["allowed"]:
            grown.append(f"{title}: from {number(three['early'])} to {number(three['late'])}")
    return counts, grown
