"""What becomes of replicas that are looked at: on real servers, to which real things happen."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections

from django_poolkit import registry, signals
from django_poolkit.pools.postgres.prober import ProbeFailed
from django_poolkit.routing import admission, breaker
from django_poolkit.routing import monitor as module
from django_poolkit.routing.breaker import Circuit
from django_poolkit.routing.monitor import Monitor
from django_poolkit.routing.seen import Seen
from django_poolkit.testing import Cluster, Node
from django_poolkit.testing.waiting import wait_until
from tests.routing.conftest import entry

ONE, OTHER = "replica/one", "replica/other"


def hosts(cluster: Cluster, **more: Any) -> dict[str, Any]:
    """Return an entry of `DATABASES` that leads to both replicas."""
    places = {
        name: {"HOST": node.host, "PORT": node.port}
        for name, node in zip(("one", "other"), cluster.replicas, strict=True)
    }
    return entry(cluster.replicas[0], OPTIONS={"pool": {"max_size": 4}, "hosts": places}, **more)


@pytest.fixture
def watched(routed: Cluster) -> Cluster:
    """The servers; the alias `replica` leads to both replicas."""
    connections["replica"].close()
    del connections["replica"]
    connections.settings["replica"] = hosts(routed)
    for node in routed.replicas:
        routed.primary.wait_caught_up(node)
    return routed


@pytest.fixture
def eye(watched: Cluster) -> Iterator[Monitor]:
    """A monitor that looks when it is told to."""
    made = Monitor()
    yield made
    made.close(5.0)
    admission.publish({})


@pytest.fixture
def limits(settings: Any) -> Any:
    """Return a function that sets what the cluster asks of its replicas."""

    def limit(**more: Any) -> None:
        clusters = {"default": {"replicas": ["replica"], **more}}
        settings.POOLKIT = {**settings.POOLKIT, "CLUSTERS": clusters}

    return limit


def states(eye: Monitor) -> dict[str, tuple[str, str | None]]:
    return {name: (it.state, it.reason) for name, it in eye._circuits.items()}


def circuit(eye: Monitor, name: str = ONE) -> Circuit:
    return eye._circuits[name]


def refusal(eye: Monitor) -> str | None:
    return eye._courses["default"].refused


def look(eye: Monitor, times: int = 1) -> dict[str, tuple[str, str | None]]:
    for _ in range(times):
        eye.look()
    return states(eye)


def write(cluster: Cluster, rows: int = 1) -> None:
    """Write a row of some 10 kB, or several."""
    cluster.primary.execute(
        "INSERT INTO app_item (name, created) SELECT 'x', now() FROM generate_series(1, %s)",
        (100 * rows,),
    )


ADMITTED = ("admitted", None)
WELL = {ONE: ADMITTED, OTHER: ADMITTED}


# -- lag


def test_replicas_of_an_idle_primary_are_well_however_long_it_rests(eye, watched, limits):
    # Scenario 7: the seconds that PostgreSQL tells grow, and say nothing.
    limits(max_lag=0.05)
    write(watched)
    for node in watched.replicas:
        watched.primary.wait_caught_up(node)
    wait_until(
        lambda: watched.replicas[0]._value(
            "SELECT clock_timestamp() - pg_last_xact_replay_timestamp() > interval '0.1 s'"
        ),
        message="the clock stands",
    )
    assert look(eye, 4) == WELL
    stats = registry.connection_pools[ONE].stats()
    assert (stats.lag, stats.lag_bytes) == (0.0, 0)


def test_a_replica_that_is_cut_off_is_left_within_two_looks(eye, watched):
    # Scenario 8: it says that it has replayed all that it has received.
    assert look(eye) == WELL
    watched.replicas[0].cut_streaming()
    try:
        assert look(eye) == WELL
        write(watched)
        watched.primary.wait_caught_up(watched.replicas[1])
        assert look(eye, 2) == {ONE: ("evicted", "cut"), OTHER: ADMITTED}
    finally:
        watched.replicas[0].restore_streaming()
    watched.primary.wait_caught_up(watched.replicas[0])
    assert look(eye, breaker.GOOD_LOOKS - 1)[ONE] == ("evicted", "cut")
    assert look(eye)[ONE] == ("trial", "cut")


def test_a_replica_too_many_bytes_behind_is_left_and_let_back_in_by_and_by(eye, watched, limits):
    # Scenario 9.
    limits(max_lag_bytes=50_000)
    watched.replicas[0].pause_replay()
    assert look(eye) == WELL
    write(watched, 10)
    watched.primary.wait_caught_up(watched.replicas[1])
    assert look(eye) == {ONE: ("evicted", "lag"), OTHER: ADMITTED}
    stats = registry.connection_pools[ONE].stats()
    assert stats.lag_bytes is not None
    assert stats.lag_bytes > 50_000
    assert stats.lag is not None
    assert stats.lag > 0
    assert dict(stats.evictions) == {"lag": 1}
    watched.replicas[0].resume_replay()
    watched.primary.wait_caught_up(watched.replicas[0])
    assert look(eye, breaker.GOOD_LOOKS - 1)[ONE] == ("evicted", "lag")
    assert look(eye)[ONE] == ("trial", "lag")
    clock = circuit(eye)._clock
    circuit(eye)._clock = lambda: clock() + breaker.RAMP
    assert look(eye) == WELL
    assert dict(registry.connection_pools[ONE].stats().evictions) == {"lag": 1}


def test_a_replica_that_stays_behind_is_left_by_the_seconds(eye, watched, limits):
    limits(max_lag=0.2)
    watched.replicas[0].pause_replay()
    write(watched)
    watched.primary.wait_caught_up(watched.replicas[1])
    behind_since = time.monotonic()
    assert look(eye) == WELL
    wait_until(lambda: time.monotonic() > behind_since + 0.3, message="the clock stands")
    assert look(eye) == {ONE: ("evicted", "lag"), OTHER: ADMITTED}


# -- servers that do not answer


def test_a_host_that_is_down_is_left_at_the_first_look(eye, watched):
    assert look(eye) == WELL
    watched.replicas[0].stop()
    try:
        assert look(eye) == {ONE: ("evicted", "refuses"), OTHER: ADMITTED}
    finally:
        watched.replicas[0].start()
        watched.replicas[0].wait_streaming()
    assert look(eye, breaker.GOOD_LOOKS)[ONE] == ("trial", "refuses")


def test_a_host_that_is_silent_is_left_at_the_second_look_and_holds_nobody_up(
    eye, watched, monkeypatch
):
    monkeypatch.setattr(module, "BUDGET", 0.3)
    assert look(eye) == WELL
    for node in watched.replicas:
        node.pause()
    try:
        started = time.monotonic()
        assert not eye._alert
        assert look(eye) == WELL
        assert eye._alert  # the next look comes soon
        assert look(eye) == {ONE: ("evicted", "refuses"), OTHER: ("evicted", "refuses")}
        # Side by side: two hosts, two looks, and not four times as long.
        assert time.monotonic() - started < 4 * 0.3
    finally:
        for node in watched.replicas:
            node.resume()


def test_an_ask_that_hangs_for_ever_is_not_waited_for(eye, watched, monkeypatch):
    monkeypatch.setattr(module, "BUDGET", 0.1)
    assert look(eye) == WELL
    free = threading.Event()
    prober = registry.connection_pools[ONE].prober
    monkeypatch.setattr(prober, "row", lambda *a: free.wait(30.0) and [None] * 6)
    assert look(eye)[OTHER] == ADMITTED
    assert look(eye) == {ONE: ("evicted", "refuses"), OTHER: ADMITTED}
    hanging = [each for each in threading.enumerate() if each.name.endswith(ONE)]
    assert len(hanging) == 1  # and no second one is sent after it
    free.set()
    hanging[0].join(5.0)


def test_without_its_primary_a_cluster_goes_on_being_read(eye, watched, caplog):
    assert look(eye) == WELL
    watched.primary.stop("immediate")
    try:
        with caplog.at_level(logging.INFO, "django_poolkit.routing"):
            assert look(eye, 3) == WELL
    finally:
        watched.primary.start()
        for node in watched.replicas:
            node.wait_streaming()
    with caplog.at_level(logging.INFO, "django_poolkit.routing"):
        assert look(eye, 2) == WELL
    assert [record.getMessage() for record in caplog.records] == [
        "event=primary_lost cluster=default reason=refuses",
        "event=primary_found cluster=default",
    ]


def test_a_server_that_cannot_tell_where_it_stands_is_taken_for_well(eye, watched):
    for function in ("pg_control_system()", "pg_control_checkpoint()"):
        watched.primary.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM public")
    watched.primary.execute("CREATE ROLE plain LOGIN PASSWORD 'plain'")
    try:
        for alias in ("default", "replica"):
            connections[alias].close()
            del connections[alias]
            connections.settings[alias].update(USER="plain", PASSWORD="plain")
        for node in watched.replicas:
            watched.primary.wait_caught_up(node)
        assert look(eye, 2) == WELL
        assert refusal(eye) == "untold"
    finally:
        for function in ("pg_control_system()", "pg_control_checkpoint()"):
            watched.primary.execute(f"GRANT EXECUTE ON FUNCTION {function} TO public")
        watched.primary.execute("DROP ROLE plain")


def test_where_positions_mean_nothing_it_only_counts_who_answers(eye, watched, limits, monkeypatch):
    limits(position="time", max_lag_bytes=1)
    monkeypatch.setattr("django_poolkit.pools.postgres.standing.ask", None)
    watched.replicas[0].pause_replay()
    write(watched)
    watched.replicas[1].stop()
    try:
        assert look(eye, 2) == {ONE: ADMITTED, OTHER: ("evicted", "refuses")}
    finally:
        watched.replicas[1].start()
        watched.replicas[1].wait_streaming()


def test_an_ordinary_role_sees_all_of_it(eye, watched):
    watched.primary.execute("CREATE ROLE plain LOGIN PASSWORD 'plain'")
    try:
        for alias in ("default", "replica"):
            connections.settings[alias].update(USER="plain", PASSWORD="plain")
        for node in watched.replicas:
            watched.primary.wait_caught_up(node)
        watched.replicas[0].cut_streaming()
        look(eye)
        write(watched)
        assert look(eye, 2)[ONE] == ("evicted", "cut")
    finally:
        watched.replicas[0].restore_streaming()
        watched.primary.execute("DROP ROLE plain")


# -- roles


@pytest.fixture
def promoted(servers: Cluster) -> Iterator[Node]:
    """A replica of another cluster of servers, that was promoted."""
    with Cluster(replicas=1) as cluster:
        cluster.replicas[0].promote()
        yield cluster.replicas[0]


def test_servers_of_another_cluster_are_never_read(eye, watched, promoted):
    places = connections.settings["replica"]["OPTIONS"]["hosts"]
    places["one"].update(HOST=promoted.host, PORT=promoted.port)
    connections.settings["replica"].update(PASSWORD=promoted.password)
    places["other"].update(PASSWORD=watched.primary.password)
    assert look(eye) == {ONE: ("evicted", "system"), OTHER: ADMITTED}


def test_the_primary_may_stand_in_for_a_replica(eye, watched):
    places = connections.settings["replica"]["OPTIONS"]["hosts"]
    places["one"].update(HOST=watched.primary.host, PORT=watched.primary.port)
    assert look(eye, 2) == WELL


def test_who_does_not_follow_a_promotion_is_left_and_the_old_primary_refused(caplog, routed):
    # The cluster is gone after it, so it is one of its own.
    with Cluster(replicas=2) as cluster:
        connections.settings["default"] = entry(cluster.primary)
        connections.settings["replica"] = hosts(cluster)
        eye = Monitor()
        try:
            assert look(eye) == WELL
            cluster.replicas[0].promote()
            with caplog.at_level(logging.INFO, "django_poolkit.routing"):
                assert look(eye) == WELL  # nobody has newer rows than the one that was promoted
            assert refusal(eye) == "timeline"
            assert caplog.records[-1].levelno == logging.ERROR
            assert caplog.messages[-1] == "event=primary_lost cluster=default reason=timeline"
            # `default` leads to the new one; the other replica has not followed.
            connections.settings["default"] = entry(cluster.replicas[0])
            eye._hosts = type(eye._hosts)()
            assert look(eye, 2) == {ONE: ADMITTED, OTHER: ("evicted", "timeline")}
            assert refusal(eye) is None
        finally:
            registry.pools.close_all()
            admission.publish({})


# -- what is told


def test_each_change_of_a_host_is_told_once(eye, watched, caplog):
    heard = []

    def hear(sender: object, signal: object, **facts: Any) -> None:
        heard.append(facts)

    signals.replica_evicted.connect(hear)
    signals.replica_admitted.connect(hear)
    look(eye)
    watched.replicas[0].cut_streaming()
    try:
        with caplog.at_level(logging.INFO, "django_poolkit.routing"):
            write(watched)
            look(eye, 4)
            watched.replicas[0].restore_streaming()
            watched.primary.wait_caught_up(watched.replicas[0])
            look(eye, breaker.GOOD_LOOKS)
            clock = circuit(eye)._clock
            circuit(eye)._clock = lambda: clock() + breaker.RAMP
            look(eye, 2)
    finally:
        signals.replica_evicted.disconnect(hear)
        signals.replica_admitted.disconnect(hear)
        watched.replicas[0].restore_streaming()
    evicted, trial, admitted = caplog.messages
    assert evicted.startswith(
        f"pool={ONE} event=replica_evicted cluster=default reason=cut seconds="
    )
    assert trial.startswith(f"pool={ONE} event=replica_on_trial cluster=default reason=cut")
    assert admitted.startswith(f"pool={ONE} event=replica_admitted cluster=default reason=cut")
    assert heard == [{"pool": ONE, "reason": "cut"}, {"pool": ONE, "reason": "cut"}]


# -- the thread


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that a test can wait for."""
    monkeypatch.setattr(module, "CALM", (0.01, 0.02))
    monkeypatch.setattr(module, "ALERT", (0.01, 0.02))
    monkeypatch.setattr(module, "LEAST", 0.01)


