"""Who sees the page, and what is on it, with and without a script."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.test import Client, override_settings

from django_poolkit import connection_pools, registry
from django_poolkit.control import collect
from django_poolkit.control.collect import DEGRADED, Problem, Report
from django_poolkit.dashboard import access, looking
from tests.control.statuses import lease, pool, status

pytestmark = pytest.mark.core

PAGE = "/admin/poolkit/"
PATIENCE = access.PATIENCE
ADDRESSES = [PAGE, f"{PAGE}live/", f"{PAGE}pause/?pool=default"]
HOSTILE = '<img src=x onerror="alert(1)">'


class Tables(HTMLParser):
    """The cells of the tables of a page, and whatever would run a script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.captions: list[str] = []
        self.inline: list[str] = []
        self.scopes: list[str] = []
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._cell = True
            self.rows[-1].append("")
        if tag == "th":
            self.scopes.append(given.get("scope") or "")
        if (tag == "script" and not given.get("src")) or tag == "style":
            self.inline.append(tag)
        self.inline += [name for name in given if name == "style" or name.startswith("on")]
        self.inline += [
            value
            for name, value in attrs
            if value and name in ("src", "href") and "//" in value and "djangoproject" not in value
        ]

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.rows[-1][-1] += data


def member(**values: Any) -> dict[str, Any]:
    return {
        "cluster": "default", "alias": "replica", "name": "replica", "role": "replica",
        "state": "evicted", "reason": "lag", "age": 3.0, "share": 0.0, "lag": 1.5,
        "lag_bytes": 4096, **values,
    }  # fmt: skip


def client_session(**values: Any) -> dict[str, Any]:
    return pool("api", kind="http", mode="request", **values)


# -- who


@pytest.mark.parametrize("address", ADDRESSES)
def test_who_is_not_logged_in_is_sent_to_the_login_of_the_admin(site: None, address: str) -> None:
    response = Client().get(address)
    assert response.status_code == 302
    assert response.headers["Location"].startswith("/admin/login/?next=/admin/poolkit/")


@pytest.mark.parametrize("address", ADDRESSES)
def test_who_is_logged_in_and_has_no_right_to_it_is_refused(
    visit: Callable[..., Client], found: Callable[..., None], address: str
) -> None:
    found(status(101, pool()))
    assert visit().get(address).status_code == 403


def test_a_right_without_being_of_the_staff_is_none(
    visit: Callable[..., Client], found: Callable[..., None]
) -> None:
    found(status(101, pool()))
    assert visit("view_pools", "steer_pools", staff=False).get(PAGE).status_code == 403


def test_staff_with_the_right_sees_it_and_cannot_steer(
    visit: Callable[..., Client], found: Callable[..., None]
) -> None:
    found(status(101, pool()))
    client = visit("view_pools")
    with override_settings(POOLKIT={"CONTROL": {"STEERING": True}}):
        response = client.get(PAGE)
        assert response.status_code == 200
        assert "poolkit-commands" not in response.content.decode()
        assert client.get(f"{PAGE}pause/?pool=default").status_code == 403


# -- the way to it


@pytest.mark.parametrize("permissions", [["view_pools"], ["steer_pools"], []])
def test_the_index_of_the_admin_leads_there_who_may_see_it(
    visit: Callable[..., Client], found: Callable[..., None], permissions: list[str]
) -> None:
    found(status(101, pool()))
    client = visit(*permissions)
    index = client.get("/admin/").content.decode()
    link = "/admin/poolkit_dashboard/pools/"
    if permissions != ["view_pools"]:
        assert link not in index
        return
    assert f'href="{link}"' in index
    assert f"{link}add/" not in index
    assert client.get(link).headers["Location"] == PAGE
    assert "poolkit_dashboard/pools/add" not in client.get(PAGE).content.decode()


def test_a_superuser_finds_it_and_nothing_to_change(visit: Callable[..., Client]) -> None:
    index = visit(superuser=True).get("/admin/").content.decode()
    assert index.count("/admin/poolkit_dashboard/pools/") == index.count(
        'href="/admin/poolkit_dashboard/pools/"'
    )


def test_no_link_leads_nowhere(visit: Callable[..., Client]) -> None:
    client = visit("view_pools")
    with override_settings(ROOT_URLCONF="tests.dashboard.admin_urls"):
        assert "poolkit_dashboard" not in client.get("/admin/").content.decode()
        assert client.get("/admin/poolkit_dashboard/pools/").headers["Location"] == "/admin/"


