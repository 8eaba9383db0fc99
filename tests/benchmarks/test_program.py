"""The program of all benchmarks: it runs parts, reads their figures, and writes what it says."""

from __future__ import annotations

import importlib.util
import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.benchmarks import machine, page, parts, program
from tests.benchmarks.charts import chart
from tests.benchmarks.figures import Figure, Reading, Table, number, summed, text
from tests.benchmarks.parts import BY_NAME, PARTS, Part

SLEEPER = (sys.executable, "-c", "import time; time.sleep(600)")
SVG = "{http://www.w3.org/2000/svg}"
CRAZY = Table(
    "time <of> all", "µs", "held",
    [
        Figure("one, two", "held", 10.0, 9.0, 12.0, 1.0),
        Figure("one, two", "ours", 12.5, 12.0, 30.0, 1.25),
        Figure("three | four", "held", None, None, None, None),
        Figure("three | four", "ours", 1234.0),
    ],
)  # fmt: skip


@pytest.fixture
def sample() -> dict[str, Any]:
    """What a run writes."""
    part = {
        "name": "peers", "title": "A request", "sentence": "By all pools.", "status": 0,
        "command": "python -m tests.benchmarks.peers", "seconds": 12.5, "tables": [CRAZY.as_json()],
    }  # fmt: skip
    failed = {**part, "name": "soak", "title": "Soak", "status": 1, "tables": [],
              "why": "it was ended after 900 s."}  # fmt: skip
    return {
        "day": "2026-11-22", "form": "short", "seconds": 600.0, "machine": machine.describe(),
        "load": [0.1, 1.5], "parts": [part, failed], "left_out": ["held"],
    }  # fmt: skip


def test_all_parts_are_programs_with_a_help_of_their_own() -> None:
    modules = {path.stem for path in Path(program.__file__).parent.glob("*.py")}
    for part in PARTS:
        assert part.name in modules
        source = (Path(program.__file__).parent / f"{part.name}.py").read_text()
        assert '"--json"' in source or "contest import" in source
        assert part.readings
        for word in (*part.short, *part.long):
            shared = (Path(program.__file__).parent / "contest.py").read_text()
            assert not word.startswith("--") or f'"{word}"' in source + shared, (part.name, word)
    assert len(BY_NAME) == len(PARTS)


@pytest.mark.parametrize("part", PARTS, ids=[part.name for part in PARTS])
def test_the_figures_that_are_read_are_those_that_a_part_writes(part: Part) -> None:
    folder = Path(program.__file__).parent
    sources = [*folder.glob(f"{part.name}*.py"), folder / "contest.py", folder / "async_http.py"]
    text = "".join(source.read_text() for source in sources)
    for reading in part.readings:
        rows = set() if reading.lists else {*reading.by, reading.who, *(reading.spread or ())}
        keys = {reading.key, reading.at, *reading.lists, *reading.where, *rows}
        for key in keys - {""}:
            assert f'"{key}' in text, f"{part.name} has no {key!r}"


def test_it_runs_a_part_and_writes_what_it_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = Part("session_state", "Reading", "A verdict.", BY_NAME["session_state"].readings,
                 short=("--runs", "1"))  # fmt: skip
    monkeypatch.setattr(program, "PARTS", (quick,))
    target, folder = tmp_path / "run.json", tmp_path / "out"
    (folder / "charts").mkdir(parents=True)
    (folder / "charts" / "session_state-7.svg").write_text("of another run")
    (folder / "charts" / "mine.svg").write_text("somebody's own")
    written = tmp_path / "performance.md"
    found = program.main(
        ["--only", "session_state", "--folder", str(folder), "--json", str(target),
         "--page", str(written)]
    )  # fmt: skip
    assert found == 0
    run = json.loads(target.read_text())
    [part] = run["parts"]
    assert part["command"] == "python -m tests.benchmarks.session_state --runs 1"
    [table] = part["tables"]
    assert {each["contestant"] for each in table["figures"]} == {"remembered", "first"}
    assert all(each["value"] is not None for each in table["figures"])
    names = {path.name for path in (folder / "charts").iterdir()}
    assert names == {"session_state-1.svg", "mine.svg"}
    assert (tmp_path / page.PICTURES / "session_state-1.svg").is_file()
    printed = capsys.readouterr()
    assert "== Reading" in printed.out
    assert "[1/1] session_state, after " in printed.err
    for secret in (socket.gethostname(), str(program.ROOT), str(tmp_path), sys.prefix):
        assert secret not in target.read_text() + written.read_text()


