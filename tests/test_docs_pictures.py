"""The pictures of the documentation are what programs draw; the README says what they show."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest

from tests.docs_support import DOCS, ROOT, pages
from tests.pictures import terminal, timeline
from tests.pictures.diagrams import DIAGRAMS
from tests.pictures.load import Visit

IMAGES = DOCS / "images"
FIGURES = json.loads((IMAGES / timeline.FIGURES).read_text())
DRAWN = sorted(IMAGES.glob("*.svg"))


@pytest.mark.parametrize("name", DIAGRAMS)
def test_a_diagram_is_the_one_that_is_drawn(name: str) -> None:
    drawn = (IMAGES / name).read_text()
    assert drawn == DIAGRAMS[name](), "python -m tests.pictures diagrams"


def test_the_timeline_is_drawn_from_its_figures() -> None:
    drawn = (IMAGES / timeline.PICTURE).read_text()
    assert drawn == timeline.picture(FIGURES), "python -m tests.pictures redraw"


@pytest.mark.parametrize("path", DRAWN, ids=lambda path: path.name)
def test_a_picture_is_read_without_anything_else(path) -> None:
    text = path.read_text()
    root = ElementTree.fromstring(text)
    assert root.get("role") == "img"
    assert root.get("aria-label")
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"<script|@import|url\(|href", text)
    assert re.findall(r"https?://[^\"]+", text) == ["http://www.w3.org/2000/svg"]
    assert path.stat().st_size < 40_000


def test_every_picture_is_made_by_a_program_and_shown_on_a_page() -> None:
    made = {*DIAGRAMS, timeline.PICTURE, terminal.PICTURE}
    assert made == {path.name for path in DRAWN}
    shown = "".join(page.read_text() for page in pages())
    for path in IMAGES.iterdir():
        if path.suffix != ".json" and path.name != "dashboard-dark.png":
            assert re.search(rf"!\[[^\]]{{20,}}\]\([./\w]*images/{path.name}\)", shown), path.name


def test_the_readme_says_the_figures_of_its_picture() -> None:
    text = " ".join((ROOT / "README.md").read_text().split())
    djangos, ours = FIGURES["runs"]["django"], FIGURES["runs"]["transaction"]
    assert djangos["requests"] == ours["requests"]
    assert (
        f"Of {ours['requests']:,} requests {djangos['failed']:,} failed with the first,"
        f" {ours['failed']} with the second"
    ) in text
    assert f"PostgreSQL is away for {FIGURES['outage']['took']:.0f} s" in text
    assert f"{FIGURES['machine']['cores']} cores" in text
    for run in (djangos, ours):  # and the bars are all of them
        bars = run["by_second"]
        assert sum(bars["failed"]) == run["failed"]
        assert sum(bars["well"]) + sum(bars["failed"]) == run["requests"]


def test_visits_are_counted_by_the_second_in_which_they_end() -> None:
    visits = [Visit(0.0, 0.5, True), Visit(0.0, 1.5, True), Visit(1.0, 1.9, False)]
    visits.append(Visit(59.0, 999.0, False))
    found = timeline.summed(visits)
    assert (found["requests"], found["failed"], found["slowest_ms"]) == (4, 2, 1500)
    assert found["by_second"]["well"][:3] == [1, 1, 0]
    assert found["by_second"]["failed"][:3] == [0, 1, 0]
    assert found["by_second"]["failed"][-1] == 1


def test_the_terminal_shows_each_line_as_it_was_printed() -> None:
    drawn = terminal.picture("PID  POOL\n1    a<b\n\nfine\n")
    said = [
        node.text for node in ElementTree.fromstring(drawn).iter() if node.tag.endswith("}text")
    ]
    assert said == ["$ python manage.py poolstatus", "PID  POOL", "1    a<b", "fine"]