def test_one_thread_looks_and_ends_when_it_is_told_to(eye, watched, quick):
    before = threading.enumerate()  # that of the process may be among them
    for _ in range(3):
        eye.start()
    begun = [each for each in threading.enumerate() if each not in before]
    [thread] = [each for each in begun if each.name == "poolkit-routing"]
    watched.replicas[0].stop()
    try:
        wait_until(lambda: ONE in admission.troubled, message="nobody looks")
        assert admission.admitted([ONE, OTHER], 0.0) == [OTHER]
    finally:
        watched.replicas[0].start()
        watched.replicas[0].wait_streaming()
    wait_until(lambda: admission.troubled[ONE].state == "trial", message="it is not let in")
    eye.close(5.0)
    assert not thread.is_alive()
    assert not eye.started


def test_what_goes_wrong_in_a_look_does_not_end_the_thread(eye, quick, monkeypatch, caplog):
    looks = []

    def fail() -> None:
        looks.append(1)
        raise RuntimeError("secret")

    monkeypatch.setattr(eye, "look", fail)
    eye.start()
    wait_until(lambda: len(looks) > 3, message="it has ended")
    eye.close(5.0)
    assert caplog.messages == ["event=look_failed error=RuntimeError"]


def test_nothing_begins_any_more_as_the_process_ends(eye, quick):
    Monitor.start(module.monitor)
    thread = module.monitor._thread
    assert thread is not None
    try:
        module._end()
        assert not thread.is_alive()
        Monitor.start(module.monitor)
        assert module.monitor._thread is None
    finally:
        module.monitor.started = False
        module.monitor.forget()