def test_a_part_that_prints_nothing_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Part("broken", "Broken", "It is not there.", ())
    monkeypatch.setattr(program, "PARTS", (broken,))
    assert program.main(["--folder", str(tmp_path)]) == 1
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["parts"][0]["status"] == 1
    assert "not as promised: broken" in capsys.readouterr().err


def test_what_runs_is_ended_where_we_are_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    pids: list[int] = []

    class Interrupted(subprocess.Popen[bytes]):
        def wait(self, timeout: float | None = None) -> int:
            if not pids:
                pids.append(self.pid)
                raise KeyboardInterrupt
            return int(super().wait(timeout))

    monkeypatch.setattr("tests.benchmarks.program.subprocess.Popen", Interrupted)
    monkeypatch.setattr(program, "END_WITHIN", 5.0)  # who was started aside hears no Ctrl-C
    with pytest.raises(KeyboardInterrupt):
        program._output([*SLEEPER], "sleeper", 600.0)
    assert not Path(f"/proc/{pids[0]}").exists()


def test_a_part_that_hangs_is_ended_and_the_others_are_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(program, "END_WITHIN", 5.0)
    status, printed = program._output([*SLEEPER], "sleeper", 0.2)
    assert (status, printed) == (program.ENDED, "")
    kept: list[int] = []

    def run_part(part: Part, *, long: bool, within: float) -> dict[str, Any]:
        status = program.ENDED if part.name == "held" else 0
        return {"name": part.name, "title": part.title, "command": "", "seconds": within,
                "status": status, "why": "", "tables": []}  # fmt: skip

    monkeypatch.setattr(program, "run_part", run_part)
    parts = [BY_NAME[name] for name in ("held", "web")]
    run = program.run_all(
        parts, long=False, minutes=1.0, keep=lambda run: kept.append(len(run["parts"]))
    )
    assert [part["status"] for part in run["parts"]] == [program.ENDED, 0]
    assert run["parts"][0]["seconds"] <= 60.0
    assert (kept, run["left_out"]) == ([1, 2], [])
    run = program.run_all(parts, long=False, minutes=1e-9, keep=lambda run: None)
    assert (run["parts"], run["left_out"]) == ([], ["held", "web"])


def test_the_page_of_a_run_has_all_of_it(sample: dict[str, Any], tmp_path: Path) -> None:
    source, written = tmp_path / "run.json", tmp_path / "explanation" / "performance.md"
    source.write_text(json.dumps(sample))
    assert program.main(["--from", str(source), "--page", str(written)]) == 1  # soak failed
    said = written.read_text()
    assert sample["machine"]["cpu"].split()[0] in said
    assert f"PostgreSQL {sample['machine']['postgresql']}" in said
    assert "load average 0.1 as it began, 1.5 as it ended" in said
    assert "| one, two | 10.0 (9.00-12.0); 1.00 × | 12.5 (12.0-30.0); 1.25 × |" in said  # noqa: RUF001
    assert "| three \\| four | none | 1,234 |" in said
    assert "**It ended with status 1**: it was ended after 900 s." in said
    assert "| acquire and release: at most 1.0 of psycopg\\_pool's time |  | not measured |" in said
    assert page.NOTES.read_text().strip() in said
    # What the notes lead to is there even so.
    assert "## Held too long\n\nTwo queries around a call of 0.1 s" in said
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", said):
        assert (written.parent / picture).is_file()
    assert re.findall(r"!\[", said)


