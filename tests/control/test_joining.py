"""A process that opens a pool shows itself first, and obeys the orders that stand."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from django.conf import settings
from django.db import OperationalError, connection, connections
from django.test import override_settings

from django_poolkit import registry
from django_poolkit.conf.control import control_config
from django_poolkit.control import answers, orders, server
from django_poolkit.control.orders import Order

# With one app flushed, and nothing made anew, a test ends in a tenth of the time.
pytestmark = [
    pytest.mark.core,
    pytest.mark.django_db(transaction=True, available_apps=["django_poolkit", "tests.app"]),
]


@pytest.fixture
def place(tmp_path, transactional_db):
    """A control directory of the test's own, and no server of before."""
    connections.close_all()
    registry.pools.close_all()
    server.stop()
    directory = Path(tmp_path, "control")
    control = {**settings.POOLKIT["CONTROL"], "DIRECTORY": str(directory), "STEERING": True}
    with override_settings(POOLKIT={"CONTROL": control}):
        yield directory
    connections.close_all()
    registry.pools.close_all()
    server.stop()


def select() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def test_the_socket_is_there_before_the_first_connection(place):
    assert not place.exists()
    select()
    [found] = place.glob("*.sock")
    assert found.stat().st_mode & 0o777 == 0o600
    assert place.stat().st_mode & 0o777 == 0o700


def test_who_waits_tells_nobody_that_does_not_care(place):
    select()
    events = registry.pools.events
    assert answers.lately.observe in events._observers
    assert answers.lately.observe not in events.of_waits


def test_what_a_pool_does_first_is_of_the_last_minute(place):
    select()
    connection.close()
    answers.recent.sample()  # the first tick
    pool = connection.pool  # type: ignore[attr-defined]
    assert answers.recent.of(pool, pool.stats())["use"]["count"] == 1


def test_to_look_at_a_pool_shows_nothing(place):
    assert connection.pool.stats().size == 0  # type: ignore[attr-defined]
    assert not place.exists()


def test_switched_off_there_is_no_socket(place):
    with override_settings(POOLKIT={"CONTROL": {"ENABLED": False, "DIRECTORY": str(place)}}):
        select()
    assert not place.exists()


def test_where_it_cannot_be_the_pool_works_all_the_same(place, caplog):
    place.mkdir(mode=0o755)
    place.chmod(0o755)
    select()
    assert "event=control_off" in caplog.text
    assert list(place.iterdir()) == []


def test_a_pool_born_in_a_pause_is_paused(place):
    select()  # makes the directory
    connections.close_all()
    registry.pools.close_all()
    now = time.time()
    orders.post(place, Order(databases=("default",), until=now + 30.0, posted=now))
    connections.settings["default"]["OPTIONS"]["pool"]["timeout"] = 0.1
    try:
        with pytest.raises(OperationalError, match=r"paused, and not resumed within 0\.10 s"):
            select()
        stats = connection.pool.stats()  # type: ignore[attr-defined]
        assert (stats.state, stats.connects) == ("paused", 0)
        assert 25.0 < stats.pause_left <= 30.0
    finally:
        del connections.settings["default"]["OPTIONS"]["pool"]["timeout"]
        orders.withdraw(place, None)
        registry.pools.close_all()
    select()


def test_a_pool_born_while_a_pause_is_ended_is_not_paused(place, monkeypatch):
    select()  # makes the directory
    connections.close_all()
    registry.pools.close_all()
    now = time.time()
    orders.post(place, Order(databases=None, until=now + 30.0, posted=now))
    read = orders.pause_left

    def read_just_before_the_resume(*args):
        left = read(*args)
        orders.withdraw(place, None)
        answers.resume({})
        return left

    monkeypatch.setattr(orders, "pause_left", read_just_before_the_resume)
    select()
    assert connection.pool.stats().state == "open"  # type: ignore[attr-defined]


def test_an_order_for_others_is_not_obeyed(place):
    select()
    connections.close_all()
    registry.pools.close_all()
    now = time.time()
    orders.post(place, Order(databases=("other",), until=now + 30.0, posted=now))
    select()
    assert orders.standing(control_config())
