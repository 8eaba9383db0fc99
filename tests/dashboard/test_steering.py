"""What can be done by the page, by whom, and what is written down of it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection
from django.test import Client, override_settings

from django_poolkit import asyncpg_pools, registry
from django_poolkit.control import server
from django_poolkit.dashboard import steering
from tests.control.statuses import pool, status

pytestmark = pytest.mark.core

PAGE = "/admin/poolkit/"
STEERING = {"CONTROL": {"STEERING": True}}


def confirmed(client: Client, command: str, **values: Any) -> Any:
    """Open the page that asks, and answer yes as a browser does."""
    asked = client.get(f"{PAGE}{command}/?pool=default")
    assert asked.status_code == 200
    text = asked.content.decode()
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', text.split("<form")[-1])
    assert token is not None
    given = {"csrfmiddlewaretoken": token[1], "pool": "default", **values}
    return client.post(f"{PAGE}{command}/", given)


@pytest.fixture
def pools(transactional_db: None, settings: Any) -> Iterator[Any]:
    """The pool of this process, which obeys who may steer."""
    connection.close()
    registry.pools.close_all()
    server.stop()
    control = {**settings.POOLKIT["CONTROL"], "STEERING": True}
    with override_settings(POOLKIT={"CONTROL": control}):
        yield registry.pools
        for each in registry.pools:
            each.resume()
        server.stop()
    connection.close()
    registry.pools.close_all()


def default(pools: Any) -> Any:
    [found] = [each for each in pools if each.name == "default"]
    return found


def entries() -> list[tuple[str, str]]:
    from django.contrib.admin.models import LogEntry

    return list(LogEntry.objects.values_list("object_repr", "change_message"))


def test_a_pause_is_confirmed_done_and_written_down(
    pools: Any, visit: Callable[..., Client], caplog: pytest.LogCaptureFixture
) -> None:
    client = visit("view_pools", "steer_pools")
    with caplog.at_level(logging.INFO, "django_poolkit"):
        response = confirmed(client, "pause", seconds="5")
    assert response.status_code == 200
    assert default(pools).stats().state == "paused"
    assert 0 < default(pools).stats().pause_left <= 5
    text = response.content.decode()
    assert "Paused: default" in text
    assert "The pause ends by itself" in text
    for each in pools:
        each.resume()
    assert entries() == [("pool default", "Pause, for 5 s, in all processes.")]
    said = [record.getMessage() for record in caplog.records]
    assert any("event=dashboard_steer user=" in line and "command=pause" in line for line in said)
    assert any("event=steer command=pause" in line for line in said)


def test_recycle_and_resume_are_done(pools: Any, visit: Callable[..., Client]) -> None:
    client = visit(superuser=True)
    response = confirmed(client, "recycle")
    assert response.status_code == 200
    assert "Recycled: default" in response.content.decode()
    assert default(pools).stats().closed["recycled"] >= 1
    assert confirmed(client, "resume").status_code == 200
    assert [message for _, message in entries()] == [
        "Resume, in all processes.",
        "Recycle, in all processes.",
    ]


def test_a_pool_that_is_called_otherwise_than_its_database_is_steered_too(
    pools: Any, visit: Callable[..., Client]
) -> None:
    raw = asyncpg_pools["default"]
    try:
        response = confirmed(visit(superuser=True), "pause", pool="asyncpg:default", seconds="5")
        assert raw.stats().state == "paused"
        assert default(pools).stats().state == "open"
        assert "Paused: asyncpg:default" in response.content.decode()
    finally:
        registry.asyncpg.close_all()


def test_a_pool_that_is_gone_by_then_is_not_said_to_be_paused(
    pools: Any, visit: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncpg_pools["default"]
    enter = steering.enter

    def enter_and_close(*args: Any) -> None:
        enter(*args)
        registry.asyncpg.close_all()

    monkeypatch.setattr(steering, "enter", enter_and_close)
    response = confirmed(visit(superuser=True), "pause", pool="asyncpg:default", seconds="5")
    text = response.content.decode()
    assert "Not Paused" in text
    assert "No process has this pool any more." in text
    assert default(pools).stats().state == "open"


def test_without_the_token_nothing_is_done(pools: Any, visit: Callable[..., Client]) -> None:
    client = visit(superuser=True)
    client.get(PAGE)
    response = client.post(f"{PAGE}pause/", {"pool": "default"})
    assert response.status_code == 403
    assert default(pools).stats().state == "open"
    assert entries() == []


def test_who_may_only_look_is_refused(pools: Any, visit: Callable[..., Client]) -> None:
    client = visit("view_pools")
    client.handler.enforce_csrf_checks = False
    assert client.get(PAGE).status_code == 200
    assert client.post(f"{PAGE}recycle/", {"pool": "default"}).status_code == 403
    assert entries() == []


@pytest.mark.parametrize("seconds", ["0", "-1", "601", "1e2", "", "ten", "٣", "9" * 40])
def test_a_time_that_cannot_be_is_asked_for_again(
    visit: Callable[..., Client],
    found: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    seconds: str,
) -> None:
    found(status(101, pool()))
    monkeypatch.delattr(steering, "carry_out")
    with override_settings(POOLKIT=STEERING):
        response = confirmed(visit(superuser=True), "pause", seconds=seconds)
    assert response.status_code == 400
    assert "from 1 to 600" in response.content.decode()
    assert entries() == []


def test_steering_that_the_settings_do_not_allow_is_refused_and_explained(
    visit: Callable[..., Client], found: Callable[..., None]
) -> None:
    found(status(101, pool()))
    client = visit(superuser=True)
    text = client.get(PAGE).content.decode()
    assert "no process would obey" in text
    assert "poolkit-commands" not in text
    for method in (client.get, client.post):
        client.handler.enforce_csrf_checks = False
        response = method(f"{PAGE}pause/", {"pool": "default"})
        assert response.status_code == 403
        assert "is False, so nobody may steer" in response.content.decode()
    assert entries() == []


@pytest.mark.parametrize("address", ["pause/?pool=other", "pause/", "explode/?pool=default"])
def test_what_there_is_not_is_not_found(
    visit: Callable[..., Client], found: Callable[..., None], address: str
) -> None:
    found(status(101, pool()))
    with override_settings(POOLKIT=STEERING):
        assert visit(superuser=True).get(f"{PAGE}{address}").status_code == 404


def test_the_page_asks_with_the_name_of_the_pool_in_a_link(
    visit: Callable[..., Client], found: Callable[..., None]
) -> None:
    found(status(101, pool("replica/a&b")))
    client = visit(superuser=True)
    with override_settings(POOLKIT=STEERING):
        text = client.get(PAGE).content.decode()
        [link] = re.findall(r'href="(/admin/poolkit/pause/[^"]+)"', text)
        assert "pool=replica%2Fa%26b" in link
        assert client.get(link).status_code == 200


def test_where_no_order_can_be_left_nothing_is_done(
    visit: Callable[..., Client], found: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> Any:
        raise OSError(28, "No space left on device")

    found(status(101, pool()))
    monkeypatch.setattr(steering, "carry_out", full)
    with override_settings(POOLKIT=STEERING):
        response = confirmed(visit(superuser=True), "pause")
    assert response.status_code == 500
    assert "nothing was done" in response.content.decode()


def test_there_is_no_table_and_dumpdata_does_not_miss_it(site: None) -> None:
    from django_poolkit.dashboard.models import Pools

    assert list(Pools.objects.all()) == list(Pools._base_manager.all()) == []
