"""What a process says of its pools, and does to them, asked without a socket in between."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import pytest
from django.db import connection, connections
from django.test import override_settings

from django_poolkit import registry
from django_poolkit.control import answers
from django_poolkit.control.protocol import BadArguments
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing.waiting import wait_until

# With one app flushed, and nothing made anew, a test ends in a tenth of the time.
pytestmark = [
    pytest.mark.core,
    pytest.mark.django_db(transaction=True, available_apps=["django_poolkit", "tests.app"]),
]


@pytest.fixture
def pool(transactional_db: None):
    """The pool of the default alias, and the only one of the process; undone at the end."""
    connections.close_all()
    registry.pools.close_all()
    pool: ConnectionPool = connection.pool  # type: ignore[attr-defined]
    yield pool
    connection.close()
    registry.pools.close_all()
    registry.process.undrain()


def ask(command: str, **arguments: Any) -> dict[str, Any]:
    """Return the answer as it comes out of JSON."""
    answer = answers.HANDLERS[command](arguments)
    found: dict[str, Any] = json.loads(json.dumps(answer, allow_nan=False))
    return found


def test_the_process_says_who_it_is(pool):
    found = ask("status")
    assert (found["pid"], found["uid"]) == (os.getpid(), os.geteuid())
    assert len(found["host"]) == 8
    assert found["age"] > 0
    assert found["draining"] is False
    assert found["steering"] is False
    with override_settings(POOLKIT={"CONTROL": {"STEERING": True, "SERVICE": "shop"}}):
        found = ask("status")
    assert (found["steering"], found["service"]) == (True, "shop")
    assert "leases" not in found
    assert "observations" not in found


def test_a_pool_says_how_it_is(pool):
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        [found] = ask("status")["pools"]
    assert (found["name"], found["aliases"], found["kind"]) == (
        "default",
        ["default"],
        "postgresql",
    )
    assert (found["mode"], found["state"]) == ("session", "open")
    assert (found["size"], found["used"], found["idle"]) == (1, 1, 0)
    assert (found["utilization"], found["saturated"]) == (1 / pool.max_size, False)
    assert found["recent"]["wait"]["count"] == 1
    assert "PASSWORD" not in json.dumps(found)


def test_only_the_pools_of_some_databases(pool):
    assert len(ask("status", databases=["default"])["pools"]) == 1
    assert ask("status", databases=["other"])["pools"] == []
    assert ask("status", databases=[])["pools"] == []


def test_a_closed_pool_is_none(pool):
    pool.close()
    assert ask("status")["pools"] == []


def test_who_holds_what(pool):
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('a.secret', 'hunter2', false)")
        cursor.execute("UPDATE app_item SET name = 'hunter2' WHERE false")
        [lease] = ask("status", leases=True)["leases"]
    assert lease["id"] == f"{os.getpid()}/default/{lease['key']}"
    assert lease["backend_pid"] == connection.connection.info.backend_pid
    assert (lease["statement"], lease["status"]) == ("UPDATE", "idle")
    assert lease["thread"] == "MainThread"
    assert lease["where"] == registry.process.command
    assert any("test_who_holds_what" in line for line in lease["stack"])
    assert "hunter2" not in json.dumps(lease)


def test_no_more_leases_than_somebody_can_read(pool, monkeypatch):
    monkeypatch.setattr(answers, "MOST_LEASES", 1)
    first, second = pool.acquire(), pool.acquire()
    [lease] = ask("status", leases=True)["leases"]
    assert lease["key"] == first.key
    first.release()
    second.release()


def test_pins_are_those_of_pools_that_observe(pool):
    assert ask("status", pins=True)["observations"] == {}
    connections.settings["default"]["OPTIONS"]["pool"]["observe"] = True
    try:
        connection.close()
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('a.b', 'c', false)")
        connection.close()
        [(name, observed)] = ask("status", pins=True)["observations"].items()
        assert name.startswith("default~")  # its options are others
        assert any(row["reason"] == "set" for row in observed["rows"])
    finally:
        del connections.settings["default"]["OPTIONS"]["pool"]["observe"]


def test_pause_and_resume(pool):
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    [found] = ask("pause", seconds=30)["pools"]
    assert (found["state"], found["used"]) == ("paused", 1)
    assert 29.0 < found["pause_left"] <= 30.0
    connection.close()
    wait_until(lambda: pool.stats().size == 0)
    [found] = ask("resume")["pools"]
    assert (found["state"], found["pause_left"]) == ("open", 0.0)
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def test_a_pause_that_is_read_late_lasts_for_what_is_left_of_it(pool):
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    [found] = ask("pause", seconds=30, until=time.time() + 10)["pools"]
    assert 0.0 < found["pause_left"] <= 10.0
    [found] = ask("pause", seconds=5, until=time.time() + 3600)["pools"]
    assert 0.0 < found["pause_left"] <= 5.0


def test_a_pool_is_meant_by_its_own_name_too(pool):
    other = registry.pools.get(
        "another", lambda name: ConnectionPool(name=name), alias="default", place="there"
    )
    assert (other.name, other.aliases) == ("default~2", ("default",))
    assert [
        found["name"] for found in ask("pause", seconds=30, databases=["default~2"])["pools"]
    ] == ["default~2"]
    assert pool.stats().state == "open"


def test_of_other_databases_nothing_is_paused(pool):
    assert ask("pause", seconds=30, databases=["other"])["pools"] == []
    assert pool.stats().state == "open"


def test_recycle(pool):
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    connection.close()
    ask("recycle")
    wait_until(lambda: pool.stats().closed == {"recycled": 1})


@pytest.mark.parametrize(
    ("wanted", "sizes"),
    [
        ({"min_size": 1, "max_size": 3}, (1, 3)),
        ({"max_size": 3}, (0, 3)),
        ({"min_size": 2}, (2, 8)),
    ],
)
def test_resize(pool, wanted, sizes):
    [found] = ask("resize", **wanted)["pools"]
    assert (found["min_size"], found["max_size"]) == sizes == (pool.min_size, pool.max_size)


def test_drain_is_of_the_process(pool):
    assert ask("drain") == {"pid": os.getpid(), "draining": True, "pools": []}
    assert ask("status")["draining"] is True
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    assert ask("undrain")["draining"] is False


def test_kill_lease(pool):
    lease = pool.acquire()
    lease.connection.execute("BEGIN")
    ask("kill_lease", pool="default", key=lease.key)
    wait_until(lambda: not connection_lives(lease))
    lease.release()
    assert sum(pool.stats().closed.values()) == 1
    with pytest.raises(BadArguments, match="no such lease"):
        ask("kill_lease", pool="default", key=lease.key)


def connection_lives(lease: Any) -> bool:
    try:
        lease.connection.execute("SELECT 1")
    except Exception:
        return False
    return True


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        ("status", {"databases": "default"}, "databases must be a list"),
        ("status", {"databases": [1]}, "databases must be a list"),
        ("status", {"leases": 1}, "leases must be true or false"),
        ("status", {"pins": "yes"}, "pins must be true or false"),
        ("pause", {}, "seconds must be a number"),
        ("pause", {"seconds": 0}, "seconds must be a number"),
        ("pause", {"seconds": True}, "seconds must be a number"),
        ("pause", {"seconds": float("nan")}, "seconds must be a number"),
        ("pause", {"seconds": 3601}, "at most 3600"),
        ("pause", {"seconds": 10**400}, "seconds must be a number"),
        ("pause", {"seconds": 5, "until": "noon"}, "until must be a number"),
        ("pause", {"seconds": 5, "until": 1.0}, "until has passed"),
        ("resize", {}, "min_size, max_size or both"),
        ("resize", {"max_size": "3"}, "max_size must be a whole number"),
        ("resize", {"max_size": True}, "max_size must be a whole number"),
        ("resize", {"min_size": 9}, "pool 'default': "),
        ("resize", {"max_size": 0}, "pool 'default': min_size 0 and max_size 0 cannot be"),
        ("resize", {"min_size": -1}, "pool 'default': min_size -1 and max_size 8 cannot be"),
        ("resize", {"min_size": 10**9, "max_size": 10**9}, "min_size must be at most 262143"),
        ("resize", {"max_size": 10**400}, "max_size must be at most 262143"),
        ("kill_lease", {"pool": "default"}, "key a whole number"),
        ("kill_lease", {"pool": 1, "key": 1}, "pool must be"),
        ("kill_lease", {"pool": "default", "key": True}, "key a whole number"),
        ("kill_lease", {"pool": "default", "key": 10**9}, "no such lease"),
    ],
)
def test_what_cannot_be_honoured_is_refused_and_changes_nothing(pool, command, arguments, said):
    with pytest.raises(BadArguments, match=said):
        ask(command, **arguments)
    stats = pool.stats()
    assert (stats.state, stats.min_size, stats.max_size) == ("open", 0, 8)


def test_all_commands_but_one_are_steering():
    assert set(answers.HANDLERS) - answers.STEERING == {"status"}


def test_history_and_events_are_told_to_who_asks(pool):
    assert "history" not in ask("status")["pools"][0]
    assert "events" not in ask("status")
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        answers.sample()
        ask("recycle", databases=["default"])
        found = ask("status", history=True)
    [described] = found["pools"]
    age, used, most, waiters = described["history"][-1]
    assert (used, most, waiters) == (1, pool.max_size, 0)
    assert age >= 0.0
    assert ("default", "recycle") in [(each["pool"], each["event"]) for each in found["events"]]
