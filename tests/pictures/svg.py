"""SVG that is read on light and on dark pages, with nothing in it that comes from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

STYLE = """
svg { color-scheme: light dark; font: 13px system-ui, sans-serif; }
.page { fill: #ffffff; stroke: #d9dde5; } text { fill: #1f2430; }
.strong { font-weight: 600; } .quiet { fill: #5b6270; } .mono { font-family: monospace; }
.ours { fill: #1a7f5a; } .bad { fill: #c43d3d; } .warn { fill: #9a6700; }
.event { fill: #f0d9a8; opacity: .55; } .grid { stroke: #c9ced8; stroke-dasharray: 2 4; }
.box { fill: #f3f5f9; stroke: #8a94a6; } .own { fill: #e2f3ec; stroke: #1a7f5a; }
.arrow { stroke: #5b6270; fill: none; stroke-width: 1.4; } .tip { fill: #5b6270; }
@media (prefers-color-scheme: dark) {
  .page { fill: #14171f; stroke: #2c313d; } text { fill: #e8eaf0; }
  .quiet { fill: #a2a9b8; } .ours { fill: #3fbf8f; }
  .bad { fill: #f07878; } .warn { fill: #e0b050; }
  .event { fill: #6b5320; } .grid { stroke: #3a4150; }
  .box { fill: #1f2430; stroke: #6f7a8f; } .own { fill: #16352a; stroke: #3fbf8f; }
  .arrow { stroke: #a2a9b8; } .tip { fill: #a2a9b8; }
}
"""


def page(width: int, height: int, title: str, body: Iterable[str]) -> str:
    """Return a picture; its title is read to those who do not see it."""
    frame = f'<rect class="page" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="6"/>'
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title)}">'
    )
    return "\n".join((head, f"<style>{STYLE}</style>", frame, *body, "</svg>\n"))


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    """Return words at a place; `anchor` says which end of them is there."""
    name = f' class="{kind}"' if kind else ""
    end = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{name}{end}>{escape(words)}</text>'
