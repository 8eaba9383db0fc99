"""A read that fails on a replica is made again on another server, where that is safe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from django.db import DatabaseError, OperationalError, connections, router, transaction
from django.db.models.expressions import RawSQL
from django.test.utils import CaptureQueriesContext

from django_poolkit import PoolTimeout, registry
from django_poolkit.backends import ports
from django_poolkit.pools.postgres.connection import KILLED
from django_poolkit.routing import ReplicasBehind, choice, faults, scope, use_replica
from django_poolkit.routing.monitor import monitor
from django_poolkit.routing.scopes import Settled
from django_poolkit.testing import Cluster, Node
from django_poolkit.testing.waiting import wait_until
from tests.app.models import Item
from tests.pools.support import Call
from tests.routing.conftest import LedTo, entry

MODES = pytest.mark.parametrize("mode", ["session", "transaction"])
ONE, OTHER = "replica/one", "replica/other"


@pytest.fixture
def joined(routed: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The servers with one item, and all that the router is told."""
    monkeypatch.setattr(ports, "choose_host", choice.host_for)
    monkeypatch.setattr(ports, "keeps_host", choice.keeps_host)
    monkeypatch.setattr(ports, "note_refusal", choice.note_refusal)
    monkeypatch.setattr(ports, "reroutes", faults.reroutes)
    monkeypatch.setattr(ports, "another_alias", faults.another_alias)
    monkeypatch.setattr(ports, "note_broken", faults.note_broken)
    routed.primary.execute("INSERT INTO app_item (name, created) VALUES ('old', now())")
    for node in routed.replicas:
        routed.primary.wait_caught_up(node)
    monitor.forget()
    yield routed
    monitor.forget()


@pytest.fixture
def hosts(joined: Cluster) -> Callable[[str], Any]:
    """Return a function that has `replica` lead to both replicas, in a mode."""

    def lead(mode: str) -> None:
        places = {
            name: {"HOST": node.host, "PORT": node.port}
            for name, node in zip(("one", "other"), joined.replicas, strict=True)
        }
        options = {"pool": {"max_size": 4, "mode": mode}, "hosts": places}
        connections["replica"].close()
        del connections["replica"]
        connections.settings["replica"] = entry(joined.replicas[0], OPTIONS=options)

    return lead


@pytest.fixture
def aliases(joined: Cluster, settings: Any) -> Iterator[Callable[..., Any]]:
    """Return a function that has each replica be an alias, in a mode."""
    with LedTo(default=entry(joined.primary)):

        def lead(mode: str, *nodes: Node, **more: Any) -> None:
            options = {"pool": {"max_size": 4, "mode": mode}}
            names = [f"replica{number}" for number, _ in enumerate(nodes, 1)]
            clusters = {"default": {"replicas": names, **more}}
            settings.POOLKIT = {**settings.POOLKIT, "CLUSTERS": clusters}
            found = dict(zip(names, nodes, strict=True)) | {"default": joined.primary}
            connections.settings.update(
                {alias: entry(node, OPTIONS=options) for alias, node in found.items()}
            )

        yield lead


def slow(node: Node) -> RawSQL:
    """Return an expression that takes a minute on one server, and no time elsewhere."""
    sql = "CASE WHEN current_setting('port') = %s THEN pg_sleep(60)::text ELSE 'quick' END"
    return RawSQL(sql, (str(node.port),))


def wait_for_reader(node: Node) -> int:
    """Return the process of the statement that is slow on a server."""
    question = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    wait_until(lambda: node.execute(question), message="nobody reads there")
    [[pid]] = node.execute(question)
    return int(pid)


def kill(node: Node) -> None:
    """Kill the reader on a server."""
    node.execute("SELECT pg_terminate_backend(%s)", (wait_for_reader(node),))


def read_on(node: Node, read: Callable[[], Any], alias: str = "replica") -> Call:
    """Begin to read in a thread, by a scope that is sent to one server."""

    def run() -> Any:
        try:
            with scope() as here:
                here.replicas["default"] = alias
                for key, place in _hosts(alias).items():
                    if place["PORT"] == node.port:
                        here.hosts[alias] = key
                return read()
        finally:
            connections.close_all()

    return Call(run)


def _hosts(alias: str) -> dict[str, Any]:
    found: dict[str, Any] = connections.settings[alias]["OPTIONS"].get("hosts", {})
    return found


def host() -> str | None:
    """Return which host the alias `replica` was last led to."""
    wrapper: Any = connections["replica"]
    found: str | None = wrapper._host
    return found


def names_by(node: Node) -> list[tuple[str, str]]:
    return list(Item.objects.annotate(how=slow(node)).values_list("name", "how"))


def stats(name: str) -> Any:
    return registry.connection_pools[name].stats()


