"""A host that gives no connection is passed by, as long as another one lives."""

from __future__ import annotations

import asyncio
import time

import pytest
from django.db import OperationalError, connections, transaction

from django_poolkit import PoolPaused, PoolTimeout, connection_pools
from django_poolkit.aio import bridged
from django_poolkit.backends import ports
from django_poolkit.backends.request import RequestScope, entered
from django_poolkit.testing.waiting import wait_until
from tests.hosts.conftest import ask, at, ports_of
from tests.hosts.test_choice import MODES, serve
from tests.pools.support import Call


@MODES
def test_a_host_that_refuses_is_passed_by(servers, proxies, replica, mode):
    wrapper = replica(mode=mode)
    proxies[0].refuse()
    started = time.monotonic()
    assert {serve(wrapper) for _ in range(10)} == {ports_of(servers)[1]}
    assert time.monotonic() - started < 3.0
    # Nobody hammers at it either.
    assert wrapper.host_pools["replica/1"].stats().connect_errors < 5
    proxies[0].accept()
    wait_until(
        lambda: {serve(wrapper) for _ in range(2)} == set(ports_of(servers)),
        message="the host that is back is not read from",
    )


@MODES
def test_a_host_that_dies_between_two_reads_is_passed_by(servers, proxies, replica, mode):
    wrapper = replica(mode=mode)
    for _ in range(4):
        serve(wrapper)
    proxies[1].refuse()
    proxies[1].drop()
    assert {serve(wrapper) for _ in range(6)} == {ports_of(servers)[0]}


def test_the_rest_of_a_request_stays_where_it_has_gone(servers, proxies, replica):
    wrapper = replica(mode="transaction")
    with entered(RequestScope()) as scope:
        first = ports_of(servers).index(ask(wrapper))
        proxies[first].refuse()
        proxies[first].drop()
        other = ask(wrapper)
        assert other == ports_of(servers)[1 - first]
        proxies[first].accept()
        assert [ask(wrapper) for _ in range(4)] == [other] * 4
        assert scope.hosts == {"replica": str(2 - first)}
        wrapper.close()


@MODES
def test_a_silent_host_is_left_after_a_second(servers, proxies, replica, mode):
    wrapper = replica(mode=mode)
    proxies[0].stall()
    started = time.monotonic()
    assert serve(wrapper) == serve(wrapper) == ports_of(servers)[1]
    assert 0.9 < time.monotonic() - started < 2.5
    # While its connect is under way nobody waits for another.
    started = time.monotonic()
    assert {serve(wrapper) for _ in range(6)} == {ports_of(servers)[1]}
    assert time.monotonic() - started < 0.5
    proxies[0].resume()
    wait_until(
        lambda: {serve(wrapper) for _ in range(2)} == set(ports_of(servers)),
        message="the host that is back is not read from",
    )


@MODES
def test_in_an_outage_one_tries_and_the_others_pass_by_at_once(servers, proxies, replica, mode):
    wrapper = replica(mode=mode)
    proxies[0].refuse()
    serve(wrapper)
    serve(wrapper)

    def reads():
        try:
            return {serve(connections["replica"]) for _ in range(10)}
        finally:
            connections["replica"].close()

    calls = [Call(reads) for _ in range(4)]
    assert {port for call in calls for port in call.result()} == {ports_of(servers)[1]}
    dead = wrapper.host_pools["replica/1"].stats()
    assert (dead.used, dead.waiters, dead.timeouts) == (0, 0, 0)


@pytest.fixture
def trying(servers, proxies, replica):
    """A read of host 1, which has refused before, and is silent now."""
    wrapper = replica()
    proxies[0].refuse()
    serve(wrapper), serve(wrapper)
    proxies[0].accept()
    proxies[0].stall()
    pool = wrapper.host_pools["replica/1"]
    wait_until(lambda: not pool.refusing, message="it is never tried again")

    def read():
        with entered(RequestScope()) as scope:
            scope.hosts["replica"] = "1"
            try:
                return ask(connections["replica"])
            finally:
                connections["replica"].close()

    call = Call(read)
    wait_until(lambda: pool.stats().waiters == 1, message="nobody tries")
    return call


def test_while_one_tries_a_silent_host_the_others_pass_by_at_once(servers, replica, trying):
    wrapper = connections["replica"]
    started = time.monotonic()
    assert {serve(wrapper) for _ in range(6)} == {ports_of(servers)[1]}
    assert time.monotonic() - started < 0.5
    assert trying.result() == ports_of(servers)[1]


