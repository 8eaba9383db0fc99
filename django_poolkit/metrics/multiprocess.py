"""The figures of each worker, where prometheus_client adds them up: PROMETHEUS_MULTIPROC_DIR.

In this mode a scrape is answered from the files of all processes, and asks no collector. So each
process that uses a pool writes its figures there, about once a second. Counters and histograms of
a process that ended stay in the sums; its gauges leave with it. One that is killed cannot take
them along: the others look for the gauges of the dead, each time they write.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from prometheus_client import values

from django_poolkit.metrics.families import LE, Family, Series
from django_poolkit.metrics.readings import Readings, readings
from django_poolkit.metrics.statuses import Value
from django_poolkit.pools.endings import at_end
from django_poolkit.pools.forks import in_child

logger = logging.getLogger("django_poolkit.metrics")

_INTERVAL: Final = 1.0
# A fork waits this long for a write under way, which takes a thousandth of it.
_FORK_PATIENCE: Final = 1.0

_Key = tuple[Family, Series]


def directory() -> Path | None:
    """Return the folder that the environment names, None where it names none."""
    named = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return Path(named) if named else None


def is_too_late() -> bool:
    """Tell whether the folder was named after prometheus_client had been imported.

    It decides at its import whether figures go into files.
    """
    return directory() is not None and not getattr(values.ValueClass, "_multiprocess", False)


class Writer:
    """Writes what `readings` say into the files of prometheus_client, from a thread of its own."""

    def __init__(self, source: Readings = readings) -> None:
        self._source = source
        self._complained = False
        # Made once for a series: prometheus_client keeps each for ever, and renews it in a child.
        self._cells: dict[_Key, list[Any]] = {}
        self.forget()

    def forget(self) -> None:
        """Begin at nothing, as the pools of a forked child do."""
        self._lock = threading.RLock()  # guards the files, and what follows
        self._holder = 0
        self._thread: threading.Thread | None = None
        self._end = threading.Event()
        self._written: dict[_Key, Value] = {}

    def hold(self) -> None:
        """Keep the thread from writing. Blocks while it does, for a second at most."""
        if self._lock.acquire(timeout=_FORK_PATIENCE):
            self._holder = threading.get_ident()

    def let_go(self) -> None:
        """Take back `hold()`."""
        if self._holder == threading.get_ident():
            self._holder = 0
            self._lock.release()

    def start(self, pool: object = None) -> None:
        """Begin to write, unless this process does so already. Called before a pool opens."""
        if self._thread is not None or self._end.is_set() or directory() is None:
            return
        if is_too_late():
            self._complain(
                "event=multiprocess_off PROMETHEUS_MULTIPROC_DIR was set after prometheus_client "
                "had been imported, so that no figure of this process reaches a scrape: set it "
                "before Python starts"
            )
            return
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="poolkit-metrics", daemon=True)
                thread.start()
                self._thread = thread

    def _run(self) -> None:
        end = self._end
        while not end.wait(_INTERVAL):
            self.write()

    def stop(self) -> None:
        """Write for the last time, and take this process's gauges out of the sums.

        Blocks for the length of a write.
        """
        if self._thread is None:
            return
        self._end.set()
        with self._lock, suppress(OSError):
            self._thread = None
            self.write()
            self._remove_gauges(lambda pid: pid == os.getpid())

    def write(self) -> None:
        """Bring this process's files up to date, and remove the gauges of processes that died."""
        try:
            with self._lock:
                self._write()
                self._remove_gauges(_dead)
        except Exception as error:  # as where the folder is gone, or the disk full
            self._complain("event=write_failed error=%s", type(error).__name__)

    def _write(self) -> None:
        # The gauges of a pool that is gone are to say 0.
        now: dict[_Key, Value] = {key: (0,) for key in self._written if key[0].kind == "gauge"}
        for family, found in self._source.take().items():
            now |= {(family, series): value for series, value in found.items()}
        for key, value in now.items():
            before = self._written.get(key, (0,) * len(value))
            for cell, new, old in zip(self._cells_of(key), value, before, strict=True):
                if key[0].kind == "gauge":
                    cell.set(new)
                elif new > old:
                    # A number used before may be ours now, and the file with its counts as well.
                    cell.inc(new - old)
            self._written[key] = value

    def _cells_of(self, key: _Key) -> list[Any]:
        if key not in self._cells:
            self._cells[key] = _make_cells(*key)
        return self._cells[key]

    def _remove_gauges(self, of: Callable[[int], bool]) -> None:
        folder = directory()
        if folder is None or not (folder / f"gauge_livesum_{os.getpid()}.db").exists():
            return  # its files are named by other numbers than those of processes
        for path in folder.glob("gauge_live*_*.db"):
            pid = path.stem.rpartition("_")[2]
            if pid.isdecimal() and of(int(pid)):
                with suppress(FileNotFoundError):  # another worker was faster
                    path.unlink()

    def _complain(self, text: str, *arguments: object) -> None:
        if not self._complained:
            self._complained = True
            logger.error(text, *arguments)


def _dead(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # another user's, and alive
    return False


def _make_cells(family: Family, series: Series) -> list[Any]:
    """Return the numbers of a series in this process's files, made where they are not there."""
    labels, texts = family.labels, family.values(series)
    name = family.name.removesuffix("_total") if family.kind == "counter" else family.name

    def cell(sample: str, labels: tuple[str, ...], texts: tuple[str, ...]) -> Any:
        mode = f"live{family.across}" if family.kind == "gauge" else ""
        return values.ValueClass(
            family.kind, name, sample, labels, texts, family.help, multiprocess_mode=mode
        )

    if family.kind != "histogram":
        return [cell(family.name, labels, texts)]
    buckets = [cell(f"{name}_bucket", (*labels, "le"), (*texts, le)) for le in LE]
    return [*buckets, cell(f"{name}_sum", labels, texts)]


writer: Final = Writer()
"""That of this process."""

# A child would find prometheus_client's own lock held for ever by a thread that it has not got.
os.register_at_fork(before=writer.hold, after_in_parent=writer.let_go)
in_child(writer.forget)
at_end(writer.stop)
