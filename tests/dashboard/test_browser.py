"""The page in a browser, before two workers, under a policy that allows files of the site alone."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator

import pytest

from django_poolkit.testing import Node
from tests.dashboard.browsing import Shop, open_shop

playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("needs Chromium", allow_module_level=True)

from axe_playwright_python.sync_playwright import Axe  # noqa: E402
from playwright.sync_api import Browser, Page, expect  # noqa: E402

PATIENCE = 60_000.0
expect.set_options(timeout=PATIENCE)

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def shop(primary: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with open_shop(primary, tmp_path_factory.mktemp("site")) as shop:
        yield shop


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as program:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = program.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def opened(shop: Shop, browser: Browser) -> Iterator[Open]:
    """Return a function that opens the page; in the end nobody has complained of anything."""
    contexts, said = [], []

    def open_page(path: str = "admin/poolkit/", **context: object) -> Page:
        contexts.append(browser.new_context(**context))  # type: ignore[arg-type]
        contexts[-1].set_default_timeout(PATIENCE)
        page = contexts[-1].new_page()
        said.append(shop.page(page, path))
        expect(page.locator("h1", has_text="Connection pools")).to_be_visible()
        return page

    yield open_page
    for context in contexts:
        context.close()
    made = ("status of 503 (", "status of 403 (")  # by a test
    assert [line for lines in said for line in lines if not any(m in line for m in made)] == []


def violations(page: Page) -> list[str]:
    """Return what axe finds wrong."""
    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {node['html'][:200]}" for each in found for node in each["nodes"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_shows_charts_and_can_be_read_by_all(opened: Open, scheme: str) -> None:
    page = opened(color_scheme=scheme)
    figure = page.locator("figure", has_text="Utilization").first
    label = re.compile(r"^Utilization of default: \d+% now")
    expect(figure.locator("svg[role=img]")).to_have_attribute("aria-label", label)
    points = figure.locator("polyline").get_attribute("points")
    assert points
    assert figure.locator("svg").bounding_box()["width"] > 100
    assert violations(page) == []


def test_a_lease_of_a_slow_view_comes_up_by_itself_and_the_focus_stays(
    opened: Open, shop: Shop
) -> None:
    page = opened()
    link = page.locator("a.poolkit-command").first
    link.focus()
    shop.visit("products/p00001/quote/")
    row = page.locator("tr", has=page.locator("th", has_text="GET quote"))
    expect(row).to_have_count(1)
    expect(row).to_contain_text("default")
    expect(link).to_be_focused()
    page.locator("#poolkit-halt").click()
    expect(page.locator("#poolkit-halt")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#poolkit-news")).to_have_text("Updating has stopped.")
    assert violations(page) == []


def test_a_pause_is_confirmed_and_reaches_both_workers(opened: Open, shop: Shop) -> None:
    page = opened()
    expect(page.locator("#poolkit-workers ~ div tbody tr")).to_have_count(2)
    page.locator("a.poolkit-command", has_text="Pause").click()
    expect(page.locator("h1", has_text="Pause default?")).to_be_visible()
    assert violations(page) == []
    page.fill("#poolkit-seconds", "2")
    page.locator("button", has_text="Yes, pause").click()
    expect(page.locator("h1", has_text="Paused: default")).to_be_visible()
    expect(page.locator("td", has_text="paused")).to_have_count(2)
    assert violations(page) == []


def test_it_is_of_use_without_a_script(opened: Open) -> None:
    page = opened(java_script_enabled=False)
    expect(page.locator("#poolkit-workers ~ div tbody tr").first).to_contain_text("default")
    expect(page.locator("#poolkit-halt")).to_be_hidden()
    expect(page.locator("figure svg polyline").first).to_have_attribute("points", re.compile(","))
    page.locator("a", has_text="Refresh").click()
    page.locator("a.poolkit-command", has_text="Recycle").click()
    page.locator("button", has_text="Yes, recycle").click()
    expect(page.locator("h1", has_text="Recycled: default")).to_be_visible()


def test_where_the_site_does_not_answer_the_last_state_stays(opened: Open) -> None:
    page = opened()
    page.route("**/live/", lambda route: route.fulfill(status=503, body="busy"))
    expect(page.locator("#poolkit-news")).to_contain_text("The site does not answer (503)")
    expect(page.locator("#poolkit-workers ~ div tbody tr").first).to_contain_text("default")
    page.unroute("**/live/")
    page.route("**/live/", lambda route: route.fulfill(status=403, body="no"))
    expect(page.locator("#poolkit-news")).to_contain_text("not logged in any more")


def test_the_json_is_what_the_page_shows(opened: Open, shop: Shop) -> None:
    page = opened()
    answer = page.request.get(shop.url + "admin/poolkit/", headers={"Accept": "application/json"})
    figures = json.loads(answer.text())
    assert [pool["name"] for pool in figures["pools"]] == ["default"]
    assert len(figures["processes"]) == 2
    assert "max-age" not in answer.headers["cache-control"]