def test_where_no_host_lives_who_comes_waits_along_with_who_tries(servers, proxies, trying):
    pool = connection_pools["replica/1"]
    proxies[1].refuse()
    proxies[1].drop()

    def read():
        try:
            return serve(connections["replica"])
        finally:
            connections["replica"].close()

    other = Call(read)
    wait_until(lambda: pool.stats().waiters == 2, message="it does not wait along")
    proxies[0].resume()
    assert other.result() == trying.result() == ports_of(servers)[0]


@MODES
def test_where_all_refuse_the_error_names_each(proxies, replica, mode):
    wrapper = replica(mode=mode, pool={"timeout": 0.5})
    for proxy in proxies:
        proxy.refuse()
    started = time.monotonic()
    with entered(RequestScope()) as scope, pytest.raises(PoolTimeout) as caught:
        ask(wrapper)
    assert 0.4 < time.monotonic() - started < 1.5
    error = caught.value
    assert isinstance(error, OperationalError)
    text = str(error)
    assert text.startswith("alias 'replica': none of its hosts gave a connection within 0.50 s (")
    assert "replica/1: last connect error: OperationalError" in text
    assert "replica/2: last connect error: OperationalError" in text
    assert str(proxies[0].port) not in text
    assert proxies[0].host not in text
    assert error.stats is not None
    assert error.stats.name == error.pool
    assert error.pool in ("replica/1", "replica/2")
    assert error.waited == 0.5
    assert str(scope.exhausted) == text
    timeouts = [pool.stats().timeouts for pool in wrapper.host_pools.values()]
    assert sum(timeouts) == 1


@MODES
def test_whoever_is_back_first_serves_those_who_wait(servers, proxies, replica, mode):
    wrapper = replica(mode=mode)
    for proxy in proxies:
        proxy.refuse()

    def read():
        try:
            return ask(connections["replica"])
        finally:
            connections["replica"].close()

    calls = [Call(read) for _ in range(3)]
    errors = [pool.stats().connect_errors for pool in wrapper.host_pools.values()]
    wait_until(
        lambda: all(
            pool.stats().connect_errors > before + 1
            for pool, before in zip(wrapper.host_pools.values(), errors, strict=True)
        ),
        message="not all hosts are tried again",
    )
    proxies[1].accept()
    assert {call.result() for call in calls} == {ports_of(servers)[1]}


@MODES
def test_a_paused_host_is_passed_by_and_both_are_waited_for(servers, replica, mode):
    wrapper = replica(mode=mode, pool={"timeout": 0.4})
    first, second = wrapper.host_pools.values()
    first.pause(30.0)
    assert {serve(wrapper) for _ in range(4)} == {ports_of(servers)[1]}
    second.pause(30.0)
    with pytest.raises(PoolPaused, match=r"replica/1: it is paused; .*replica/2: it is paused"):
        ask(wrapper)
    first.resume()
    assert {serve(wrapper) for _ in range(4)} == {ports_of(servers)[0]}


def test_who_hooks_in_is_asked_again_without_the_host_that_refused(
    servers, proxies, replica, monkeypatch
):
    wrapper = replica()
    asked = []

    def choose(alias, hosts):
        asked.append(list(hosts))
        return next(iter(hosts))

    monkeypatch.setattr(ports, "choose_host", choose)
    proxies[0].refuse()
    assert ask(wrapper) == ports_of(servers)[1]
    assert asked == [["1", "2"], ["2"]]


def test_one_host_alone_has_the_errors_of_its_pool(proxies, replica):
    wrapper = replica(hosts=[at(proxies[0])], pool={"timeout": 0.3})
    proxies[0].refuse()
    with pytest.raises(PoolTimeout, match=r"^pool 'replica/1': no connection within 0\.[23]\d s"):
        ask(wrapper)


def test_one_host_alone_is_waited_for(servers, proxies, replica):
    wrapper = replica(hosts=[at(proxies[0])])
    proxies[0].refuse()
    call = Call(ask, connections["replica"])
    wrapper.inc_thread_sharing()
    wait_until(lambda: wrapper.pool.stats().connect_errors > 0, message="no connect")
    proxies[0].accept()
    assert call.result() == ports_of(servers)[0]
    wrapper.dec_thread_sharing()