def test_the_link_is_for_the_staff_alone(site: None) -> None:
    response = Client().get("/admin/poolkit_dashboard/pools/")
    assert response.headers["Location"].startswith("/admin/login/")


# -- what


def test_the_page_has_it_all_as_tables(
    visit: Callable[..., Client], found: Callable[..., None]
) -> None:
    busy = pool(used=3, size=3, max_size=4, idle=0, waiters=2, oldest_waiter=0.5)
    first = status(101, busy, client_session(used=1, max_size=9), leases=[lease(7, seconds=2.5)])
    first["members"] = [member()]
    first["events"] = [
        {"at": 1.0, "pool": "default", "event": "pool_timeout", "reason": "timeout",
         "where": "GET shop:order", "count": 12},
    ]  # fmt: skip
    found(first, status(102, pool(used=1, size=1, max_size=4)))
    response = visit(superuser=True).get(PAGE)
    text = response.content.decode()
    rows = Tables(text).rows
    assert ["101", "default", "open", "3 of 4", "0", "2"] in [row[:6] for row in rows]
    assert ["102", "default", "open", "1 of 4"] in [row[:4] for row in rows]
    assert ["GET shop.views.report", "2.5 s", "default", "idle"] in [row[:4] for row in rows]
    assert ["replica", "default", "replica", "evicted", "lag", "1.5 s", "4096"] in [
        row[:7] for row in rows
    ]
    assert ["api", "101", "open", "1 of 9"] in [row[:4] for row in rows]
    assert ["acquire failed", "timeout", "GET shop:order", "12", "101"] in [row[2:] for row in rows]
    assert "50% now" in text  # 4 of 8
    assert "degraded" in text
    assert "Process 101: default: 2 wait" in text.replace('<span class="poolkit-lines">', "")


def test_nothing_on_the_page_is_refused_by_a_strict_policy(
    visit: Callable[..., Client], found: Callable[..., None]
) -> None:
    found(status(101, pool(), leases=[lease()]))
    read = Tables(visit(superuser=True).get(PAGE).content.decode())
    assert read.inline == []
    assert set(read.scopes) == {"col", "row"}


def test_a_process_that_does_not_answer_is_shown_as_such(
    visit: Callable[..., Client], found: Callable[..., None]
) -> None:
    silent = Problem(code=DEGRADED, pid=102, text="does not answer: no answer within 3 s")
    found(status(101, pool()), problems=(silent,))
    text = visit(superuser=True).get(PAGE).content.decode()
    assert "Process 102: " in text
    assert "does not answer: no answer within 3 s" in text


def test_no_process_at_all_is_explained(
    visit: Callable[..., Client], found: Callable[..., None]
) -> None:
    found(problems=(Problem(code=3, text="No live process was found. Looked in /x"),))
    response = visit(superuser=True).get(PAGE)
    assert response.status_code == 200
    assert "No live process was found" in response.content.decode()


def test_names_from_elsewhere_are_escaped(
    visit: Callable[..., Client], found: Callable[..., None]
) -> None:
    leases = [lease(where=HOSTILE, thread=HOSTILE)]
    named = pool(HOSTILE, last_connect_error=HOSTILE)
    found(status(101, named, leases=leases, command=HOSTILE))
    with override_settings(POOLKIT={"CONTROL": {"STEERING": True}}):
        text = visit(superuser=True).get(PAGE).content.decode()
    assert "<img" not in text
    assert "&lt;img" in text


def test_what_is_secret_or_long_stays_out(
    visit: Callable[..., Client], found: Callable[..., None]
) -> None:
    many = [lease(n, seconds=float(n), stack=["/srv/secret/place.py:1 f"]) for n in range(300)]
    found(status(101, pool(), leases=many))
    client = visit(superuser=True)
    for headers in ({}, {"Accept": "application/json"}):
        text = client.get(PAGE, headers=headers).content.decode()
        assert "secret" not in text
        assert text.count("101/default/") < 2 * 200 + 1
    assert len(json.loads(text)["leases"]) == 200
    assert json.loads(text)["leases"][0]["seconds"] == 299.0


# -- for programs


