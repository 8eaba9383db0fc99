"""What a visitor has written is seen by its next request: from a replica that has it, or not."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError, connection, connections, transaction

from django_poolkit.backends import ports
from django_poolkit.conf.routing import routing_config
from django_poolkit.routing import (
    choice,
    figures,
    members,
    positions,
    scope,
    scopes,
    use_primary,
    use_replica,
)
from django_poolkit.routing import outgoing as outgoing_module
from django_poolkit.routing.floors import Floor, Position
from django_poolkit.routing.monitor import monitor
from django_poolkit.routing.outgoing import aoutgoing, outgoing
from django_poolkit.routing.positions import servers
from django_poolkit.routing.scopes import Scope
from django_poolkit.routing.settling import asettle, settle
from django_poolkit.routing.token import seal
from django_poolkit.testing.waiting import wait_until
from tests.app.models import Item
from tests.routing.conftest import alias_of, entry, looped, seen, written

Floors = Mapping[str, Floor]


def to_hosts(servers: Any, **pool: Any) -> None:
    """Lead the alias `replica` to both replicas."""
    connections["replica"].close()
    del connections["replica"]
    places = {f"r{n}": {"HOST": node.host, "PORT": node.port}
              for n, node in enumerate(servers.replicas, 1)}  # fmt: skip
    options = {"pool": {"max_size": 8, "mode": "transaction", **pool}, "hosts": places}
    connections.settings["replica"] = entry(servers.replicas[0], OPTIONS=options)


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    """Give questions at the end of a scope as long as they take here."""
    monkeypatch.setattr(outgoing_module, "BUDGET", 10.0)


def be_patient(settings: Any) -> None:
    """Have scopes wait for as long as it takes here, where a replica is going to answer."""
    settings.POOLKIT = {**settings.POOLKIT, "ROUTING": {"WAIT": 10.0}}


@pytest.fixture
def patient(routed, settings):
    """Do so for a whole test."""
    be_patient(settings)


@pytest.fixture
def hosts(routed, monkeypatch):
    """The alias `replica` leads to both replicas, `r1` and `r2`."""
    monkeypatch.setattr(ports, "choose_host", choice.host_for)
    to_hosts(routed)
    return routed


def write(name: str = "new", visitor: bytes | None = None) -> Floors:
    """Write as one request of a visitor does; return what it takes with it."""
    with scope() as here:
        here.visitor = visitor
        with transaction.atomic():
            Item.objects.create(name=name)
        return outgoing(here)


def arrive(floors: Floors, visitor: bytes | None = None) -> Any:
    """Open the scope of the next request."""
    block = scope()
    here = block.__enter__()
    for name, floor in floors.items():
        here.raise_floor(name, floor)
    here.visitor = visitor
    settle(here)
    return block, here


def read(floors: Floors, visitor: bytes | None = None) -> tuple[str, set[str], Floors]:
    """Read as a request does; return where, what, and what is taken on."""
    block, here = arrive(floors, visitor)
    try:
        alias = alias_of()
        found = seen()
        where = here.hosts.get(alias, alias)
        return where, found, outgoing(here)
    finally:
        block.__exit__(None, None, None)


def alias_for(floors: Floors) -> str:
    """Return where a request with these floors reads."""
    block, _ = arrive(floors)
    try:
        return alias_of()
    finally:
        block.__exit__(None, None, None)


def counts() -> dict[str, int]:
    return {outcome: n for (cluster, outcome), n in figures.figures.read().items() if cluster}


def test_it_is_seen_on_a_replica_that_has_it(routed, patient):
    floors = write()
    assert floors["default"].position is not None
    routed.primary.wait_caught_up(routed.replicas[0])
    where, found, taken = read(floors)
    assert (where, found) == ("replica", {"new"})
    assert taken == {}  # there is one replica, and it has it


def test_a_replica_that_is_behind_is_not_read(paused):
    floors = write()
    started = time.monotonic()
    where, found, taken = read(floors)
    waited = time.monotonic() - started
    assert (where, found) == ("default", {"old", "new"})
    assert routing_config().wait <= waited < 5.0
    assert taken.keys() == {"default"}


def test_it_is_read_again_as_soon_as_it_has_come_so_far(paused, settings):
    floors = write()
    assert read(floors)[0] == "default"
    be_patient(settings)
    paused.replicas[0].resume_replay()
    paused.primary.wait_caught_up(paused.replicas[0])
    assert read(floors)[:2] == ("replica", {"old", "new"})


def test_the_live_one_of_two_is_read_and_both_when_both_have_it(hosts, patient):
    first, second = hosts.replicas
    first.pause_replay()
    floors = write()
    hosts.primary.wait_caught_up(second)
    for _ in range(6):
        where, found, taken = read(floors)
        assert (where, found) == ("r2", {"new"})
        assert taken == floors  # one has not got it
    first.resume_replay()
    hosts.primary.wait_caught_up(first)

    def both() -> bool:
        return read(floors)[2] == {}

    wait_until(both)
    assert {read(floors)[0] for _ in range(12)} == {"r1", "r2"}


def delayed(node: Any) -> bool:
    return bool(node.execute("SHOW recovery_min_apply_delay") == [("10ms",)])


def test_it_waits_a_little_for_one_that_is_about_to_have_it(hosts, patient):
    for node in hosts.replicas:
        node.execute("ALTER SYSTEM SET recovery_min_apply_delay = '10ms'")
        node.execute("SELECT pg_reload_conf()")
    try:
        for node in hosts.replicas:
            wait_until(partial(delayed, node))
        before = counts()
        for n in range(10):
            where, found, _ = read(write(f"item {n}"))
            assert where in ("r1", "r2")
            assert f"item {n}" in found
        after = counts()
        assert after.get("primary") == before.get("primary")
        assert after["waited"] > before.get("waited", 0)
    finally:
        for node in hosts.replicas:
            node.execute("ALTER SYSTEM RESET recovery_min_apply_delay")
            node.execute("SELECT pg_reload_conf()")


def test_a_floor_ends_by_itself(paused, settings):
    settings.POOLKIT = {**settings.POOLKIT, "ROUTING": {"MAX_AGE": 0.3, "WAIT": 0.0}}
    floors = write()
    assert read(floors)[0] == "default"
    wait_until(lambda: floors["default"].expires < time.time())
    assert read(floors) == ("replica", {"old"}, {})


def test_what_only_reads_carries_nothing(routed):
    with scope() as here:
        seen()
        with use_primary():
            seen()
        with transaction.atomic():
            Item.objects.using("default").count()
        with transaction.atomic():
            Item.objects.filter(name="nobody").update(name="somebody")
        assert outgoing(here) == {}


def test_neither_does_a_checkpoint_under_it(routed):
    with scope() as here:
        with use_primary():
            seen()
        routed.primary.execute("CHECKPOINT")
        with use_primary():
            seen()
        assert outgoing(here) == {}


def test_a_lock_counts_as_a_write(routed):
    Item.objects.create(name="new")
    with scope() as here:
        with transaction.atomic():
            list(Item.objects.select_for_update())
        assert outgoing(here).keys() == {"default"}


def test_a_write_that_is_rolled_back_carries_nothing(routed):
    with scope() as here:
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            Item.objects.create(name="new")
            raise ZeroDivisionError
        assert outgoing(here) == {}


def test_a_write_in_autocommit_is_carried(paused):
    with scope() as here:
        Item.objects.create(name="lone")
        assert here.floors == {}
        floors = outgoing(here)
    assert floors["default"].position is not None
    assert read(floors)[:2] == ("default", {"old", "lone"})


def test_a_write_that_was_under_way_as_others_asked_is_carried(routed):
    def work() -> None:
        Item.objects.create(name="lone")
        connections.close_all()

    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'app_item'::regclass"
    holder = psycopg.connect(**routed.primary.conninfo())
    with scope() as here, ThreadPoolExecutor(1) as pool, holder:
        holder.execute("LOCK app_item IN SHARE MODE")
        writing = pool.submit(contextvars.copy_context().run, work)
        wait_until(lambda: routed.primary.execute(waits) == [(1,)])
        before = outgoing(here)["default"].position  # as a job that is enqueued meanwhile
        holder.rollback()
        writing.result()
        after = outgoing(here)["default"].position
    assert before is not None
    assert after is not None
    assert after.lsn > before.lsn


def test_a_hook_after_the_commit_sees_the_floor(routed):
    found: list[Any] = []
    with scope() as here, transaction.atomic():
        Item.objects.create(name="new")
        transaction.on_commit(lambda: found.append(dict(outgoing(here))))
    assert [floors.keys() for floors in found] == [{"default"}]


def test_a_switch_of_the_log_leaves_no_one_behind(routed, patient):
    floors = write()
    routed.primary.execute("SELECT pg_switch_wal()")
    with scope() as here:
        here.unplaced.add("default")
        floors = outgoing(here)
    # Its next record will begin behind the head of a page, which no replica has been sent.
    routed.primary.wait_caught_up(routed.replicas[0])
    assert read(floors)[:1] == ("replica",)


def test_what_is_committed_later_on_disk_is_seen_all_the_same(routed):
    for n in range(10):
        with scope() as here:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SET LOCAL synchronous_commit = off")
                Item.objects.create(name=f"item {n}")
            floors = outgoing(here)
        assert f"item {n}" in read(floors)[1]


def test_another_timeline_is_never_reached(routed):
    position = write()["default"].position
    assert position is not None
    routed.primary.wait_caught_up(routed.replicas[0])
    later = Floor(Position(position.system, position.timeline + 1, 1), time.time() + 30)
    other = Floor(Position(position.system + 1, position.timeline, 1), time.time() + 30)
    for floor in (later, other):
        started = time.monotonic()
        assert read({"default": floor})[0] == "default"
        assert time.monotonic() - started < 5.0


def test_a_server_that_is_no_replica_is_never_reached(routed):
    connections["replica"].close()
    del connections["replica"]
    connections.settings["replica"] = entry(routed.primary)
    assert read(write())[0] == "default"


def test_a_replica_of_an_older_timeline_counts_for_nothing(routed):
    position = write()["default"].position
    assert position is not None
    routed.primary.wait_caught_up(routed.replicas[0])
    newer = Position(position.system, position.timeline + 1, 0)
    key = "default", position.system
    try:
        servers.note("default", newer)
        assert read({"default": Floor(position, time.time() + 30)})[0] == "default"
    finally:
        servers._timelines.pop(key)


def test_what_comes_in_from_another_time_is_replaced_by_what_the_primary_says(paused):
    position = write()["default"].position
    assert position is not None
    future = Position(position.system, position.timeline, position.lsn + 2**40)
    came = {"default": Floor(future, time.time() + 5)}
    where, _, taken = read(came)
    assert where == "default"
    assert taken["default"].position is not None
    assert taken["default"].position.lsn < future.lsn


def test_an_unsafe_request_does_not_wait(paused):
    here = Scope(unsafe=True)
    here.floors.update(write())
    before = counts()
    settle(here)
    assert counts() == before
    assert here.settled == {}


def test_a_time_pin_reads_the_primary_and_then_a_replica(paused, settings):
    settings.POOLKIT = {
        **settings.POOLKIT,
        "CLUSTERS": {"default": {"replicas": ["replica"], "position": "time"}},
        "ROUTING": {"PIN": 0.3},
    }
    with scope() as here:
        with transaction.atomic():
            Item.objects.filter(name="nobody").update(name="somebody")
        assert outgoing(here) == {}
        with transaction.atomic():
            Item.objects.create(name="new")
        floors = outgoing(here)
    assert floors["default"].position is None
    assert read(floors) == ("default", {"old", "new"}, floors)
    wait_until(lambda: floors["default"].expires < time.time())
    assert read(floors) == ("replica", {"old"}, {})


def test_an_autocommit_write_is_pinned_there_too(paused, settings):
    settings.POOLKIT = {
        **settings.POOLKIT,
        "CLUSTERS": {"default": {"replicas": ["replica"], "position": "time"}},
    }
    with scope() as here:
        Item.objects.create(name="new")
        assert outgoing(here)["default"].position is None


def test_a_primary_that_does_not_tell_is_pinned_with_one_warning(routed, monkeypatch, caplog):
    from django_poolkit.pools.postgres import commit

    monkeypatch.setattr(commit, "_POSITION", b"SELECT nowhere()")
    monkeypatch.setattr(commit, "_POSITION_OF_SERVER", b"SELECT nowhere()")
    for n in range(3):
        assert write(f"item {n}")["default"].position is None
    assert seen() == {"item 0", "item 1", "item 2"}
    warned = [record.getMessage() for record in caplog.records if "no_positions" in record.message]
    assert len(warned) == 1
    assert "sqlstate=42883" in warned[0]


def test_a_replica_that_is_down_sends_reads_to_the_primary(routed, patient):
    floors = write()
    routed.primary.wait_caught_up(routed.replicas[0])
    assert read(floors)[0] == "replica"
    routed.replicas[0].stop()
    try:
        assert read(floors)[:2] == ("default", {"new"})
    finally:
        connections["replica"].close()
        routed.replicas[0].start()
        routed.replicas[0].wait_streaming()


def test_a_host_that_refuses_is_replaced_only_by_one_that_has_it(hosts, patient):
    first, second = hosts.replicas
    first.pause_replay()
    floors = write()
    hosts.primary.wait_caught_up(second)
    block, here = arrive(floors)
    try:
        assert dict(here.settled["default"].hosts) == {"replica": frozenset({"r2"})}
        second.stop()
        with pytest.raises(OperationalError, match="'r2' had, and cannot be reached"):
            seen()
        assert seen() == {"new"}  # the primary's
        assert alias_of() == "default"
    finally:
        block.__exit__(None, None, None)
        connections["replica"].close()
        second.start()
        second.wait_streaming()


def test_one_whose_floor_has_ended_meanwhile_reads_any_host(hosts, patient, monkeypatch):
    # A stream, or a job, that lasts for longer than what it was to see counts.
    first, second = hosts.replicas
    first.pause_replay()
    floors = write()
    hosts.primary.wait_caught_up(second)
    block, here = arrive(floors)
    try:
        assert dict(here.settled["default"].hosts) == {"replica": frozenset({"r2"})}
        assert seen() == {"new"}
        monkeypatch.setattr(scopes, "time", lambda: floors["default"].expires)
        assert seen() == {"new"}  # there it stays
        second.stop()
        assert seen() == set()
        assert not Item.objects.using("replica").exists()
        assert alias_of() == "replica"
    finally:
        block.__exit__(None, None, None)
        connections["replica"].close()
        second.start()
        second.wait_streaming()


def test_use_replica_reads_one_that_is_behind(paused):
    block, _ = arrive(write())
    try:
        with use_replica():
            assert seen() == {"old"}
        assert seen() == {"old", "new"}
    finally:
        block.__exit__(None, None, None)


def test_a_visitor_reads_one_host_each_time(hosts):
    chosen: dict[bytes, set[str]] = {}
    for n in range(12):
        visitor = f"visitor {n}".encode()
        chosen[visitor] = {read({}, visitor)[0] for _ in range(3)}
    assert all(len(each) == 1 for each in chosen.values())
    assert set().union(*chosen.values()) == {"r1", "r2"}


def own_visitor(host: str) -> bytes:
    """Return a visitor of which a host is its own."""
    return next(
        visitor for n in range(100)
        if read({}, visitor := f"visitor {n}".encode())[0] == host
    )  # fmt: skip


def test_a_visitor_whose_host_is_passed_over_does_not_go_back(hosts, patient):
    first, second = hosts.replicas
    visitor = own_visitor("r1")
    first.pause_replay()
    floors = write("mine", visitor)
    hosts.primary.wait_caught_up(second)
    hosts.primary.execute("INSERT INTO app_item (name, created) VALUES ('theirs', now())")
    hosts.primary.wait_caught_up(second)
    where, found, taken = read(floors, visitor)
    assert (where, found) == ("r2", {"mine", "theirs"})
    mine, both = floors["default"].position, taken["default"].position
    assert mine is not None
    assert both is not None
    assert both.lsn > mine.lsn  # it has seen more than it must
    assert read(taken, visitor)[:2] == ("r2", {"mine", "theirs"})


def test_a_visitor_on_the_primary_does_not_go_back(paused):
    floors = write("mine")
    paused.primary.execute("INSERT INTO app_item (name, created) VALUES ('theirs', now())")
    _, found, taken = read(floors)
    assert found == {"old", "mine", "theirs"}
    position, before = taken["default"].position, floors["default"].position
    assert position is not None
    assert before is not None
    assert position.lsn > before.lsn


class Silent:
    """A primary that is asked where it is, and has not answered yet, or does not at all."""

    def __init__(self, *, down: bool) -> None:
        self._down = down

    def known(self) -> None:
        return None

    def ask(self, waiter: positions.Waiter) -> None:
        waiter.failed = self._down

    def leave(self, waiter: positions.Waiter) -> None:
        return


def test_neither_where_the_primary_is_too_slow_to_say_what_was_seen(paused, monkeypatch):
    floors = write("mine")
    monkeypatch.setattr(members, "primary_of", lambda cluster: Silent(down=False))
    monkeypatch.setattr(outgoing_module, "BUDGET", 0.01)
    _, found, taken = read(floors)
    assert found == {"old", "mine"}
    assert taken["default"].position is None
    assert alias_for(taken) == "default"


def test_a_primary_that_is_down_has_shown_nothing_to_go_back_from(paused, monkeypatch):
    floors = write("mine")
    for down in (True, False):
        monkeypatch.setattr(members, "primary_of", lambda cluster, down=down: Silent(down=down))
        monkeypatch.setattr(outgoing_module, "BUDGET", 0.01)
        if not down:  # it is slow, for all that can be seen from here
            monkeypatch.setattr(monitor, "is_lost", lambda cluster: True)
        assert read(floors)[2] == floors


@looped
async def test_a_task_waits_without_blocking_the_loop(paused, settings, monkeypatch):
    floors = await sync_to_async(write)()
    with scope() as here:
        here.raise_floor("default", floors["default"])
        await asettle(here)
        assert alias_of() == "default"
        assert (await aoutgoing(here)).keys() == {"default"}
    monkeypatch.setattr(positions, "_PATIENCE", 20.0)
    settings.POOLKIT = {**settings.POOLKIT, "ROUTING": {"WAIT": 20.0}}
    with scope() as here:
        here.raise_floor("default", floors["default"])
        settling = asyncio.create_task(asettle(here))
        for _ in range(10):
            await asyncio.sleep(0.001)
        assert not settling.done()
        await asyncio.to_thread(paused.replicas[0].resume_replay)  # as the loop is free
        await settling
        assert alias_of() == "replica"


@looped
async def test_those_who_share_a_scope_take_nothing_from_each_other(paused, settings, monkeypatch):
    # As jobs do that one consumer awaits together.
    monkeypatch.setattr(positions, "_PATIENCE", 20.0)
    settings.POOLKIT = {**settings.POOLKIT, "ROUTING": {"WAIT": 20.0}}
    token = await sync_to_async(written)()
    pin = seal({"default": Floor(None, time.time() + 20.0)})

    async def waits() -> None:
        async with scope(token):
            pass

    async with scope():
        waiting = asyncio.create_task(waits())
        await asyncio.sleep(0)  # it has asked by now
        async with scope(pin):
            assert alias_of() == "default"
            await asyncio.to_thread(paused.replicas[0].resume_replay)
            await waiting
            assert alias_of() == "default"


@looped
async def test_a_cancelled_task_leaves_nobody_waiting(paused):
    floors = await sync_to_async(write)()
    here = Scope()
    here.raise_floor("default", floors["default"])
    waiting = asyncio.create_task(asettle(here))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    pool: Any = connections["replica"].pool  # type: ignore[attr-defined]
    assert servers.of(pool)._waiters == {}


def test_two_clusters_do_not_know_of_each_other(paused, settings):
    settings.POOLKIT = {
        **settings.POOLKIT,
        "CLUSTERS": {
            "default": {"replicas": ["replica"]},
            "other": {"primary": "other", "replicas": ["other_replica"]},
        },
    }
    connections.settings["other"] = entry(paused.primary)
    connections.settings["other_replica"] = entry(paused.replicas[1])
    try:
        with scope() as here:
            with transaction.atomic(using="other"):
                Item.objects.using("other").create(name="new")
            floors = outgoing(here)
        assert floors.keys() == {"other"}
        block, here = arrive(floors)
        assert alias_of() == "replica"
        assert here.settled["other"].hosts == {}
        block.__exit__(None, None, None)
    finally:
        for alias in ("other", "other_replica"):
            connections[alias].close()
            del connections[alias]


def test_nothing_is_asked_twice_of_a_replica_that_is_known_to_have_it(routed, patient, monkeypatch):
    floors = write()
    routed.primary.wait_caught_up(routed.replicas[0])
    read(floors)
    pool: Any = connections["replica"].pool  # type: ignore[attr-defined]
    asked: list[Any] = []
    monkeypatch.setattr(type(servers.of(pool)), "ask", lambda self, waiter: asked.append(waiter))
    assert read(floors)[0] == "replica"
    assert asked == []


def test_what_was_known_is_forgotten_with_the_server_that_said_it(routed, patient):
    replica = routed.replicas[0]
    floors = write()
    routed.primary.wait_caught_up(replica)
    read(floors)
    pool: Any = connections["replica"].pool  # type: ignore[attr-defined]
    assert servers.of(pool).known() is not None
    connections["replica"].close()
    replica.restart()
    assert servers.of(pool).known() is None
    replica.wait_streaming()


def test_a_server_is_asked_by_one_thread_that_ends(routed, monkeypatch):
    monkeypatch.setattr(positions, "_IDLE", 0.05)
    read(write())
    pool: Any = connections["replica"].pool  # type: ignore[attr-defined]
    server = servers.of(pool)
    wait_until(lambda: not server._asking and pool.positions.connections == 0)
    assert pool.stats().probing == 0