def test_a_forked_child_looks_for_itself(eye, quick):
    Monitor.start(module.monitor)
    try:
        wait_until(lambda: len(module.monitor._circuits) == 2, message="nobody looks")
        reading, writing = os.pipe()
        if (child := os.fork()) == 0:
            try:
                mine = module.monitor
                fine = not mine.started and not mine._circuits
                Monitor.start(mine)
                wait_until(lambda: len(mine._circuits) == 2, 20.0, message="nobody looks")
                os.write(writing, b"well" if fine else b"inherited")
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            assert pipe.read() == b"well"
        os.waitpid(child, 0)
        before = module.monitor._courses["default"]._looks[-1]
        wait_until(
            lambda: module.monitor._courses["default"]._looks[-1] > before,
            message="the parent's has ended",
        )
    finally:
        module.monitor.close(5.0)
        module.monitor.forget()


def test_changed_settings_begin_anew(eye, watched, limits):
    limits(max_lag_bytes=1)
    watched.replicas[0].pause_replay()
    write(watched)
    assert look(eye)[ONE] == ("evicted", "lag")
    eye.forget()
    assert admission.troubled == {}
    limits(watch=False)
    assert look(eye) == {}
    limits(max_lag_bytes=1)
    assert look(eye)[ONE] == ("evicted", "lag")