# -- another host of the same alias


@MODES
def test_a_read_whose_server_process_is_killed_is_made_again_on_another_host(joined, hosts, mode):
    # Scenario 15.
    hosts(mode)
    first = joined.replicas[0]

    def read():
        found = names_by(first)
        [again] = Item.objects.all()  # the scope stays where it has gone
        return found, again._state.db, host()

    call = read_on(first, read)
    kill(first)
    assert call.result() == ([("old", "quick")], "replica", "other")
    assert dict(stats(ONE).read_retries) == {"broken": 1}
    assert dict(stats(ONE).evictions) == {"broken": 1}
    assert (stats(OTHER).read_retries, stats(OTHER).evictions) == ({}, {})
    assert (stats(ONE).used, stats(OTHER).used) == (0, 0)


@MODES
def test_one_in_a_transaction_is_not_and_its_host_is_evicted(joined, hosts, mode):
    # Scenario 15.
    hosts(mode)
    first = joined.replicas[0]

    def read():
        with transaction.atomic(using="replica"):
            return names_by(first)

    call = read_on(first, read)
    kill(first)
    with pytest.raises(OperationalError, match="terminating connection"):
        call.result()
    assert dict(stats(ONE).evictions) == {"broken": 1}
    assert dict(stats(ONE).read_retries) == {}


@MODES
def test_one_that_is_in_the_way_of_the_replay_is_and_its_host_stays(joined, hosts, mode):
    # Scenario 16.
    hosts(mode)
    first, other = joined.replicas
    first.execute("ALTER SYSTEM SET max_standby_streaming_delay = 0")
    first.execute("SELECT pg_reload_conf()")
    try:
        call = read_on(first, lambda: names_by(first))
        wait_for_reader(first)
        joined.primary.execute("TRUNCATE app_item")
        joined.primary.wait_caught_up(other)
        assert call.result() in ([("old", "quick")], [])  # as far as the other one has come
    finally:
        first.execute("ALTER SYSTEM RESET max_standby_streaming_delay")
        first.execute("SELECT pg_reload_conf()")
    assert dict(stats(ONE).read_retries) == {"conflict": 1}
    assert dict(stats(ONE).evictions) == {}
    assert (stats(ONE).used, stats(OTHER).used) == (0, 0)


def test_a_conflict_on_the_primary_is_raised_as_it_is(joined, hosts):
    # Scenario 16: there it is a serialization failure of a transaction.
    hosts("transaction")
    with pytest.raises(OperationalError) as caught, connections["default"].cursor() as cursor:
        cursor.execute("DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END $$")
    assert caught.value.__cause__.sqlstate == "40001"  # type: ignore[union-attr]


@MODES
def test_what_is_named_by_using_goes_to_another_host(joined, hosts, mode):
    hosts(mode)
    first = joined.replicas[0]
    query = Item.objects.using("replica").annotate(how=slow(first)).values_list("how", flat=True)
    call = read_on(first, lambda: list(query))
    kill(first)
    assert call.result() == ["quick"]


@MODES
def test_what_has_state_in_its_session_is_not_made_again(joined, hosts, mode):
    hosts(mode)
    first = joined.replicas[0]

    def read():
        with connections["replica"].cursor() as cursor:
            cursor.execute("SET work_mem = '5MB'")
        return names_by(first)

    call = read_on(first, read)
    kill(first)
    with pytest.raises(OperationalError):
        call.result()
    assert dict(stats(ONE).read_retries) == {}


@MODES
def test_a_cursor_of_the_servers_is_not_moved(joined, hosts, mode):
    hosts(mode)
    first = joined.replicas[0]
    query = Item.objects.annotate(how=slow(first))
    call = read_on(first, lambda: list(query.iterator()))
    kill(first)
    with pytest.raises(OperationalError):
        call.result()


@MODES
def test_what_an_operator_kills_stays_killed(joined, hosts, mode):
    hosts(mode)
    first = joined.replicas[0]
    call = read_on(first, lambda: names_by(first))
    wait_for_reader(first)
    pool = registry.connection_pools[ONE]
    [lease] = pool.leases()
    assert pool.kill(lease.key)
    with pytest.raises(OperationalError):
        call.result()
    assert (stats(ONE).read_retries, stats(ONE).evictions) == ({}, {})


def test_nor_does_what_it_cuts_off_go_elsewhere(joined, hosts):
    hosts("transaction")
    first = joined.replicas[0]
    call = read_on(first, lambda: names_by(first))
    wait_for_reader(first)
    [lease] = registry.connection_pools[ONE].leases()
    [found] = [each() for each in registry.connection_pools[ONE]._ledger.live.values()]
    assert found is not None
    assert found.key == lease.key
    found.connection._generation = KILLED  # whose cancellation has no effect
    del found
    kill(first)
    with pytest.raises(OperationalError):
        call.result()
    assert (stats(ONE).read_retries, stats(ONE).evictions) == ({}, {})


