"""A table as a picture: bars with their spread, in SVG that is read on light and on dark pages.

Written here, as no library that is light has both: bars with a spread, and colours that follow the
reader's. Without scripts, fonts or anything else from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from tests.benchmarks.figures import Figure, Table, spread

WIDTH, LABEL, VALUE = 860, 250, 190
BAR, GAP, HEAD = 16, 6, 30
ROOM = WIDTH - LABEL - VALUE

STYLE = """
svg { color-scheme: light dark; font: 13px system-ui, sans-serif; }
.page { fill: #ffffff; } text { fill: #1f2430; } .quiet { fill: #5b6270; }
.bar { fill: #8a94a6; } .ours { fill: #1a7f5a; } .spread { stroke: #1f2430; }
@media (prefers-color-scheme: dark) {
  .page { fill: #14171f; } text { fill: #e8eaf0; } .quiet { fill: #a2a9b8; }
  .bar { fill: #6f7a8f; } .ours { fill: #3fbf8f; } .spread { stroke: #e8eaf0; }
}
"""


def chart(table: Table) -> str:
    """Return a table as SVG: a group of bars for each measure, each group on a scale of its own."""
    body: list[str] = []
    top = HEAD
    for measure in table.measures:
        figures = table.of(measure)
        body.append(_text(8, top + 14, measure, "measure"))
        top += BAR + GAP
        most = max((_most(figure) for figure in figures), default=0.0) or 1.0
        for figure in figures:
            body += _bar(figure, top, most)
            top += BAR + GAP
        top += GAP
    title = f"{table.title}, {table.unit}"
    name = escape(title, quote=True)
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}"',
            f'role="img" aria-label="{name}">',
            f"<style>{STYLE}</style>",
            f'<rect class="page" width="{WIDTH}" height="{top}" rx="6"/>',
            f'<text x="8" y="20" font-weight="600">{escape(title)}</text>',
            *body,
            "</svg>\n",
        )
    )


def _most(figure: Figure) -> float:
    return max(figure.value or 0.0, figure.high or 0.0)


def _text(x: float, y: float, words: str, kind: str) -> str:
    style = ' class="quiet"' if kind == "quiet" else ' font-style="italic"'
    style = "" if kind == "plain" else style
    return f'<text x="{x:.0f}" y="{y:.0f}"{style}>{escape(words)}</text>'


def _bar(figure: Figure, top: int, most: float) -> Iterator[str]:
    middle = top + BAR - 4
    yield _text(20, middle, figure.contestant, "plain")
    kind = "ours" if "ours" in figure.contestant or "poolkit" in figure.contestant else "bar"
    long = (figure.value or 0.0) / most * ROOM
    yield f'<rect class="{kind}" x="{LABEL}" y="{top}" width="{long:.1f}" height="{BAR}" rx="2"/>'
    end = long
    if figure.low is not None and figure.high is not None and figure.high > figure.low:
        left, right = (LABEL + value / most * ROOM for value in (figure.low, figure.high))
        y = top + BAR / 2
        yield f'<path class="spread" d="M{left:.1f} {y}H{right:.1f}" stroke-width="1.5"/>'
        end = max(end, right - LABEL)
    yield _text(LABEL + end + 6, middle, spread(figure), "quiet")