def test_what_was_found_under_other_settings_does_not_count(eye, watched, limits, monkeypatch):
    limits(max_lag_bytes=1)
    watched.replicas[0].pause_replay()
    write(watched)
    ask = eye._asker.ask

    def ask_and_forget(*arguments: Any) -> Any:
        found = ask(*arguments)
        eye.forget()
        return found

    monkeypatch.setattr(eye._asker, "ask", ask_and_forget)
    assert look(eye) == {}
    assert admission.troubled == {}


@pytest.mark.parametrize("cause", ["saturated", "closed"])
def test_a_look_that_finds_out_nothing_changes_nothing(eye, watched, monkeypatch, caplog, cause):
    watched.replicas[0].stop()
    try:
        assert look(eye) == {ONE: ("evicted", "refuses"), OTHER: ADMITTED}
    finally:
        watched.replicas[0].start()
        watched.replicas[0].wait_streaming()
    caplog.clear()

    def fail(*arguments: object) -> None:
        raise ProbeFailed(cause, "no connection is left")

    with monkeypatch.context() as patch:
        patch.setattr("django_poolkit.pools.postgres.prober.Prober.row", fail)
        assert look(eye, 5) == {ONE: ("evicted", "refuses"), OTHER: ADMITTED}
    assert caplog.messages == []


