"""Several hosts behind one alias: which one serves, for how long, and in what proportion."""

from __future__ import annotations

import os
import threading
from collections import Counter

import pytest
from django.db import connections, transaction

from django_poolkit.backends import ports
from django_poolkit.backends.request import RequestScope, entered
from django_poolkit.pools.postgres.errors import PoolTimeout
from tests.hosts.conftest import ask, at, ports_of
from tests.pools.support import Call

MODES = pytest.mark.parametrize("mode", ["session", "transaction"])


def serve(wrapper):
    """Read once, as a request of its own; return where."""
    with entered(RequestScope()):
        port = ask(wrapper)
        wrapper.close()
    return port


@MODES
def test_each_replica_gets_its_share(servers, replica, mode):
    wrapper = replica(mode=mode)
    shares = Counter(serve(wrapper) for _ in range(100))
    assert shares == dict.fromkeys(ports_of(servers), 50)


@MODES
def test_weights_are_shares(servers, proxies, replica, mode):
    heavy, light = ports_of(servers)
    wrapper = replica(hosts=[at(proxies[0], weight=3), at(proxies[1])], mode=mode)
    assert Counter(serve(wrapper) for _ in range(100)) == {heavy: 75, light: 25}


@MODES
def test_outside_of_requests_it_takes_turns_from_close_to_close(servers, replica, mode):
    wrapper = replica(mode=mode)
    found = []
    for _ in range(4):
        found.append({ask(wrapper) for _ in range(3)})
        wrapper.close()
    assert [len(each) for each in found] == [1, 1, 1, 1]
    assert found[0] == found[2] != found[1] == found[3]


@MODES
def test_all_reads_of_a_request_go_to_one_host(servers, replica, mode):
    wrapper = replica(mode=mode)
    for _ in range(6):
        with entered(RequestScope()):
            found = []
            for _ in range(3):
                found.append(ask(wrapper))
                wrapper.close()
        assert len(set(found)) == 1


@pytest.mark.core
@MODES
def test_threads_of_one_request_read_one_host(servers, replica, mode):
    replica(mode=mode)
    for _ in range(10):
        scope = RequestScope()
        barrier = threading.Barrier(4)

        def read(scope=scope, barrier=barrier):
            with entered(scope):
                barrier.wait(10.0)
                try:
                    return ask(connections["replica"])
                finally:
                    connections["replica"].close()

        calls = [Call(read) for _ in range(4)]
        assert len({call.result() for call in calls}) == 1


def test_a_wrapper_that_goes_from_request_to_request_follows(servers, replica):
    wrapper = replica(mode="transaction")
    scopes = [RequestScope(), RequestScope()]
    found = []
    for scope in (*scopes, *scopes):
        with entered(scope):
            found.append(ask(wrapper))  # and nobody closes
    assert found[0] == found[2] != found[1] == found[3]


def test_a_transaction_stays_where_it_began(servers, replica):
    wrapper = replica(mode="transaction")
    with transaction.atomic(using="replica"):
        assert len({ask(wrapper) for _ in range(4)}) == 1
        pids = {ask(wrapper, "SELECT pg_backend_pid()") for _ in range(3)}
    assert len(pids) == 1


def test_who_hooks_in_chooses_at_each_acquire(servers, proxies, replica, monkeypatch):
    wrapper = replica(hosts={"east": at(proxies[0], weight=3), "west": at(proxies[1])})
    asked = []

    def choose(alias, hosts):
        asked.append((alias, dict(hosts)))
        return "west"

    monkeypatch.setattr(ports, "choose_host", choose)
    for _ in range(2):
        assert ask(wrapper) == ports_of(servers)[1]
        wrapper.close()
    assert asked == [("replica", {"east": 3.0, "west": 1.0})] * 2


@MODES
def test_a_hook_may_leave_the_choice(servers, replica, monkeypatch, mode):
    wrapper = replica(mode=mode)
    monkeypatch.setattr(ports, "choose_host", lambda alias, hosts: None)
    assert {serve(wrapper) for _ in range(4)} == set(ports_of(servers))


def test_a_hook_that_invents_a_host_is_told_so(replica, monkeypatch):
    wrapper = replica()
    monkeypatch.setattr(ports, "choose_host", lambda alias, hosts: "3")
    with pytest.raises(ValueError, match="returned '3' for 'replica', which is none of '1', '2'"):
        ask(wrapper)


@MODES
def test_a_busy_host_is_waited_for_and_not_left(servers, replica, mode):
    wrapper = replica(mode=mode, pool={"max_size": 1, "timeout": 0.6})
    with entered(RequestScope()):
        ask(wrapper)
        wrapper.close()
        taken = wrapper.pool.acquire()
        with pytest.raises(PoolTimeout):
            ask(wrapper)
        taken.release()
        assert ask(wrapper)
        wrapper.close()


def test_one_host_alone_is_a_pool_as_any_other(servers, proxies, replica):
    wrapper = replica(hosts={"only": at(proxies[0])})
    assert ask(wrapper) == ports_of(servers)[0]
    assert wrapper._lease.pool.name == "replica/only"


@pytest.mark.core
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_reads_on_connections_of_its_own(servers, replica):
    wrapper = replica(mode="transaction")
    pids = {serve_pid(wrapper) for _ in range(4)}
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover
        try:
            found = {str(serve_pid(wrapper)) for _ in range(4)} | {serve(wrapper), serve(wrapper)}
            os.write(writer, ",".join(found).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        found = set(pipe.read().split(","))
    os.waitpid(child, 0)
    assert found > set(ports_of(servers))
    assert len(found) == 4
    assert found.isdisjoint(map(str, pids))
    assert {serve_pid(wrapper) for _ in range(4)} == pids


def serve_pid(wrapper):
    with entered(RequestScope()):
        pid = ask(wrapper, "SELECT pg_backend_pid()")
        wrapper.close()
    return pid


def test_settings_that_change_lead_elsewhere_at_once(servers, proxies, replica):
    wrapper = replica()
    ask(wrapper)
    wrapper.close()
    wrapper.settings_dict["OPTIONS"]["hosts"].pop(0)
    assert {serve(wrapper) for _ in range(3)} == {ports_of(servers)[1]}
    assert list(wrapper.host_pools) == ["replica/1"]


@MODES
def test_each_lease_comes_home_to_the_pool_that_it_is_of(servers, replica, mode):
    wrapper = replica(mode=mode)
    for _ in range(6):
        serve(wrapper)
    stats = [pool.stats() for pool in wrapper.host_pools.values()]
    assert [(each.used, each.idle, each.size, each.acquired) for each in stats] == [
        (0, 1, 1, 3)
    ] * 2