@MODES
def test_a_statement_that_breaks_two_connections_gets_no_third(joined, hosts, mode):
    hosts(mode)
    first, other = joined.replicas
    everywhere = RawSQL("CASE WHEN true THEN pg_sleep(60)::text END", ())
    call = read_on(first, lambda: list(Item.objects.annotate(how=everywhere)))
    kill(first)
    kill(other)
    with pytest.raises(OperationalError, match="terminating connection"):
        call.result()
    assert dict(stats(OTHER).read_retries) == {}


@MODES
def test_it_is_logged_as_one_query(joined, hosts, mode):
    hosts(mode)
    first = joined.replicas[0]

    def read():
        with CaptureQueriesContext(connections["replica"]) as captured:
            names_by(first)
        return len(captured)

    call = read_on(first, read)
    kill(first)
    assert call.result() == 1


@MODES
def test_a_server_that_stops_between_two_reads_of_a_request_costs_no_error(joined, hosts, mode):
    # Scenario 14: of session mode the lease is held, of transaction mode connections are idle.
    hosts(mode)
    first = joined.replicas[0]

    def read():
        before = Item.objects.count(), host()
        first.stop("fast")
        return before, Item.objects.count(), host()

    call = read_on(first, read)
    try:
        assert call.result(30.0) == ((1, "one"), 1, "other")
        monitor.look()
        assert sum(stats(ONE).evictions.values()) == 1
    finally:
        first.start()
        first.wait_streaming()


# -- another alias


@MODES
def test_it_is_made_again_on_another_alias(joined, aliases, mode):
    first, other = joined.replicas
    aliases(mode, first, other)

    def read():
        [item] = Item.objects.annotate(how=slow(first))
        return item.how, item._state.db, router.db_for_read(Item)

    call = read_on(first, read, alias="replica1")
    kill(first)
    # The object says where it was asked for; what is read after it is read elsewhere.
    assert call.result() == ("quick", "replica1", "replica2")
    assert dict(stats("replica1").read_retries) == {"broken": 1}
    assert (stats("replica1").used, stats("replica2").used) == (0, 0)


@MODES
@pytest.mark.parametrize("way", ["values", "count"])
def test_where_there_is_no_other_it_is_made_on_the_primary(joined, aliases, mode, way):
    [first, _] = joined.replicas
    aliases(mode, first)
    query = Item.objects.annotate(how=slow(first))

    def read():
        if way == "values":
            found = [name for name, _ in query.values_list("name", "how")]
        else:
            found = ["old"] * query.filter(how="quick").count()
        return found, router.db_for_read(Item)

    call = read_on(first, read, alias="replica1")
    kill(first)
    assert call.result() == (["old"], "default")
    assert stats("default").used == 0


@MODES
def test_the_primary_is_left_alone_where_it_is_not_to_be_read_instead(joined, aliases, mode):
    [first, _] = joined.replicas
    aliases(mode, first, all_down="error")
    call = read_on(first, lambda: names_by(first), alias="replica1")
    kill(first)
    with pytest.raises(OperationalError, match="terminating connection"):
        call.result()


@MODES
def test_what_is_named_by_using_or_by_hand_goes_to_no_other_alias(joined, aliases, mode):
    first, other = joined.replicas
    aliases(mode, first, other)
    query = Item.objects.annotate(how=slow(first))
    sql, params = query.query.sql_with_params()
    for named in (query.using("replica1"), Item.objects.raw(sql, params, using="replica1")):
        call = read_on(first, partial(list, named), alias="replica1")
        kill(first)
        with pytest.raises(OperationalError):
            call.result()

    def by_hand():
        with use_replica(), connections["replica1"].cursor() as cursor:
            cursor.execute(sql, params)

    monitor.forget()
    call = read_on(first, by_hand, alias="replica1")
    kill(first)
    with pytest.raises(DatabaseError):
        call.result()
    assert dict(stats("replica1").read_retries) == {}


# -- a server that gives no connection


@pytest.fixture
def down(joined: Cluster) -> Iterator[Callable[..., None]]:
    """Return a function that stops replicas until the test ends."""
    stopped: list[Node] = []

    def stop(*nodes: Node) -> None:
        for node in nodes:
            stopped.append(node)
            node.stop("fast")

    yield stop
    for node in stopped:
        node.start()
        node.wait_streaming()


def quickly(read: Callable[[], Any]) -> Any:
    """Read in a scope that is sent to `replica1`, in much less than the pool would wait."""
    started = time.monotonic()
    with scope() as here:
        here.replicas["default"] = "replica1"
        found = read(), router.db_for_read(Item)
    assert time.monotonic() - started < 2.5
    return found