def test_runs_of_one_machine_are_joined_and_each_part_is_of_one_of_them(
    sample: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peers, soak = sample["parts"]
    first = {**sample, "parts": [peers], "left_out": ["held", "soak"], "load": [0.2, 1.0]}
    second = {**sample, "day": "2026-11-23", "load": [0.1, 3.0], "left_out": [],
              "parts": [{**peers, "command": "another"}, {**soak, "status": 0}]}  # fmt: skip
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file, run in zip(files, (first, second), strict=True):
        file.write_text(json.dumps(run))
    written = tmp_path / "performance.md"
    assert program.main(["--from", *map(str, files), "--page", str(written)]) == 0

    said = written.read_text()
    assert "from 2 runs on one machine" in said
    assert "| day | 2026-11-22 and 2026-11-23, short form, 20 minutes |" in said
    assert "load average 0.1 at the least as one began or ended, 3.0 at the most" in said
    assert f"`{peers['command']}`" in said
    assert "(`another`)" not in said
    assert "## Soak" in said
    assert "## Held too long\n\nTwo queries around a call of 0.1 s" in said  # in none of them

    files[1].write_text(json.dumps({**second, "machine": {**second["machine"], "cores": 64}}))
    assert program.main(["--from", *map(str, files)]) == 2
    assert "of different machines" in capsys.readouterr().err


def test_a_table_of_many_contestants_stands_upright() -> None:
    wide = Table("t", "s", "", [Figure("one", who, 1.0) for who in ("a", "b", "c")], drawn=False)
    assert [*page._table(wide)] == [
        "| | one |",
        "|---|---|",
        "| a | 1.00 |",
        "| b | 1.00 |",
        "| c | 1.00 |",
    ]


def test_a_picture_is_svg_with_a_bar_for_each_figure_on_light_and_on_dark() -> None:
    drawn = chart(CRAZY)
    root = ElementTree.fromstring(drawn)
    bars = [each for each in root.iter(f"{SVG}rect") if each.get("class") in ("bar", "ours")]
    assert [each.get("class") for each in bars] == ["bar", "ours", "bar", "ours"]
    widths = [float(each.attrib["width"]) for each in bars]
    assert widths[2] == 0.0  # who gave up
    assert widths[1] / widths[0] == pytest.approx(1.25, abs=0.01)
    words = {each.text for each in root.iter(f"{SVG}text")}
    assert {"time <of> all, µs", "three | four", "12.5 (12.0-30.0)", "none"} <= words
    assert "prefers-color-scheme: dark" in drawn
    assert "<script" not in drawn
    assert "http" not in drawn.replace("http://www.w3.org/2000/svg", "")


def test_a_reading_takes_the_figures_out_of_rows() -> None:
    rows = [
        {"measure": "a", "size": 1_000, "contestant": "held", "s": 2.0, "s_low": 1.0, "s_high": 3},
        {"measure": "a", "size": 1_000, "contestant": "ours", "s": 1.0},
        {"measure": "a", "size": 1_000, "contestant": "gave up", "s": None},
        {"measure": "a", "size": 1_000, "contestant": "for ever", "s": float("inf")},
        {"measure": "a", "size": 1_000, "contestant": "failed", "failed": ["Error"]},
        {"measure": "b", "size": 5, "contestant": "ours", "s": 4.0},
    ]  # fmt: skip
    reading = Reading(title="t", unit="ms", key="s", times=1000.0, by=("measure", "size"),
                      base="held", where={"measure": "a"})  # fmt: skip
    table = reading.table(rows)
    assert table.measures == ["a, size 1,000"]
    assert table.figures[0] == Figure("a, size 1,000", "held", 2000.0, 1000.0, 3000.0, 1.0)
    assert table.figures[1] == Figure("a, size 1,000", "ours", 1000.0, None, None, 0.5)
    assert [each.value for each in table.figures[2:]] == [None, None]
    assert Table.from_json(json.loads(json.dumps(table.as_json()))) == table
    assert "0.50 x" in text(table)
    found = Reading(title="t", unit="/s", lists=("off", "on"), base="off").table(
        {"off": [1.0, 2.0, 9.0], "on": [1.0, 1.0]}
    )
    assert found.figures[1] == Figure("t", "on", 1.0, 1.0, 1.0, 0.5)
    assert (found.figures[0].value, found.figures[0].high) == (2.0, 9.0)


def test_numbers_have_the_digits_that_count() -> None:
    found = [number(value) for value in (None, 0.0, 0.00001, 0.1234, 1.234, 12.34, 1234.5)]
    assert found == ["none", "0.000", "1.0e-05", "0.123", "1.23", "12.3", "1,234"]
    assert summed([1.0, None, 2.0], "x") == {"x": 2.0, "x_low": 1.0, "x_high": None}


def test_the_list_names_each_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [part.name for part in PARTS]
    assert importlib.util.find_spec(parts.BY_NAME["pool"].module)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--only", "nothing"],
        ["--from", "run.json", "--long"],
        ["--from", "missing"],
        ["--minutes", "0"],
    ],
)
def test_options_that_make_no_sense_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        program.parsed(arguments)
    assert end.value.code == 2