def test_a_server_that_has_no_connection_left_is_not_passed_by(servers, proxies, replica):
    # It lives, and who has begun to read there goes on as soon as there is a connection.
    node = servers.replicas[0]
    wrapper = replica(pool={"timeout": 3.0})
    role = "crowded"
    servers.primary.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x' CONNECTION LIMIT 1")
    servers.primary.wait_caught_up(node)
    try:
        wrapper = replica(
            hosts=[at(proxies[0], USER=role, PASSWORD="x"), at(proxies[1])],
            pool={"timeout": 1.0},
        )
        with entered(RequestScope()) as scope:
            scope.hosts["replica"] = "1"
            taken = wrapper.host_pools["replica/1"].acquire()
            with pytest.raises(PoolTimeout, match="53300"):
                ask(wrapper)
            assert scope.hosts == {"replica": "1"}
            taken.release()
    finally:
        wrapper.close()
        wrapper.close_pool()
        servers.primary.execute(f"DROP ROLE {role}")


def test_a_transaction_that_has_not_begun_may_begin_elsewhere(servers, proxies, replica):
    wrapper = replica(mode="transaction")
    proxies[0].refuse()
    for _ in range(2):
        with transaction.atomic(using="replica"):
            assert ask(wrapper) == ports_of(servers)[1]
        wrapper.close()


@MODES
def test_a_replica_that_is_restarted_is_missed_by_nobody(servers, replica, mode):
    direct = [{"HOST": node.host, "PORT": str(node.port)} for node in servers.replicas]
    wrapper = replica(hosts=direct, mode=mode)
    assert {serve(wrapper) for _ in range(4)} == set(ports_of(servers))
    node = servers.replicas[0]
    node.stop()
    try:
        assert {serve(wrapper) for _ in range(8)} == {ports_of(servers)[1]}
    finally:
        node.start()
        servers.primary.execute("INSERT INTO notes VALUES ('so that it knows its lag again')")
        servers.primary.wait_caught_up(node)
    wait_until(
        lambda: {serve(wrapper) for _ in range(2)} == set(ports_of(servers)),
        message="the replica that is back is not read from",
    )


# The proxy may cut a connection which it is just about to serve, and then forgets to close it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@MODES
def test_threads_read_on_while_hosts_come_and_go(servers, proxies, replica, mode):
    wrapper = replica(mode=mode, pool={"max_size": 3})
    end = time.monotonic() + 3.0
    refusals: list[PoolTimeout] = []

    def reads():
        own, count = connections["replica"], 0
        try:
            while time.monotonic() < end:
                try:
                    with entered(RequestScope()):
                        for _ in range(3):
                            ask(own)
                            own.close()
                    count += 1
                except PoolTimeout as error:
                    refusals.append(error)
                except OperationalError:
                    own.close()  # cut under the statement, which is that one's error
        finally:
            own.close()
        return count

    calls = [Call(reads) for _ in range(6)]
    flaps = 0
    while time.monotonic() < end:
        proxies[flaps % 2].refuse()
        proxies[flaps % 2].drop()
        assert serve(wrapper) == ports_of(servers)[1 - flaps % 2]
        proxies[flaps % 2].accept()
        flaps += 1
    counts = [call.result() for call in calls]
    assert refusals == []
    assert flaps > 1
    assert min(counts) > 0
    wait_until(
        lambda: all(pool.stats().connecting == 0 for pool in wrapper.host_pools.values()),
        message="a connect is under way",
    )
    for pool in wrapper.host_pools.values():
        stats = pool.stats()
        assert (stats.used, stats.waiters, stats.timeouts) == (0, 0, 0)
        assert stats.size == stats.idle <= 3


def test_a_task_that_finds_no_host_leaves_the_loop_to_others(proxies, replica, monkeypatch):
    replica(mode="transaction", pool={"timeout": 0.6})
    for proxy in proxies:
        proxy.refuse()

    def blocks(seconds: float) -> None:
        raise AssertionError("the thread of the event loop would sleep")

    monkeypatch.setattr("django_poolkit.backends.pausing.sleep", blocks)

    @bridged
    def read() -> None:
        with connections["replica"].cursor() as cursor:
            cursor.execute("SELECT")

    with pytest.raises(PoolTimeout, match="none of its hosts"):
        asyncio.run(read())
