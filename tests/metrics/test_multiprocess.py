"""Several workers, whose figures meet in PROMETHEUS_MULTIPROC_DIR: real processes, real pages."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector

from django_poolkit.metrics.multiprocess import Writer
from django_poolkit.metrics.readings import Readings
from django_poolkit.testing.waiting import wait_until
from tests.metrics.conftest import Worker
from tests.metrics.support import Samples, ScriptedPool, assert_grown, parsed, value
from tests.pools.support import Call, make_stats

Start = Callable[..., Worker]
# A write each second, and patience with a machine that is busy.
SOON = 20.0
KINDS = ("counter", "histogram", "gauge_livemax", "gauge_livesum")
"""What the files of a process that has used a pool are called."""


def scrape(folder: Path) -> Samples:
    """Return what any process shows that looks into the folder.

    Asks again, as Prometheus does, where it meets a file in the instant between its creation and
    its first length: each kind of figure has one, made when the first of it is written.
    """
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))
    pages: list[bytes] = []

    def shown() -> bool:
        with suppress(struct.error):
            pages.append(generate_latest(registry))
        return bool(pages)

    wait_until(shown, SOON)
    return parsed(pages[0].decode())


def wait_for_files(folder: Path, processes: int) -> None:
    """Wait until so many processes have begun to write, and have made all of their files.

    A scrape fails that meets one in the instant between its creation and its first length.
    """

    def there() -> bool:
        sizes = [[path.stat().st_size for path in folder.glob(f"{kind}_*.db")] for kind in KINDS]
        return all(len(found) == processes and all(found) for found in sizes)

    wait_until(there, SOON, lambda: str(sorted(path.name for path in folder.iterdir())))


def test_three_workers_are_one_sum_and_the_dead_leave_it(start: Start, tmp_path: Path) -> None:
    first, second, third = (start(tmp_path) for _ in range(3))
    for worker, times in (first, 2), (second, 3), (third, 5):
        assert worker.ask(f"query {times}") == times
        assert worker.ask("hold") == 1

    def shown(acquires: int, used: int, room: int) -> bool:
        samples = first.scrape()
        return (
            value(samples, "poolkit_acquires_total") == acquires
            and value(samples, "poolkit_wait_seconds_count") == acquires
            and value(samples, "poolkit_connections", state="used") == used
            and value(samples, "poolkit_connections_max") == room
            and value(samples, "poolkit_pools", state="open") == used
        )

    wait_for_files(tmp_path, 3)
    wait_until(lambda: shown(13, 3, 12), SOON, lambda: str(first.scrape()))
    before = first.scrape()
    assert value(before, "poolkit_utilization_ratio") == 0.25
    assert value(before, "poolkit_collect_errors_total") == 0

    third.kill()
    wait_until(lambda: shown(13, 2, 8), SOON, lambda: str(first.scrape()))
    assert_grown(before, first.scrape())

    # One that ends by itself has said the last, and takes its gauges along at once.
    assert second.ask("query 4") == 7  # the first of them with the lease it had
    assert second.end() == ""
    assert shown(16, 1, 4), first.scrape()
    assert_grown(before, first.scrape())
    # One lease goes on, and one died with its process.
    assert value(scrape(tmp_path), "poolkit_use_seconds_count") == 14


def test_a_pool_made_anew_and_a_forked_child_are_counted_once(start: Start, tmp_path: Path) -> None:
    worker = start(tmp_path)
    assert worker.ask("query 2") == 2
    assert worker.ask("remake") == 1
    wait_for_files(tmp_path, 1)
    wait_until(lambda: value(scrape(tmp_path), "poolkit_acquires_total") == 3, SOON)
    assert worker.ask("fork 4") == 0
    assert worker.ask("remake") == 1
    assert worker.end() == ""
    samples = scrape(tmp_path)
    assert value(samples, "poolkit_acquires_total") == 8
    assert value(samples, "poolkit_connections_max") is None


def test_a_folder_that_is_named_too_late_is_no_silent_zero(start: Start, tmp_path: Path) -> None:
    worker = start(late=str(tmp_path))
    worker.ask("query 1")
    worker.ask("remake")
    errors = worker.end()
    assert errors.count("event=multiprocess_off") == 1
    assert "set it before Python starts" in errors
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_an_error_and_no_outage(start: Start, tmp_path: Path) -> None:
    worker = start(tmp_path)
    assert worker.ask("pools") == 0
    for path in [*tmp_path.iterdir(), tmp_path]:
        path.unlink() if path.is_file() else path.rmdir()
    assert worker.ask("query 2") == 2
    assert "event=write_failed error=FileNotFoundError" in worker.end()
    tmp_path.mkdir()


@pytest.fixture
def number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Return a function that makes this process one with files of that number."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))

    def become(number: str) -> None:
        monkeypatch.setattr(values, "ValueClass", values.MultiProcessValue(lambda: number))

    yield become
    values.close_all_multiprocess_files()


def test_a_number_that_comes_again_goes_on_counting(
    number: Callable[[str], None], tmp_path: Path
) -> None:
    for acquired in (5, 3):
        number("77")
        pool = ScriptedPool(acquired=acquired)
        Writer(Readings([pool])).write()  # type: ignore[list-item]
    assert value(scrape(tmp_path), "poolkit_acquires_total") == 8


def test_gauges_of_processes_that_live_or_have_other_numbers_stay(
    number: Callable[[str], None], tmp_path: Path
) -> None:
    strange = tmp_path / "gauge_livesum_999999999.db"  # above any process's number
    named = tmp_path / "gauge_livesum_host-a.db"
    alive = tmp_path / "gauge_livemax_1.db"
    for path in strange, named, alive:
        path.touch()
    pool = ScriptedPool()
    pool.says = make_stats(used=1)
    number("3")  # as of uWSGI's third worker
    Writer(Readings([pool])).write()  # type: ignore[list-item]
    assert strange.exists()
    number(str(os.getpid()))
    Writer(Readings([pool])).write()  # type: ignore[list-item]
    assert not strange.exists()
    assert named.exists()
    assert alive.exists()


def test_the_gauges_of_a_pool_that_is_gone_say_nothing(
    number: Callable[[str], None], tmp_path: Path
) -> None:
    number("5")
    table = [ScriptedPool(used=2, acquired=2)]
    readings = Readings(table)  # type: ignore[arg-type]
    writer = Writer(readings)
    writer.write()
    assert value(scrape(tmp_path), "poolkit_connections", state="used") == 2
    table[0].says = make_stats(acquired=2, state="closed")
    table.clear()
    readings.take()  # as with the next pool that opens
    writer.write()
    samples = scrape(tmp_path)
    assert value(samples, "poolkit_connections", state="used") == 0
    assert value(samples, "poolkit_connections_max") == 0
    assert value(samples, "poolkit_acquires_total") == 2


def test_nobody_writes_while_a_fork_is_under_way(
    number: Callable[[str], None], tmp_path: Path
) -> None:
    number("6")
    writer = Writer(Readings([ScriptedPool()]))  # type: ignore[list-item]
    writer.hold()
    call = Call(writer.write)
    call.join(0.2)
    assert list(tmp_path.iterdir()) == []
    writer.let_go()
    call.result()
    assert value(scrape(tmp_path), "poolkit_acquires_total") == 0
