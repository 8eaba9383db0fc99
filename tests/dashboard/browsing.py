"""The example shop with its admin, served by two workers, and what a browser does there."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from django_poolkit.testing import Node
from example_project.processes import listen, url_of
from example_project.serving import Shape, database_environment, site, upstream

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Page

ROOT = Path(__file__).parents[2]
DATABASE = "dashboard"
STAFF = "ada"
# Longer than any test: what asks the supplier holds its connection until the test is over.
SUPPLIER_SECONDS = 25.0
# In one process, since each takes its time to start.
PREPARE = f"""
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "example_project.settings"
import django
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0, skip_checks=True)
call_command("seed", orders=20)
call_command("staff", "{STAFF}")
"""


@dataclass(frozen=True)
class Shop:
    """A shop that is open."""

    url: str
    password: str

    def page(self, browser_page: Page, path: str = "admin/poolkit/") -> list[str]:
        """Log in, and open a page; return what the console will say."""
        said: list[str] = []

        def hear(message: ConsoleMessage) -> None:
            # A browser's own idea: no page of ours names one.
            if not message.location["url"].endswith("/favicon.ico"):
                said.append(f"{message.type}: {message.text}")

        browser_page.on("console", hear)
        browser_page.on("pageerror", lambda error: said.append(f"error: {error}"))
        answer = browser_page.goto(self.url + path)
        while answer is not None and answer.status == 503:  # the pool is still paused, say
            browser_page.wait_for_timeout(500.0)
            answer = browser_page.goto(self.url + path)
        assert answer is not None
        # It is the browser that holds to it: what it refuses is on the console.
        assert answer.headers["content-security-policy"].startswith("default-src 'self';")
        if browser_page.locator("#id_username").count():
            browser_page.fill("#id_username", STAFF)
            browser_page.fill("#id_password", self.password)
            browser_page.click("[type=submit]")
        return said

    def visit(self, path: str) -> None:
        """Have somebody ask for a page of the shop, without waiting for the answer."""

        def ask() -> None:
            with suppress(OSError, urllib.error.URLError):  # when the shop closes
                urllib.request.urlopen(self.url + path, timeout=SUPPLIER_SECONDS).close()

        threading.Thread(target=ask, daemon=True).start()


@contextmanager
def open_shop(primary: Node, home: Path) -> Iterator[Shop]:
    """Run the shop on a database of its own, dropped at the end."""
    primary.create_database(DATABASE)
    password = secrets.token_urlsafe(9)
    try:
        with upstream(home, SUPPLIER_SECONDS) as supplier, listen() as listener:
            environment = {
                **database_environment(primary, primary, DATABASE),
                "SHOP_UPSTREAM_URL": supplier,
                "SHOP_SUPPLIER_TIMEOUT": str(SUPPLIER_SECONDS),
                "SHOP_STAFF": "on",
                "SHOP_STAFF_PASSWORD": password,
                "SHOP_POOL_MODE": "session",
                "SHOP_ROUTING": "off",
                "SHOP_HOME": str(home),
            }
            subprocess.run(
                [sys.executable, "-c", PREPARE],
                env={**os.environ, **environment},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                check=True,
            )
            shape = Shape(pool_size=4, threads=8)
            with site(listener, shape, environment, home / "site.log"):
                yield Shop(url_of(listener), password)
    finally:
        primary.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")
