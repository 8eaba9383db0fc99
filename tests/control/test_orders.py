"""Standing orders: which pool is paused, for how long, and by whose word."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import stat
import threading
import time
from contextlib import contextmanager
from typing import Any

import pytest

from django_poolkit.control import orders
from django_poolkit.control.directory import DirectoryRefused, opened
from django_poolkit.control.orders import Order
from tests.pools.support import Call


def order(databases=None, seconds=60.0, ago=0.0):
    now = time.time()
    aliases = None if databases is None else tuple(databases)
    return Order(databases=aliases, until=now + seconds, posted=now - ago)


@pytest.fixture
def posted(config):
    """Return a function that posts orders in the directory of `config`."""
    config.directory.mkdir(mode=0o700)

    def post(*many):
        for one in many:
            orders.post(config.directory, one)

    return post


def left(config, *aliases):
    return round(orders.pause_left(config, aliases))


def test_there_are_none_where_nobody_gave_any(config):
    assert orders.standing(config) == []
    assert orders.pause_left(config, ["default"]) == 0.0
    config.directory.mkdir(mode=0o700)
    assert orders.standing(config) == []


def test_nothing_is_posted_where_nobody_serves(config):
    orders.post(config.directory, order())
    orders.withdraw(config.directory, None)
    assert not config.directory.exists()


def test_an_order_for_all_covers_every_pool(config, posted):
    posted(order(seconds=40))
    assert left(config, "default") == left(config, "other", "more") == 40


def test_an_order_covers_a_pool_that_serves_one_of_its_databases(config, posted):
    posted(order(["default", "replica"], 40))
    assert left(config, "default") == left(config, "other", "replica") == 40
    assert left(config, "other") == 0


def test_the_latest_order_counts(config, posted):
    posted(order(seconds=600, ago=2), order(["default"], 10, ago=1))
    assert (left(config, "default"), left(config, "other")) == (10, 600)
    posted(order(seconds=30))
    assert (left(config, "default"), left(config, "other")) == (30, 30)


def test_a_short_order_that_is_over_does_not_bring_the_long_one_back(config, posted):
    posted(order(seconds=600, ago=2), order(["default"], 0.05))
    time.sleep(0.06)
    assert (left(config, "default"), left(config, "other")) == (0, 600)


def test_what_is_withdrawn_is_over(config, posted):
    posted(order(["default", "replica"]), order(["other"]))
    orders.withdraw(config.directory, ["default"])
    assert [left(config, alias) for alias in ("default", "replica", "other")] == [0, 60, 60]
    orders.withdraw(config.directory, None)
    assert orders.standing(config) == []
    assert list(config.directory.iterdir()) == []


def test_a_pool_of_several_names_is_resumed_by_one_of_them(config, posted):
    posted(order(["default", "replica"]))
    orders.withdraw(config.directory, ["asyncpg:default"])
    assert left(config, "asyncpg:default", "default") == 0
    orders.withdraw(config.directory, ["replica"])
    assert left(config, "default", "replica") == 0
    assert left(config, "default") == 60


def test_of_many_that_are_paused_one_by_one_none_is_lost(config, posted):
    aliases = [f"tenant_{number:04}" for number in range(120)]
    posted(*(order([alias]) for alias in aliases))
    assert all(orders.pause_left(config, [alias]) > 0 for alias in aliases[::7])


def test_of_an_order_for_all_a_part_can_be_withdrawn(config, posted):
    posted(order())
    orders.withdraw(config.directory, ["default"])
    orders.withdraw(config.directory, ["replica", "default"])
    assert [left(config, alias) for alias in ("default", "replica", "other")] == [0, 0, 60]
    assert left(config, "other", "default") == 0
    posted(order(seconds=30))
    assert left(config, "default") == 30


def test_the_latest_is_told_by_its_time(config, posted):
    now = time.time()
    latest = GOOD | {"until": now + 10, "posted": now}
    entries = [latest, GOOD | {"until": now + 600, "posted": now - 5}]
    path = config.directory / f"orders-{os.geteuid()}.json"
    path.write_text(json.dumps({"orders": entries}))
    assert left(config, "default") == 10


@pytest.mark.parametrize("seconds", [-0.1, 0.0, 3605.0, 1e12, float("nan"), float("inf")])
def test_what_is_over_or_too_far_off_is_no_order(config, posted, seconds):
    posted(order(seconds=seconds))
    assert orders.standing(config) == []


def test_the_longest_order_stands(config, posted):
    posted(order(seconds=3600.0))
    assert left(config, "default") == 3600


def test_the_file_is_ours_alone(config, posted):
    old = os.umask(0)
    try:
        posted(order())
    finally:
        os.umask(old)
    [path] = config.directory.iterdir()
    assert path.name == f"orders-{os.geteuid()}.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# -- by whose word


def with_steering(config, steering):
    return type(config)(**{**vars(config), "steering": steering})


def test_nobodys_word_counts_where_nobody_may_steer(config, posted):
    posted(order())
    assert orders.standing(with_steering(config, False)) == []


def test_a_file_counts_as_its_owners_only(config, posted, caplog):
    posted(order())
    uid = os.geteuid()
    (config.directory / f"orders-{uid}.json").rename(config.directory / "orders-0.json")
    root_only = with_steering(config, "root")
    # A file under the name of root that is not root's; or, as root, under that of another.
    if uid == 0:
        (config.directory / "orders-0.json").rename(config.directory / "orders-7.json")
        with opened(config.directory, None) as (descriptor, _):
            assert orders._read(descriptor, 7) == []
    else:
        assert orders.standing(root_only) == []
    assert "event=orders_unread" in caplog.text


@contextmanager
def another_user(uid=4711):
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def anothers(config):
    """The directory belongs to another user, as root finds it."""
    if os.geteuid() != 0:
        pytest.skip("only root can be two users")
    config.directory.parent.chmod(0o711)
    config.directory.mkdir(mode=0o700)
    os.chown(config.directory, 4711, 4711)


@pytest.mark.usefixtures("anothers")
def test_root_gives_orders_to_another_users_processes(config):
    orders.post(config.directory, order(seconds=50))
    [path] = config.directory.iterdir()
    # The owner of the directory reads it, and nobody else comes so far.
    assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (0, 0o644)
    with another_user():
        assert left(with_steering(config, "root"), "default") == 50
        assert left(config, "default") == 50
        assert left(with_steering(config, False), "default") == 0


@pytest.mark.usefixtures("anothers")
def test_the_users_own_word_does_not_count_where_only_roots_does(config):
    with another_user():
        orders.post(config.directory, order(seconds=50))
        assert left(config, "default") == 50
        assert left(with_steering(config, "root"), "default") == 0


@pytest.mark.usefixtures("anothers")
def test_who_may_steer_withdraws_what_root_ordered_and_the_reverse(config):
    orders.post(config.directory, order(seconds=50))
    with another_user():
        orders.withdraw(config.directory, ["default"])
        assert [path.name for path in config.directory.iterdir()] == ["orders-4711.json"]
        assert (left(config, "default"), left(config, "other")) == (0, 50)
    orders.withdraw(config.directory, None)
    assert list(config.directory.iterdir()) == []


# -- what is not right


def test_only_one_writes_at_a_time(config, posted):
    descriptor = os.open(config.directory, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    call = Call(orders.post, config.directory, order())
    call.join(0.1)
    assert call.is_alive()
    assert orders.standing(config) == []
    os.close(descriptor)
    call.result()
    assert len(orders.standing(config)) == 1


def test_who_holds_the_orders_for_ever_does_not_hold_others_up(config, posted, monkeypatch):
    monkeypatch.setattr(orders, "_LOCK_WAIT", 0.1)
    descriptor = os.open(config.directory, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(TimeoutError, match="another process holds"):
            posted(order())
    finally:
        os.close(descriptor)


def test_many_at_once_lose_nothing(config, posted):
    threads = [
        threading.Thread(target=posted, args=(order([f"db{number}"]),)) for number in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one.databases for one in orders.standing(config)} == {(f"db{n}",) for n in range(12)}


GOOD: dict[str, Any] = {"databases": None, "but": [], "until": 0, "posted": 0}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xff",
        b"[]",
        b"{}",
        b'{"orders": 1}',
        b'{"orders": [1]}',
        b"[" * 60_000,
        json.dumps({"orders": [GOOD | {"until": "s3cret"}]}).encode(),
        json.dumps({"orders": [GOOD | {"databases": 5}]}).encode(),
        json.dumps({"orders": [{}]}).encode(),
        json.dumps({"orders": [], "x": "x" * 2**20}).encode(),
    ],
    ids=lambda content: repr(content[:12]),
)
def test_a_broken_file_is_no_order_and_a_warning(config, posted, caplog, content):
    path = config.directory / f"orders-{os.geteuid()}.json"
    path.write_bytes(content)
    path.chmod(0o600)
    with caplog.at_level(logging.WARNING, "django_poolkit.control"):
        assert orders.pause_left(config, ["default"]) == 0.0
    [record] = caplog.records
    assert record.getMessage().startswith(f"event=orders_unread file={path.name} error=")
    assert "s3cret" not in caplog.text
    # And does not keep anybody from giving orders.
    posted(order())
    assert left(config, "default") == 60


def test_a_link_or_a_pipe_is_no_file(config, posted, tmp_path):
    path = config.directory / f"orders-{os.geteuid()}.json"
    good = tmp_path / "good.json"
    good.write_text(json.dumps({"orders": [GOOD | {"until": time.time() + 60}]}))
    path.symlink_to(good)
    assert orders.standing(config) == []
    path.unlink()
    os.mkfifo(path, 0o600)
    assert orders.standing(config) == []


def test_a_directory_that_is_not_right_holds_no_orders(config, posted, caplog):
    posted(order())
    config.directory.chmod(0o755)
    assert orders.standing(config) == []
    assert "event=orders_unread" in caplog.text
    with pytest.raises(DirectoryRefused):
        posted(order())
