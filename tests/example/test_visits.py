"""Visitors who look for what they have written: what is counted, and what is a broken promise."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections import Counter
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from rich.console import Console

from example_project import visits
from example_project.report import visits_table
from example_project.runs import ENGINES
from example_project.visits import Visits, verdicts

ROOT = Path(__file__).parents[2]


class Replica:
    """A node that only notes what is done to it."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def pause_replay(self) -> None:
        self.done.append("pause")

    def resume_replay(self) -> None:
        self.done.append("resume")


class Shop:
    """A site that shows an order to whoever brings the cookie of it, or to everybody."""

    def __init__(self, *, forgets: bool) -> None:
        self._forgets = forgets
        self.orders: dict[str, list[int]] = {}
        self.after_an_order: Counter[str] = Counter()
        self._ordered: set[str] = set()
        self.answer = 200

    async def post(self, request: web.Request) -> web.Response:
        customer = str((await request.json())["customer"])
        number = sum(map(len, self.orders.values())) + 1
        self.orders.setdefault(customer, []).append(number)
        self._ordered.add(customer)
        response = web.json_response({"order": number}, status=201)
        response.set_cookie("last", str(number))
        return response

    async def own(self, request: web.Request) -> web.Response:
        customer = request.match_info["customer"]
        self.after_an_order["own"] += customer in self._ordered
        self._ordered.discard(customer)
        known = self.orders.get(customer, [])
        if self._forgets:
            known = [int(request.cookies["last"])] if "last" in request.cookies else []
        text = "".join(f"<td>{number}</td>" for number in known)
        return web.Response(text=text, status=self.answer, headers={"X-Read-From": "replica"})

    async def product(self, request: web.Request) -> web.Response:
        return web.Response(headers={"X-Read-From": "default, replica"})

    def measure(self, seconds: float = 0.4) -> tuple[list[Visits], Replica]:
        """Have visitors at this site, served from a thread of its own."""
        app = web.Application()
        app.router.add_post("/orders/", self.post)
        app.router.add_get("/customers/{customer}/orders/", self.own)
        app.router.add_get("/products/{sku}/", self.product)
        ready, replica, url = threading.Event(), Replica(), [""]
        loop = asyncio.new_event_loop()
        runner = web.AppRunner(app)

        async def start() -> None:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            url[0] = f"http://{host}:{port}/"
            ready.set()

        def serve() -> None:
            loop.run_until_complete(start())
            loop.run_forever()
            loop.run_until_complete(runner.cleanup())
            loop.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            assert ready.wait(10.0)
            node: Any = replica
            return visits.measure(url[0], node, 4, seconds), replica
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has to warm up here."""
    monkeypatch.setattr(visits, "WARM_UP", 0.05)


def test_who_keeps_cookies_finds_the_order_where_the_site_needs_them():
    (kept, thrown), _ = Shop(forgets=True).measure()

    assert kept.orders > 0
    assert kept.stale.total() == 0
    assert thrown.stale.total() > 0
    assert not kept.failures + thrown.failures


def test_what_is_there_for_everybody_is_never_missed():
    found, _ = Shop(forgets=False).measure()

    assert [each.stale.total() for each in found] == [0, 0]
    assert all(each.orders and each.pages.total() for each in found)


def test_each_order_is_looked_at_next():
    shop = Shop(forgets=False)
    shop.measure()

    placed = sum(map(len, shop.orders.values()))
    # Of each visitor of the three rounds the last may come too late.
    assert placed - 12 <= shop.after_an_order["own"] <= placed


def test_the_replica_pauses_and_goes_on_in_turns_and_is_left_going_on():
    (kept, thrown), replica = Shop(forgets=False).measure(0.8)

    for found in (kept, thrown):
        assert set(found.pages) == {"replaying", "paused"}
        assert all(found.seconds[state] for state in found.pages)
    assert replica.done[-1] == "resume"
    assert replica.done.count("pause") >= 4
    waiting = 0
    for step in replica.done:
        waiting = waiting + 1 if step == "pause" else 0
        assert waiting <= 1


def test_what_is_not_read_from_the_replica_alone_is_not_counted_as_its():
    found, _ = Shop(forgets=False).measure()

    for each in found:
        assert 0 < each.from_replica.total() < each.pages.total()


def test_a_page_that_fails_is_a_failure_and_no_page():
    shop = Shop(forgets=False)
    shop.answer = 500
    (kept, _), _ = shop.measure()

    assert set(kept.failures) == {"500"}
    assert kept.from_replica.total() == kept.stale.total() == 0


def met(**changes: Any) -> Visits:
    values: dict[str, Any] = {
        "key": "kept",
        "title": "cookies kept",
        "remembered": True,
        "orders": 30,
        "pages": Counter(replaying=200, paused=100),
        "from_replica": Counter(replaying=190, paused=40),
        "seconds": {"replaying": [0.02], "paused": [0.05]},
    }
    return Visits(**{**values, **changes})


THROWN = met(title="cookies thrown away", stale=Counter(paused=12))


@pytest.mark.parametrize(
    ("kept", "thrown", "broken"),
    [
        (met(), THROWN, []),
        (met(stale=Counter(replaying=1)), THROWN, [0]),
        (met(failures=Counter({"503": 1})), THROWN, [0]),
        (met(orders=0), THROWN, [0]),
        (met(from_replica=Counter(replaying=90, paused=40)), THROWN, [1]),
        (met(from_replica=Counter(replaying=190)), THROWN, [1]),
        (met(pages=Counter(), from_replica=Counter()), THROWN, [0, 1]),
        # Where nothing is ever missed, the promise has not been put to the test.
        (met(), met(), [2]),
    ],
)
def test_a_promise_that_is_broken_is_called_broken(kept, thrown, broken):
    outcome = verdicts([kept, thrown])

    assert [number for number, each in enumerate(outcome) if not each.kept] == broken


def test_the_table_shows_both_side_by_side():
    console = Console(file=StringIO(), width=80)
    console.print(visits_table([met(), THROWN]))
    assert isinstance(console.file, StringIO)
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in console.file.getvalue().splitlines()
        if line.startswith("│")
    ]

    assert rows == [
        ["orders placed", "30", "30"],
        ["pages read", "300", "300"],
        ["while the replica got nothing new", "100", "100"],
        ["of them from the replica", "95%", "95%"],
        ["while it got nothing new", "40%", "40%"],
        ["half of them within", "20 ms", "20 ms"],
        ["while it got nothing new", "50 ms", "50 ms"],
        ["pages without an own order", "0", "12"],
        ["failed", "0", "0"],
    ]


def test_what_they_met_can_be_written_down():
    written = json.loads(json.dumps(met().as_json()))

    assert written["pages"] == {"replaying": 200, "paused": 100}
    assert (written["orders"], written["p50"]) == (30, {"replaying": 0.02, "paused": 0.05})
    assert json.dumps(Visits("", "", True).as_json())


_SETTINGS = """
from example_project import settings
print(getattr(settings, "DATABASE_ROUTERS", None), "CLUSTERS" in settings.POOLKIT)
"""


def test_the_shop_routes_its_reads_but_where_pools_are_compared():
    def settings_of(variables: dict[str, str]) -> str:
        return subprocess.run(
            [sys.executable, "-c", _SETTINGS],
            env={"SHOP_HOME": "/nonexistent", "PYTHONPATH": str(ROOT), **variables},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    assert settings_of({}) == "['django_poolkit.routing.ReadWriteRouter'] True"
    assert {settings_of(dict(engine.variables)) for engine in ENGINES} == {"None False"}
    assert settings_of({"SHOP_BACKEND": "django"}) == "None False"