@MODES
def test_a_server_that_is_gone_costs_no_error_where_there_is_another(joined, aliases, down, mode):
    # Scenario 14, of aliases that lead to one server each.
    first, other = joined.replicas
    aliases(mode, first, other)
    quickly(lambda: Item.objects.count())  # which leaves a connection there
    connections.close_all()
    down(first)
    assert quickly(lambda: [item._state.db for item in Item.objects.all()]) == (
        ["replica1"],
        "replica2",
    )
    assert dict(stats("replica1").read_retries) == {"refused": 1}
    assert monitor._wake.is_set()
    monitor.look()
    assert dict(stats("replica1").evictions) == {"refuses": 1}
    assert router.db_for_read(Item) == "replica2"


@MODES
@pytest.mark.parametrize("way", ["list", "iterator", "count"])
def test_where_it_was_the_only_one_the_primary_is_read(joined, aliases, down, mode, way):
    [first, _] = joined.replicas
    aliases(mode, first)
    down(first)

    def read():
        if way == "count":
            return Item.objects.count()
        return len(list(Item.objects.iterator() if way == "iterator" else Item.objects.all()))

    assert quickly(read) == (1, "default")
    assert dict(stats("replica1").read_retries) == {"refused": 1}


@MODES
def test_where_all_hosts_are_down_the_primary_is_read(joined, hosts, down, mode):
    # Scenario 17, before anybody has looked.
    hosts(mode)
    down(*joined.replicas)
    started = time.monotonic()
    with scope():
        assert Item.objects.count() == 1
        assert router.db_for_read(Item) == "default"
    assert time.monotonic() - started < 2.5


@MODES
def test_what_names_a_server_that_is_gone_waits_for_it(joined, aliases, down, mode):
    first, other = joined.replicas
    aliases(mode, first, other)
    registry.connection_pools["replica1"].timeout = 0.3
    down(first)
    started = time.monotonic()
    with pytest.raises(PoolTimeout):
        Item.objects.using("replica1").count()
    with pytest.raises(PoolTimeout), connections["replica1"].cursor():
        pass
    assert time.monotonic() - started >= 0.6
    assert dict(stats("replica1").read_retries) == {}


@MODES
def test_so_does_what_may_not_read_the_primary_instead(joined, aliases, down, mode):
    [first, _] = joined.replicas
    aliases(mode, first, all_down="error")
    registry.connection_pools["replica1"].timeout = 0.3
    down(first)
    with pytest.raises(PoolTimeout):
        Item.objects.count()


@MODES
def test_one_that_goes_elsewhere_may_fail_there_and_go_on(joined, aliases, down, mode):
    first, other = joined.replicas
    aliases(mode, first, other)
    down(first)

    def read():
        return names_by(other), router.db_for_read(Item)

    call = read_on(first, read, alias="replica1")
    kill(other)
    assert call.result() == ([("old", "quick")], "default")
    assert dict(stats("replica1").read_retries) == {"refused": 1}
    assert dict(stats("replica2").read_retries) == {"broken": 1}


@MODES
def test_where_no_other_host_has_what_must_be_seen_the_primary_is_read(joined, hosts, down, mode):
    hosts(mode)
    down(joined.replicas[0])

    def see(here):
        here.settled = {"default": Settled({"replica": frozenset({"one"})})}

    with scope() as here:
        see(here)
        assert Item.objects.count() == 1
        assert router.db_for_read(Item) == "default"
    with scope() as here, pytest.raises(ReplicasBehind):
        see(here)
        Item.objects.using("replica").count()


def test_a_transaction_on_a_replica_is_not_left(joined, aliases, down):
    [first, _] = joined.replicas
    aliases("transaction", first)
    registry.connection_pools["replica1"].timeout = 0.3
    down(first)
    with pytest.raises(PoolTimeout), transaction.atomic(using="replica1"):
        Item.objects.count()


def test_a_cursor_by_hand_within_a_query_of_the_routers_is_by_hand(joined, aliases):
    first, other = joined.replicas
    aliases("transaction", first, other)
    sql, params = Item.objects.annotate(how=slow(first)).query.sql_with_params()
    inner: list[Exception] = []

    def nosy(execute, *args):
        if not inner:
            inner.append(AssertionError("it went elsewhere"))
            with connections["replica1"].cursor() as cursor:
                try:
                    cursor.execute(sql, params)
                except OperationalError as error:
                    inner.append(error)
        return execute(*args)

    def read():
        with connections["replica1"].execute_wrapper(nosy):
            return Item.objects.count()

    call = read_on(first, read, alias="replica1")
    kill(first)
    assert call.result() == 1
    assert isinstance(inner[-1], OperationalError)
