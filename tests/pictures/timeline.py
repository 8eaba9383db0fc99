"""What a site answers while a supplier is slow and its database is away: a picture, from a run.

On Django's own pool, and on ours in transaction mode: the same site, server, sizes and visitors.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from example_project.runs import SLOW_UPSTREAM_SECONDS
from example_project.serving import Shape
from tests.benchmarks import machine
from tests.pictures.load import Story, Stream, Visit, shop, told
from tests.pictures.svg import page, text

FIGURES = "with-and-without.json"
PICTURE = "with-and-without.svg"
SHAPE = Shape(pool_size=4, threads=256)
READERS, ASKERS = 30.0, 30.0
"""Visitors a second: of a page with two queries, and of one that asks the supplier in between."""
STORY = Story(
    seconds=60.0,
    streams=(
        Stream("products/p{number}/", READERS, 0.0, 60.0),
        Stream("products/p{number}/quote/", ASKERS, 10.0, 30.0),
    ),
    outage=42.0,
    away=2.0,
)
TITLES = {"django": "Django's own pool", "transaction": "django_poolkit, transaction mode"}

WIDTH, LEFT, RIGHT, PANEL, HEAD = 860, 46, 22, 190, 58
STEP = 40
"""Requests a second from one line to the next."""


def take(images: Path) -> None:
    """Run the story on both pools, and write the figures and the picture."""
    load = machine.load()
    with tempfile.TemporaryDirectory() as home, shop(Path(home)) as (primary, environment):
        visits, away = told(STORY, SHAPE, primary, environment, Path(home))
    figures = {
        "machine": machine.describe() | {"load before": load},
        "pools": {"connections": SHAPE.connections, "timeout": SHAPE.pool_timeout},
        "outage": {"at": STORY.outage, "took": round(away, 1)},
        "runs": {key: summed(found) for key, found in visits.items()},
    }
    (images / FIGURES).write_text(json.dumps(figures, indent=1) + "\n")
    draw(images)


def draw(images: Path) -> None:
    """Write the picture anew, from the figures that are there."""
    figures = json.loads((images / FIGURES).read_text())
    (images / PICTURE).write_text(picture(figures))


def summed(visits: Sequence[Visit]) -> dict[str, Any]:
    """Return what became of the visits, in all and by the second in which they ended."""
    seconds = int(STORY.seconds) + 16
    well, failed = [0] * seconds, [0] * seconds
    for visit in visits:
        (well if visit.well else failed)[min(int(visit.ended), seconds - 1)] += 1
    times = sorted(visit.ended - visit.started for visit in visits if visit.well)
    return {
        "requests": len(visits),
        "failed": sum(failed),
        "slowest_ms": round(times[-1] * 1000) if times else None,
        "by_second": {"well": well, "failed": failed},
    }


def picture(figures: Mapping[str, Any]) -> str:
    """Return the figures as SVG: a panel for each pool, one below the other."""
    body: list[str] = []
    most = _most(figures)
    for number, key in enumerate(TITLES):
        body += _panel(key, figures, HEAD + number * (PANEL + HEAD), most)
    height = 2 * (PANEL + HEAD) + 56
    begin = height - 20
    for second in range(0, int(STORY.seconds) + 1, 10):
        body.append(text(_x(second), begin - 18, f"{second} s", "quiet", "middle"))
    body.append(f'<rect class="ours" x="{LEFT}" y="{begin - 8}" width="11" height="11"/>')
    body.append(text(LEFT + 17, begin + 2, "answered well, a second", "quiet"))
    body.append(f'<rect class="bad" x="{LEFT + 190}" y="{begin - 8}" width="11" height="11"/>')
    body.append(text(LEFT + 207, begin + 2, "failed, a second", "quiet"))
    return page(WIDTH, height, _sentence(figures), body)


def _most(figures: Mapping[str, Any]) -> int:
    """Return what is at the top of a panel: the first line that no bar reaches."""
    found = [
        sum(both)
        for run in figures["runs"].values()
        for both in zip(run["by_second"]["well"], run["by_second"]["failed"], strict=True)
    ]
    return int(max(found) // STEP + 1) * STEP


def _sentence(figures: Mapping[str, Any]) -> str:
    parts = [
        f"{TITLES[key]}: {run['failed']:,} of {run['requests']:,} requests failed"
        for key, run in figures["runs"].items()
    ]
    return "The same site under the same load for a minute. " + "; ".join(parts) + "."


def _x(second: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * second / STORY.seconds


def _panel(key: str, figures: Mapping[str, Any], top: int, most: int) -> Iterator[str]:
    run, bottom = figures["runs"][key], top + PANEL
    crowd = STORY.streams[1]
    outage = figures["outage"]
    for begin, end, what in (
        (crowd.begin, crowd.end, f"a supplier takes {SLOW_UPSTREAM_SECONDS:g} s"),
        (
            outage["at"],
            outage["at"] + outage["took"],
            f"PostgreSQL is away, {outage['took']:.0f} s",
        ),
    ):
        left, right = _x(begin), _x(end)
        yield (
            f'<rect class="event" x="{left:.1f}" y="{top}" '
            f'width="{right - left:.1f}" height="{PANEL}"/>'
        )
        yield text(left + 4, top + 14, what, "quiet")
    for rate in range(0, most + 1, STEP):
        y = bottom - PANEL * rate / most
        yield f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        yield text(LEFT - 8, y + 4, str(rate), "quiet", "end")
    yield from _bars(run["by_second"], bottom, most)
    failed = f"{run['failed']:,} of {run['requests']:,} requests failed"
    yield text(LEFT, top - 14, TITLES[key], "strong")
    yield text(WIDTH - RIGHT, top - 14, failed, "bad" if run["failed"] else "ours", "end")


def _bars(by_second: Mapping[str, Sequence[int]], bottom: int, most: int) -> Iterator[str]:
    wide = _x(1) - _x(0) - 1.5
    for second in range(int(STORY.seconds)):
        y = float(bottom)
        for kind, name in (("well", "ours"), ("failed", "bad")):
            tall = PANEL * by_second[kind][second] / most
            y -= tall
            if tall:
                yield (
                    f'<rect class="{name}" x="{_x(second):.1f}" y="{y:.1f}" '
                    f'width="{wide:.1f}" height="{tall:.1f}"/>'
                )
