"""The directory of the sockets: whose it is, and what of it is dead."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time

import pytest

from django_poolkit.control import directory
from django_poolkit.control.directory import DirectoryRefused


def listen(place, cls=socket.socket):
    """Publish a socket that lives until it is closed."""
    directory.prepare(place)
    listener = cls(socket.AF_UNIX)
    return listener, directory.publish(place, listener)


def names(place):
    return sorted(path.name for path in place.iterdir())


# -- whose it is


def test_it_is_made_for_us_alone_and_taken_up_again(place):
    old = os.umask(0)
    try:
        directory.prepare(place)
        directory.prepare(place)
    finally:
        os.umask(old)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700


def test_it_is_not_made_with_its_parents(place):
    with pytest.raises(FileNotFoundError):
        directory.prepare(place / "deeper")


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_one_that_others_may_enter_is_refused(place, mode):
    place.mkdir()
    place.chmod(mode)
    for look in (directory.prepare, directory.sweep, lambda p: directory.places(p, None)):
        with pytest.raises(DirectoryRefused, match=rf"open to other users \(mode {mode:o}"):
            look(place)


def test_anothers_is_refused(place, monkeypatch):
    place.mkdir(mode=0o700)
    owner = place.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    for look in (directory.prepare, directory.sweep):
        with pytest.raises(DirectoryRefused, match=f"belongs to user {owner}, not to {owner + 1}"):
            look(place)


def test_a_symbolic_link_is_refused(place, tmp_path):
    tmp_path.chmod(0o700)
    place.symlink_to(tmp_path)
    with pytest.raises(DirectoryRefused, match="no directory"):
        directory.prepare(place)
    with pytest.raises(DirectoryRefused):
        directory.sweep(place)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_refused(place):
    place.write_text("")
    with pytest.raises(DirectoryRefused, match="no directory"):
        directory.prepare(place)


# -- sockets


def test_a_socket_is_ours_alone_and_found_by_its_process(place):
    old = os.umask(0)
    try:
        listener, path = listen(place)
    finally:
        os.umask(old)
    with listener:
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
        [found] = directory.places(place, os.geteuid())
        assert (found.path, found.pid, found.uid) == (path, os.getpid(), os.geteuid())


def test_it_has_its_name_only_when_somebody_listens(place):
    seen = []

    class Slow(socket.socket):
        def listen(self, backlog=0):
            seen.append(directory.places(place, None))
            directory.sweep(place)  # which another process may do right now
            seen.append(names(place))
            super().listen(backlog)

    listener, path = listen(place, Slow)
    with listener:
        assert seen[0] == []
        assert len(seen[1]) == 1
        assert names(place) == [path.name]


def test_what_cannot_be_published_leaves_nothing(place):
    class Broken(socket.socket):
        def listen(self, backlog=0):
            raise OSError("no")

    with Broken(socket.AF_UNIX) as listener, pytest.raises(OSError, match="no"):
        directory.prepare(place)
        directory.publish(place, listener)
    assert names(place) == []


def test_the_dead_are_swept_and_all_else_stays(place):
    living, path = listen(place)
    dead, _ = listen(place)
    dead.close()
    (place / "orders-0.json").write_text("{}")
    (place / "1-00000000.sock").write_text("no socket")
    (place / "2-00000000.sock").symlink_to(path)
    with living:
        kept = sorted([path.name, "orders-0.json", "1-00000000.sock", "2-00000000.sock"])
        assert len(names(place)) == 5
        directory.sweep(place)
        assert names(place) == kept
        assert [found.path for found in directory.places(place, None)] == [path]


def test_one_whose_queue_is_full_is_not_dead(place):
    directory.prepare(place)
    with socket.socket(socket.AF_UNIX) as listener:
        path = directory.publish(place, listener)
        listener.listen(0)
        callers = []
        while True:  # until the next one would have to wait
            caller = socket.socket(socket.AF_UNIX)
            caller.setblocking(False)
            callers.append(caller)
            try:
                caller.connect(str(path))
            except BlockingIOError:
                break
        directory.sweep(place)
        assert names(place) == [path.name]
        for caller in callers:
            caller.close()


def test_what_was_never_born_is_swept_in_the_end(place):
    directory.prepare(place)
    unborn = [place / "7-00000000.new", place / "8-00000000.new"]
    for path in unborn:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
    os.utime(unborn[0], (time.time(), time.time() - 61))
    directory.sweep(place)
    assert names(place) == [unborn[1].name]


def test_a_killed_process_is_dead(place):
    script = f"""
import socket, sys, time
from pathlib import Path
from django_poolkit.control import directory
listener = socket.socket(socket.AF_UNIX)
print(directory.publish(Path({str(place)!r}), listener), flush=True)
time.sleep(60)
"""
    directory.prepare(place)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        directory.sweep(place)
        [found] = directory.places(place, None)
        assert found.pid == process.pid
        process.send_signal(signal.SIGKILL)
        process.wait()
    directory.sweep(place)
    assert names(place) == []


def test_nothing_is_buried_through_a_directory_that_is_not_right(place):
    dead, path = listen(place)
    dead.close()
    [found] = directory.places(place, None)
    place.chmod(0o755)
    directory.bury(found)
    assert names(place) == [path.name]
    place.chmod(0o700)
    directory.bury(found)
    directory.bury(found)
    assert names(place) == []
