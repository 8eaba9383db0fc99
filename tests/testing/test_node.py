"""What a test can do to one node."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg import errors

from django_poolkit.testing import Cluster, processes
from django_poolkit.testing.errors import ClusterError, ClusterTimeout
from django_poolkit.testing.postmaster import find_servers
from django_poolkit.testing.waiting import wait_until
from tests.testing.conftest import servers_of


@pytest.fixture
def table(pair):
    """An empty table that the replica has, too."""
    pair.primary.execute("CREATE TABLE notes (number int)")
    pair.primary.wait_caught_up(pair.replicas[0])
    yield "notes"
    pair.primary.execute("DROP TABLE notes")


def numbers(node):
    return [row[0] for row in node.execute("SELECT number FROM notes ORDER BY 1")]


# Addresses


def test_conninfo_and_django_settings_name_the_same_place(pair):
    with psycopg.connect(**pair.primary.conninfo("template1")) as connection:
        assert connection.info.dbname == "template1"
    settings = pair.primary.django_settings("shop")
    assert settings["NAME"] == "shop"
    assert settings["PORT"] == str(pair.primary.port)
    assert pair.primary.django_settings()["NAME"] == pair.primary.dbname


def test_databases_come_and_go_with_their_connections(pair):
    pair.primary.create_database('a "b"')
    with pair.primary.connect(dbname='a "b"') as connection:
        pair.primary.drop_database('a "b"')
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    pair.primary.drop_database('a "b"')


# Sessions


def test_sessions_are_the_clients_without_our_own(pair):
    with (
        pair.primary.connect(application_name="one") as one,
        pair.primary.connect(application_name="two", dbname="template1") as two,
    ):
        found = {session.pid: session for session in pair.primary.sessions()}
        assert found.keys() == {one.info.backend_pid, two.info.backend_pid}
        assert found[one.info.backend_pid].application_name == "one"
        assert [row.pid for row in pair.primary.sessions("two")] == [two.info.backend_pid]
        assert [row.pid for row in pair.primary.sessions(dbname="template1")] == [
            two.info.backend_pid
        ]


def test_a_killed_backend_is_gone(pair):
    with pair.primary.connect() as connection:
        assert pair.primary.kill_backend(connection.info.backend_pid)
        assert not pair.primary.kill_backend(connection.info.backend_pid)
        with pytest.raises(errors.AdminShutdown):
            connection.execute("SELECT 1")


def test_backends_are_killed_by_name(pair):
    victims = [pair.primary.connect(application_name="victim") for _ in range(3)]
    with pair.primary.connect(application_name="other") as other:
        assert pair.primary.kill_backends("victim") == 3
        assert other.execute("SELECT 1").fetchone() == (1,)
        assert pair.primary.kill_backends() == 1
    for victim in victims:
        victim.close()


# Stop and go


def test_a_paused_server_answers_when_it_is_resumed(pair):
    with pair.primary.connect() as connection, ThreadPoolExecutor(1) as thread:
        pair.primary.pause()
        try:
            answer = thread.submit(connection.execute, "SELECT 1")
            with pytest.raises(TimeoutError):
                answer.result(timeout=0.2)
        finally:
            pair.primary.resume()
        assert answer.result(timeout=10).fetchone() == (1,)


def test_all_processes_of_a_paused_server_stand_still(pair):
    others = set(servers_of(pair.directory))
    pair.replicas[0].pause()
    try:
        stopped = {pid for pid in others if processes.state(pid) == "T"}
        # A postmaster and at least its checkpointer, writer, start-up and receiver.
        assert len(stopped) >= 5
        assert pair.primary.execute("SELECT 1") == [(1,)]
    finally:
        pair.replicas[0].resume()


@pytest.mark.parametrize("mode", ["smart", "fast", "immediate"])
def test_a_paused_server_can_be_stopped(mode):
    with Cluster() as cluster:
        cluster.primary.pause()
        cluster.primary.stop(mode)
        assert not cluster.primary.running
        with pytest.raises(ClusterError, match="does not run"):
            cluster.primary.pause()
        cluster.primary.stop(mode)
        cluster.primary.start()
        assert cluster.primary.execute("SELECT 1") == [(1,)]
        with pytest.raises(ClusterError, match="runs already"):
            cluster.primary.start()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_cuts_sessions_and_keeps_what_was_committed(pair, table, mode):
    connection = pair.primary.connect()
    pair.primary.execute("INSERT INTO notes VALUES (1)")
    pair.primary.restart(mode)
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    connection.close()
    assert numbers(pair.primary) == [1]
    pair.replicas[0].wait_streaming()


def test_a_smart_stop_waits_for_clients_no_longer_than_asked():
    with Cluster() as cluster:
        connection = cluster.primary.connect()
        with pytest.raises(ClusterTimeout, match="received smart shutdown request"):
            cluster.primary.stop("smart", timeout=0.3)
        connection.close()
        wait_until(lambda: not cluster.primary.running)


def test_a_server_whose_process_was_killed_starts_again():
    with Cluster() as cluster:
        os.kill(cluster.primary.pid, signal.SIGKILL)
        wait_until(lambda: not cluster.primary.running)
        with pytest.raises(ClusterError, match="does not run"):
            cluster.primary.pid  # noqa: B018
        cluster.primary.start()
        assert cluster.primary.execute("SELECT 1") == [(1,)]


def test_a_start_waits_for_the_children_of_a_killed_server():
    with Cluster() as cluster:
        child = next(pid for pid in servers_of(cluster.directory) if pid != cluster.primary.pid)
        os.kill(child, signal.SIGSTOP)
        os.kill(cluster.primary.pid, signal.SIGKILL)
        wait_until(lambda: not cluster.primary.running)
        with pytest.raises(ClusterTimeout, match="children of an earlier server"):
            cluster.primary.start(timeout=0.1)
        os.kill(child, signal.SIGCONT)
        cluster.primary.start()
        assert cluster.primary.execute("SELECT 1") == [(1,)]


def test_a_forked_child_cannot_stop_a_node(pair):
    child = os.fork()
    if not child:
        try:
            pair.primary.stop()
        except ClusterError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert pair.primary.running


def test_servers_are_found_by_their_whole_name_or_by_their_run(monkeypatch):
    lines = {
        1: ["/bin/postgres", "-D", "/d", "-c", "cluster_name=poolkit-ab-replica1"],
        2: ["postgres: poolkit-ab-replica1: checkpointer "],
        3: ["/bin/postgres", "-c", "cluster_name=poolkit-ab-replica10"],
        4: ["postgres: poolkit-ab-replica10: walwriter "],
        5: ["grep", "cluster_name=poolkit-ab-replica1"],
        6: ["postgres: poolkit-abc-replica1: walwriter "],
    }
    monkeypatch.setattr(processes, "command_lines", lambda: lines)
    assert find_servers("poolkit-ab-replica1") == [1, 2]
    assert find_servers("poolkit-ab") == [1, 2, 3, 4]


def test_an_unknown_stop_mode_is_refused(pair):
    with pytest.raises(ValueError, match="'rude'"):
        pair.primary.stop("rude")
    assert pair.primary.running


def test_a_data_directory_that_does_not_start_says_why():
    with Cluster() as cluster:
        cluster.primary.stop()
        (cluster.directory / "primary" / "global" / "pg_control").rename(
            cluster.directory / "primary" / "lost"
        )
        with pytest.raises(ClusterError, match="could not find the database system"):
            cluster.primary.start()


# Settings


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("work_mem", "7MB", "7MB"),
        ("log_lock_waits", True, "on"),
        ("deadlock_timeout", 1234, "1234ms"),
        ("search_path", "one, two", "one, two"),
    ],
)
def test_a_setting_is_seen_by_the_next_session(pair, name, value, shown):
    [(before,)] = pair.primary.execute(f"SHOW {name}")
    pair.primary.set(name, value)
    try:
        assert pair.primary.execute(f"SHOW {name}") == [(shown,)]
    finally:
        pair.primary.reset(name)
    assert pair.primary.execute(f"SHOW {name}") == [(before,)]


def test_a_setting_that_needs_a_restart_says_so_and_gets_one(pair):
    with pytest.raises(ValueError, match="restart=True"):
        pair.primary.set("max_prepared_transactions", 3)
    with pytest.raises(ValueError, match="restart=True"):
        pair.primary.reset("max_prepared_transactions")
    pair.primary.set("superuser_reserved_connections", 5, restart=True)
    try:
        assert pair.primary.execute("SHOW superuser_reserved_connections") == [("5",)]
    finally:
        pair.primary.reset("superuser_reserved_connections", restart=True)
    assert pair.primary.execute("SHOW superuser_reserved_connections") == [("3",)]
    pair.replicas[0].wait_streaming()


# Replication


def test_a_replica_shows_what_the_primary_committed_and_takes_no_writes(pair, table):
    [replica] = pair.replicas
    pair.primary.execute("INSERT INTO notes VALUES (1), (2)")
    pair.primary.wait_caught_up(replica)
    assert numbers(replica) == [1, 2]
    with pytest.raises(errors.ReadOnlySqlTransaction):
        replica.execute("INSERT INTO notes VALUES (3)")


def test_a_replica_with_paused_replay_falls_behind_until_it_is_resumed(pair, table):
    [replica] = pair.replicas
    replica.pause_replay()
    try:
        pair.primary.execute("INSERT INTO notes VALUES (1)")
        with pytest.raises(ClusterTimeout, match=r"replica1: it has not reached(?s:.*)its log"):
            pair.primary.wait_caught_up(replica, timeout=0.2)
        assert numbers(replica) == []
    finally:
        replica.resume_replay()
    pair.primary.wait_caught_up(replica)
    assert numbers(replica) == [1]


def test_a_replica_that_was_cut_off_gets_the_rest_later(pair, table):
    [replica] = pair.replicas
    replica.cut_streaming()
    try:
        assert not replica.streaming
        assert pair.primary.execute("SELECT FROM pg_stat_replication") == []
        pair.primary.execute("INSERT INTO notes VALUES (1)")
        # A new WAL file each time: the replica finds more than the newest one.
        for _ in range(5):
            pair.primary.execute("SELECT pg_switch_wal()")
            pair.primary.execute("INSERT INTO notes VALUES (2)")
    finally:
        replica.restore_streaming()
    pair.primary.wait_caught_up(replica)
    assert numbers(replica) == [1, 2, 2, 2, 2, 2]


def test_each_replica_streams_under_its_own_name():
    with Cluster(replicas=2) as cluster:
        rows = cluster.primary.execute(
            "SELECT application_name FROM pg_stat_replication ORDER BY 1"
        )
        assert rows == [("replica1",), ("replica2",)]


def test_a_promoted_replica_takes_writes_and_is_no_replica_any_more():
    with Cluster(replicas=1) as cluster:
        [replica] = cluster.replicas
        replica.pause_replay()
        replica.promote()
        assert not replica.in_recovery
        replica.execute("CREATE TABLE own ()")
        for verb in (replica.promote, replica.pause_replay, replica.cut_streaming):
            with pytest.raises(ClusterError, match="replica1 is no replica"):
                verb()
        assert not cluster.primary.in_recovery


def test_wait_ready_waits_for_a_server_that_comes_back(pair):
    pair.primary.pause()
    with pytest.raises(ClusterTimeout, match="primary: it does not answer"):
        pair.primary.wait_ready(timeout=0.1)
    pair.primary.resume()
    pair.primary.wait_ready()
