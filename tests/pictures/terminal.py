"""What `poolstatus` prints, as a picture, from a shop that is being visited."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from html import escape
from pathlib import Path

from example_project.bootstrap import ROOT
from example_project.processes import listen, url_of
from example_project.runs import ENGINES
from example_project.serving import Shape, site
from tests.pictures.load import MANAGE, shop
from tests.pictures.svg import page, text

PICTURE = "poolstatus.svg"
COMMAND = "poolstatus"
SHAPE = Shape(pool_size=4, threads=32)
SECONDS = 20.0
"""For which visitors have come when it is asked."""
WIDE, TALL = 7.3, 17.0
"""Of a character."""


def take(images: Path) -> None:
    """Ask a shop that is being visited, and write what it says as a picture."""
    with tempfile.TemporaryDirectory() as home, shop(Path(home)) as (_, environment):
        variables = {**environment, **ENGINES[0].variables}
        with listen() as listener, site(listener, SHAPE, variables, Path(home) / "site.log"):
            over = threading.Event()
            visitors = [
                threading.Thread(target=_visit, args=(url_of(listener), number, over))
                for number in range(12)
            ]
            for each in visitors:
                each.start()
            time.sleep(SECONDS)
            said = _ask(variables)
            over.set()
            for each in visitors:
                each.join()
    (images / PICTURE).write_text(picture(said))


def _visit(url: str, number: int, over: threading.Event) -> None:
    """Look at a page again and again; a third of them ask the supplier as well."""
    end = "quote/" if number % 3 == 0 else ""
    while not over.is_set():
        with suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"{url}products/p{number + 1:05}/{end}", timeout=30).close()
        over.wait(0.05)


def _ask(variables: dict[str, str]) -> str:
    done = subprocess.run(
        [*MANAGE, COMMAND],
        env={**os.environ, **variables, "COLUMNS": "110"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,  # 1 says that somebody waits
    )
    return done.stdout + done.stderr


def picture(said: str) -> str:
    """Return the output of the command as SVG, in letters of one width whatever the font."""
    lines = [f"$ python manage.py {COMMAND}", *said.rstrip().splitlines()]
    width = int(max(map(len, lines)) * WIDE) + 40
    body = []
    for number, line in enumerate(lines):
        y = 30 + number * TALL
        if not number:
            body.append(text(20, y, line, "mono strong"))
        elif line:
            long = len(line.rstrip()) * WIDE
            kind = "mono quiet" if line.isupper() else "mono"
            body.append(
                f'<text x="20" y="{y:.1f}" class="{kind}" xml:space="preserve" '
                f'textLength="{long:.1f}" lengthAdjust="spacingAndGlyphs">'
                f"{escape(line.rstrip())}</text>"
            )
    return page(width, int(30 + len(lines) * TALL) + 6, "What poolstatus prints", body)
