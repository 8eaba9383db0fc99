"""Take the pictures of the documentation: `python3 -m tests.screenshots`.

Of the example shop, served by two workers on a real PostgreSQL, while visitors use it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from django_poolkit.testing import Cluster
from tests.dashboard.browsing import ROOT, Shop, open_shop

IMAGES = ROOT / "docs" / "images"
LARGEST = 150_000
"""Bytes of a picture: they are in the repository."""
SIZE = {"width": 1180, "height": 900}
VISITORS = 5


def main() -> int:
    """Take them; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=120.0, help="how long visitors come")
    options = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        print("error: there is no chromium on PATH", file=sys.stderr)
        return 1
    IMAGES.mkdir(exist_ok=True)
    with (
        Cluster() as cluster,
        tempfile.TemporaryDirectory() as home,
        open_shop(cluster.primary, Path(home)) as shop,
        sync_playwright() as playwright,
    ):
        _receive_visitors(shop, options.seconds)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        sizes = [_take(browser, shop, scheme) for scheme in ("light", "dark")]
        browser.close()
    return 0 if max(sizes) < LARGEST else 1


def _receive_visitors(shop: Shop, seconds: float) -> None:
    """Have some visitors look around, and in the end a few who wait for the supplier."""
    end = time.monotonic() + seconds

    def visit(number: int) -> None:
        while time.monotonic() < end:
            with suppress(urllib.error.URLError):
                urllib.request.urlopen(shop.url + "products/p00001/", timeout=30.0).close()
            # In waves, so that there is something to see.
            time.sleep(0.02 if (time.monotonic() // 15 + number) % 3 else 1.0)

    threads = [threading.Thread(target=visit, args=(n,)) for n in range(VISITORS)]
    for thread in threads:
        thread.start()
    time.sleep(seconds / 2)
    for number in range(4):
        shop.visit(f"products/p{number + 1:05}/quote/")
    for thread in threads:
        thread.join()
    for number in range(3):
        shop.visit(f"products/p{number + 1:05}/quote/")


def _take(browser: Browser, shop: Shop, scheme: str) -> int:
    """Take one picture; return its size."""
    context = browser.new_context(color_scheme=scheme, viewport=SIZE)  # type: ignore[arg-type]
    page = context.new_page()
    shop.page(page)
    page.wait_for_selector("th:has-text('GET quote')")
    page.click("#toggle-nav-sidebar")
    path = IMAGES / f"dashboard-{scheme}.png"
    page.screenshot(path=path, full_page=True)
    context.close()
    size = path.stat().st_size
    print(f"{path.relative_to(ROOT)}: {size} bytes")
    return size


if __name__ == "__main__":
    sys.exit(main())
