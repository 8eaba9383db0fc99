"""Others on the same pool, or beside it: aliases, zones, crowds."""

from __future__ import annotations

import random
import threading
from collections import Counter
from typing import Any

import pytest
from django.db import connections, transaction
from django.test import override_settings
from psycopg import IsolationLevel

from django_poolkit import registry
from django_poolkit.testing.waiting import wait_until
from tests.app.models import Item
from tests.backends.transaction_mode.support import (
    backend,
    connection,
    create,
    pins,
    scalar,
    used,
)
from tests.scenarios.crowd import jain

# -- settings that differ


@pytest.mark.core
def test_aliases_with_the_same_settings_share_a_pool_and_no_state(pooled):
    pool = pooled(max_size=1)
    mirror = connection.copy(alias="mirror")
    try:
        assert mirror.pool is pool
        assert backend() == backend(using=mirror)
        assert used(pool) == 0
        assert pool.stats().aliases == ("default", "mirror")
    finally:
        mirror.close()


def test_aliases_on_one_pool_wait_for_each_others_blocks(pooled):
    pool = pooled(max_size=2)
    mirror = connection.copy(alias="mirror")
    try:
        with transaction.atomic():
            mine = backend()
            assert backend(using=mirror) != mine
            scalar("SET search_path TO pg_catalog", using=mirror)
            assert scalar("SHOW search_path") == '"$user", public'
            assert used(pool) == 2
        assert used(pool) == 1
        mirror.close()
        assert used(pool) == 0
    finally:
        mirror.close()


def isolation_of_a_block(wrapper: Any) -> str:
    wrapper.set_autocommit(False)
    try:
        return str(scalar("SHOW transaction_isolation", using=wrapper))
    finally:
        wrapper.rollback()
        wrapper.set_autocommit(True)


@pytest.mark.core
def test_a_copy_with_another_isolation_level_has_its_own(pooled):
    pool = pooled(max_size=1)
    strict = connection.copy(alias="strict")
    strict.settings_dict["OPTIONS"] = {
        **strict.settings_dict["OPTIONS"], "isolation_level": IsolationLevel.SERIALIZABLE,
    }  # fmt: skip
    try:
        assert strict.pool is not pool
        for _ in range(2):
            assert isolation_of_a_block(strict) == "serializable"
            assert isolation_of_a_block(connection) == "read committed"
        assert used(strict.pool) == used(pool) == 0
    finally:
        strict.close()
        strict.close_pool()


@pytest.mark.core
@pytest.mark.parametrize("query_first", [True, False])
def test_another_time_zone_is_in_force_at_once_and_gone_afterwards(pooled, query_first):
    pool = pooled(max_size=1)
    if query_first:
        assert scalar("SHOW TimeZone") == "UTC"
    with override_settings(USE_TZ=False, TIME_ZONE="Asia/Tokyo"):
        assert scalar("SHOW TimeZone") == "Asia/Tokyo"
        with transaction.atomic():
            assert scalar("SHOW TimeZone") == "Asia/Tokyo"
        create("in Tokyo")
        assert Item.objects.get().created.tzinfo is None
    assert scalar("SHOW TimeZone") == "UTC"
    assert Item.objects.get().created.tzinfo is not None
    assert used(pool) == 0
    assert pins(pool) == {}


def test_an_alias_with_a_zone_of_its_own_keeps_it(pooled):
    pooled(max_size=1)
    tokyo = connection.copy(alias="tokyo")
    tokyo.settings_dict["TIME_ZONE"] = "Asia/Tokyo"
    for name in ("timezone", "timezone_name"):
        tokyo.__dict__.pop(name, None)
    try:
        for _ in range(2):
            assert scalar("SHOW TimeZone", using=tokyo) == "Asia/Tokyo"
            assert scalar("SHOW TimeZone") == "UTC"
    finally:
        tokyo.close()
        tokyo.close_pool()


@pytest.mark.core
def test_after_close_pool_the_database_can_be_dropped(pooled, primary, server):
    name = "dropped_by_a_test"
    pooled(max_size=2)
    primary.create_database(name)
    entry = {**connection.settings_dict, "NAME": name}
    wrappers: list[Any] = [
        type(connections["default"])({**entry, "OPTIONS": {**entry["OPTIONS"], **more}}, alias)
        for alias, more in (("one", {}), ("two", {"isolation_level": IsolationLevel.SERIALIZABLE}))
    ]
    for wrapper in wrappers:
        scalar("SELECT 1", using=wrapper)
    assert len({id(wrapper.pool) for wrapper in wrappers}) == 2
    for wrapper in wrappers:
        wrapper.close()
    wrappers[0].close_pool()
    # Without FORCE the server refuses for as long as somebody is connected.
    wait_until(
        lambda: server.ask("SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = %s", name)
    )
    server.run(f"DROP DATABASE {name}")


# -- a crowd


def test_a_crowd_is_served_in_turns_and_fairly(pooled, server):
    pool = pooled(max_size=4, timeout=30.0)
    create("read")
    served: Counter[str] = Counter()
    errors: list[BaseException] = []
    stop = threading.Event()

    def work() -> None:
        name = threading.current_thread().name
        try:
            while not stop.is_set():
                Item.objects.get()
                served[name] += 1
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, name=f"user {n}") for n in range(32)]
    for thread in threads:
        thread.start()
    wait_until(lambda: sum(served.values()) > 3000 or errors, 60.0)
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert jain([served[thread.name] for thread in threads]) > 0.9
    stats = pool.stats()
    assert (stats.used, stats.timeouts, stats.leaks) == (0, 0, 0)
    assert len(server.backends) == stats.size <= 4


def test_transactions_of_a_crowd_do_not_mix(pooled, server):
    pool = pooled(max_size=3, timeout=30.0)
    errors: list[BaseException] = []

    def work(number: int) -> None:
        dice = random.Random(number)
        try:
            for turn in range(20):
                name, keep = f"{number}/{turn}", dice.random() < 0.5
                rows: Any = Item.objects.iterator(chunk_size=1) if dice.random() < 0.3 else None
                if rows is not None:
                    next(rows, None)
                with transaction.atomic():
                    create(f"{name} one")
                    with transaction.atomic():
                        create(f"{name} two")
                    transaction.set_rollback(not keep)
                create(f"{name} after")
                kept = Item.objects.filter(name__startswith=f"{name} ").count()
                assert kept == (3 if keep else 1)
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=[number]) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    groups = Counter(name.rsplit(" ", 1)[0] for name in server.names)
    assert len(groups) == 200
    assert set(groups.values()) == {1, 3}
    assert used(pool) == 0


def test_pools_are_closed_with_all_that_is_leased_given_back(pooled):
    pool = pooled(max_size=2)
    with transaction.atomic():
        create("one")
        registry.pools.close_all()
        create("two")
    assert Item.objects.count() == 2
    assert used(pool) == 0
    connection.close()
