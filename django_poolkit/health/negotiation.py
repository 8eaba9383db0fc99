"""Which of several content types a client likes best. Never fails: clients send anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

# Of a header that is longer no more is read: what a client wants it says sooner.
_LONGEST: Final = 2_000

JSON: Final = "application/json"
HEALTH_JSON: Final = "application/health+json"
TEXT: Final = "text/plain"
HTML: Final = "text/html"
OFFERED: Final = (JSON, HEALTH_JSON, TEXT, HTML)


def ranges(accept: str) -> Iterator[tuple[str, float]]:
    """Return the media ranges of an Accept header in their order, in lower case, with qualities.

    A quality that is none is 0.
    """
    for part in accept[:_LONGEST].lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        yield name, quality if 0.0 <= quality <= 1.0 else 0.0


def preferred(accept: str) -> str:
    """Return the content type for a health answer: one of `OFFERED`, JSON where nothing decides."""
    wanted = list(ranges(accept))
    refused = {name for name, quality in wanted if quality == 0.0}
    offered = [kind for kind in OFFERED if kind not in refused and kind != HTML]
    if _is_person(wanted):
        offered.append(HTML)
    best, chosen = 0.0, JSON
    for name, quality in wanted:
        kind = _meant(name, offered)
        if kind and quality > best:
            best, chosen = quality, kind
    return chosen


def _is_person(wanted: Sequence[tuple[str, float]]) -> bool:
    # Java's HttpURLConnection asks for text/html first, with images and a wildcard, for programs
    # that read JSON. A browser takes XHTML too; and who takes no wildcard means what he says.
    names = {name for name, quality in wanted if quality > 0.0}
    return HTML in names and ("application/xhtml+xml" in names or not names & {"*/*", "*"})


def _meant(name: str, offered: Sequence[str]) -> str | None:
    if name in ("*/*", "*"):
        return next(iter(offered), None)
    if name.endswith("/*"):
        return next((kind for kind in offered if kind.startswith(name[:-1])), None)
    return name if name in offered else None
