"""The program of leases by themselves: it runs, with all pools."""

from __future__ import annotations

import json
import threading

import pytest

from tests.benchmarks import micro, micro_pools
from tests.benchmarks.micro_pools import Contestant


def test_it_measures_all_pools(capsys: pytest.CaptureFixture[str]) -> None:
    micro.main(["--json", "--rounds", "1", "--times", "5", "--seconds", "0.05"])
    rows = json.loads(capsys.readouterr().out)
    by: dict[str, set[str]] = {}
    for row in rows:
        by.setdefault(row["measure"], set()).add(row["contestant"])
    pools = {
        micro_pools.OURS,
        micro_pools.THEIRS,
        micro_pools.CHECKED,
        micro_pools.ALCHEMY,
        micro_pools.ASKING,
    }
    resetting = {micro_pools.ALWAYS, micro_pools.RESETTING}
    assert by == {
        "acquire, release": pools,
        "clean": {micro_pools.RAW} | pools | resetting,
        "dirty": {micro_pools.RAW, micro_pools.OURS} | resetting,
        "SELECT 1, 8 threads": {micro_pools.RAW} | pools,
        "SELECT 1, 64 threads": {micro_pools.RAW} | pools,
    }
    for row in rows:
        if "threads" in row["measure"]:
            assert row["rate"] > 0
            assert 0 < row["jain"] <= 1.0
            assert row["longest"] > 0
        else:
            assert 0 < row["us_low"] <= row["us"] <= row["us_high"]
        assert row["contestant"] in micro.show(row)


def test_a_thread_that_cannot_begin_ends_the_round() -> None:
    left = []

    def refuse(statement: str | None) -> None:
        raise ConnectionError("no")

    def leave() -> None:
        left.append(threading.get_ident())

    said: list[threading.ExceptHookArgs] = []
    before, threading.excepthook = threading.excepthook, said.append
    try:
        with pytest.raises(threading.BrokenBarrierError):
            micro.crowd(Contestant("refused", refuse, leave=leave), 2, 0.01)
    finally:
        threading.excepthook = before


def test_its_help_says_how_to_read_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        micro.parsed(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for word in (micro_pools.RAW, micro_pools.ALCHEMY, "dirty", "jain", "longest", "--rounds"):
        assert word in text
    with pytest.raises(SystemExit):
        micro.parsed(["--rounds", "0"])