def test_who_wants_json_gets_it(visit: Callable[..., Client], found: Callable[..., None]) -> None:
    found(status(101, pool(used=1, size=1, max_size=4), client_session(), leases=[lease()]))
    response = visit("view_pools").get(PAGE, headers={"Accept": "application/json"})
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    figures = response.json()
    assert set(figures) == {
        "version", "time", "status", "problems", "processes", "pools", "sessions", "leases",
        "replicas", "events",
    }  # fmt: skip
    [shown] = figures["pools"]
    assert (shown["name"], shown["used"], shown["max_size"]) == ("default", 1, 4)
    assert [worker["pid"] for worker in shown["workers"]] == [101]
    assert shown["history"] == [{"age": 0.0, "used": 1, "max_size": 4, "waiters": 0}]
    assert [session["name"] for session in figures["sessions"]] == ["api"]


@pytest.mark.parametrize("accept", ["text/html,*/*;q=0.8", "*/*", ""])
def test_all_others_get_the_page(
    visit: Callable[..., Client], found: Callable[..., None], accept: str
) -> None:
    found(status(101, pool()))
    response = visit("view_pools").get(PAGE, headers={"Accept": accept} if accept else {})
    assert response.headers["Content-Type"].startswith("text/html")
    assert response.headers["Cache-Control"] == "no-store"


def test_the_part_that_changes_is_no_whole_page(
    visit: Callable[..., Client], found: Callable[..., None]
) -> None:
    found(status(101, pool()))
    response = visit("view_pools").get(f"{PAGE}live/")
    text = response.content.decode()
    assert response.headers["Cache-Control"] == "no-store"
    assert "<html" not in text
    assert 'data-news="fine"' in text


@pytest.mark.parametrize("method", ["post", "put", "delete"])
def test_looking_changes_nothing(
    visit: Callable[..., Client], found: Callable[..., None], method: str
) -> None:
    found(status(101, pool()))
    client = visit(superuser=True)
    client.handler.enforce_csrf_checks = False
    assert getattr(client, method)(PAGE).status_code == 405


# -- what it costs


def test_several_who_look_are_one_look(
    visit: Callable[..., Client], found: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    found(status(101, pool()))
    looks: list[int] = []
    real = collect.look

    def look() -> Report:
        looks.append(1)
        return real()

    monkeypatch.setattr(collect, "look", look)
    monkeypatch.setattr(looking, "FRESH", 3600.0)
    client = visit("view_pools")
    for _ in range(3):
        assert client.get(f"{PAGE}live/").status_code == 200
    assert len(looks) == 1
    looking.forget()
    client.get(f"{PAGE}live/")
    assert len(looks) == 2


@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_where_it_cannot_be_known_who_asks_that_is_said_soon(
    visit: Callable[..., Client], monkeypatch: pytest.MonkeyPatch, accept: str
) -> None:
    def exhausted(request: Any) -> Any:
        raise OperationalError("pool 'default': no connection within 1.00 s")

    client = visit("view_pools")
    monkeypatch.setattr("django.contrib.auth.get_user", exhausted)
    response = client.get(PAGE, headers={"Accept": accept})
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "2"
    assert "default" not in response.content.decode()


@pytest.mark.django_db(transaction=True)
def test_an_exhausted_pool_is_not_queued_for_long(
    visit: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = visit("view_pools")
    connection.close()
    mine = connection_pools["default"]
    monkeypatch.setattr(access, "PATIENCE", PATIENCE)
    monkeypatch.setattr(mine, "timeout", 60.0)
    leases = [mine.acquire() for _ in range(mine.max_size)]
    before = mine.stats().timeouts
    begun = time.monotonic()
    response = client.get(PAGE)
    seconds = time.monotonic() - begun
    for each in leases:
        each.release()
    assert response.status_code == 503
    assert "manage.py poolstatus --watch" in response.content.decode()
    assert mine.stats().timeouts == before + 1
    assert seconds < 3 * PATIENCE


@pytest.mark.django_db(transaction=True)
def test_no_lease_is_held_while_the_processes_are_asked(
    visit: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    real = looking.report

    def report() -> Any:
        [mine] = [each for each in registry.pools if each.name == "default"]
        used.append(mine.stats().used)
        return real()

    client = visit("view_pools")
    connection.close()
    monkeypatch.setattr(looking, "report", report)
    response = client.get(PAGE, headers={"Accept": "application/json"})
    assert response.status_code == 200
    assert used == [0]


@pytest.mark.django_db(transaction=True)
def test_it_asks_the_sockets_of_the_processes(visit: Callable[..., Client]) -> None:
    client = visit("view_pools")
    response = client.get(PAGE, headers={"Accept": "application/json"})
    [shown] = response.json()["pools"]
    assert shown["name"] == "default"
    assert shown["history"][-1]["age"] == 0.0