# -- whose pools


def test_a_pool_that_was_closed_is_left_closed_for_a_while(eye, watched, monkeypatch):
    assert look(eye) == WELL
    registry.pools.close_all()
    assert look(eye, 2) == WELL
    assert len(registry.pools) == 0
    assert not [s for node in watched.nodes for s in node.sessions()]
    # Somebody uses one of them again.
    with registry.connection_pools[ONE].lease():
        pass
    assert set(eye._hosts.pools(["default", "replica"])) == {ONE, OTHER}
    monkeypatch.setattr("django_poolkit.routing.hosts.RESPITE", 0.0)
    assert set(eye._hosts.pools(["default", "replica"])) == {"default", ONE, OTHER}


def test_who_cannot_be_looked_at_is_taken_for_well(eye, watched, settings):
    connections.settings["replica"]["OPTIONS"] = {"pool": False}
    host = connections.settings["replica"]
    host.update(watched.replicas[0].django_settings())
    assert look(eye) == {}
    assert admission.admitted(["replica"], 0.99) == ["replica"]


# -- seen from outside


def known(eye: Monitor) -> dict[str, Seen]:
    return {each.name: each for each in eye.seen()}


def test_what_is_known_of_each_server_can_be_asked_for(eye, watched, limits):
    assert eye.seen() == []
    look(eye)
    found = known(eye)
    assert list(found) == ["default", ONE, OTHER]
    assert {(it.cluster, it.alias, it.role, it.state) for it in found.values()} == {
        ("default", "default", "primary", "found"), ("default", "replica", "replica", "admitted"),
    }  # fmt: skip
    assert (found[ONE].lag, found[ONE].lag_bytes, found[ONE].share) == (0.0, 0, 1.0)
    limits(max_lag_bytes=50_000)
    watched.replicas[0].pause_replay()
    look(eye)
    write(watched, 10)
    watched.primary.wait_caught_up(watched.replicas[1])
    look(eye)
    late = known(eye)[ONE]
    assert (late.state, late.reason, late.share) == ("evicted", "lag", 0.0)
    assert late.lag_bytes is not None
    assert late.lag_bytes > 50_000
    assert late.age is not None
    assert 0.0 <= late.age < 60.0
    # Settings that change are a new beginning.
    eye.forget()
    assert eye.seen() == []


def test_a_primary_that_is_gone_is_known_to_be(eye, watched):
    look(eye)
    watched.primary.stop()
    try:
        look(eye)
        found = known(eye)
        assert (found["default"].state, found["default"].reason) == ("lost", "refuses")
        # By how much replicas are behind is not known by now.
        assert (found[ONE].state, found[ONE].lag, found[ONE].lag_bytes) == ("admitted", None, None)
    finally:
        watched.primary.start()
        for node in watched.replicas:
            node.wait_streaming()


def test_poolcheck_warns_of_what_would_not_be_read(eye, watched, limits, capsys):
    def check() -> tuple[int, dict[str, Any]]:
        code = 0
        try:
            call_command("poolcheck", database=["replica"], format="json")
        except SystemExit as end:
            code = int(str(end.code))
        found: dict[str, Any] = json.loads(capsys.readouterr().out)["checks"]["db:replica"]
        return code, found

    try:
        assert check()[0] == 0
        limits(max_lag_bytes=50_000)
        watched.replicas[0].pause_replay()
        write(watched, 10)
        watched.primary.wait_caught_up(watched.replicas[1])
        code, found = check()
        assert (code, found["status"], found["reason"]) == (1, "warn", "lagging")
    finally:
        module.monitor.forget()


def test_where_there_is_no_thread_it_is_told_and_tried_once_in_a_while(eye, monkeypatch, caplog):
    now, tries, start_it = 1000.0, 0, threading.Thread.start

    def start(thread: threading.Thread) -> None:
        nonlocal tries
        if thread.name != "poolkit-routing":
            return start_it(thread)
        tries += 1
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(module, "monotonic", lambda: now)
        patch.setattr(threading.Thread, "start", start)
        eye.start()
        now += module.CALM[1] - 0.1
        eye.start()
        assert (tries, caplog.text.count("event=no_thread")) == (1, 1)
        now += 0.2
        eye.start()
        assert (tries, caplog.text.count("event=no_thread")) == (2, 2)
    assert not eye.started
    eye.after_fork()  # a child may have one at once
    eye.start()
    assert eye.looked.wait(10.0)
