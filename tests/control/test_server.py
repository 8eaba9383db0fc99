"""The server of a process, against clients that are right, slow, broken or not welcome."""

from __future__ import annotations

import asyncio
import logging
import os
import selectors
import shutil
import socket
import stat
import struct
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from django_poolkit.conf.control import ControlConfig
from django_poolkit.control import conversation, directory, protocol, server, visits
from django_poolkit.control.answers import HANDLERS, STEERING
from django_poolkit.control.protocol import BadArguments, Peer
from django_poolkit.testing.waiting import wait_until

# Its sockets when nobody calls: the one it listens on, and both ends of the bell.
QUIET = 3


def request(command="echo", **arguments):
    return protocol.request(command, arguments)


def raw(payload):
    return struct.pack(">I", len(payload)) + payload


def answers(one, dial):
    """Tell whether a server still answers as it should."""
    return dial(one).send(request(a=1)).reply()["result"] == {"echo": {"a": 1}}


def threads():
    """The server threads of this process, which may have had one of its own before the test."""
    return {t for t in threading.enumerate() if t.name == "poolkit-control"}


def descriptors():
    return sorted(Path("/proc/self/fd").iterdir())


# -- as it should be


def test_a_command_is_answered_and_the_line_closed(serve, dial):
    line = dial(serve()).send(request(seconds=1.5))
    assert line.reply() == {"version": 1, "ok": True, "result": {"echo": {"seconds": 1.5}}}
    assert line.hung_up()


def test_a_request_may_come_in_pieces(serve, dial):
    line = dial(serve())
    for byte in request():
        line.send(bytes([byte]))
    assert line.reply()["ok"]


def test_many_ask_at_once(serve, dial):
    one = serve()
    lines = [dial(one) for _ in range(60)]
    for line in lines:
        line.send(request(big="x" * 60_000))
    for line in lines:
        assert len(line.reply()["result"]["echo"]["big"]) == 60_000


def test_the_socket_is_ours_alone(serve):
    one = serve()
    assert stat.S_IMODE(one.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(one.path.parent.stat().st_mode) == 0o700
    assert one.path.name.startswith(f"{os.getpid()}-")


def test_no_kernel_object_is_shared_with_a_child(serve):
    """An epoll would be."""
    assert isinstance(serve()._visits._selector, selectors.PollSelector)


def test_it_begins_with_what_the_dead_have_left(serve, place):
    directory.prepare(place)
    with socket.socket(socket.AF_UNIX) as dead:
        directory.publish(place, dead)
    one = serve()
    assert [found.path for found in directory.places(place, None)] == [one.path]


def test_its_thread_is_in_no_event_loop(serve, dial):
    """Where gevent makes threads of greenlets, Django would refuse to work in all others, too."""
    one = serve({"loop": lambda arguments: {"running": asyncio._get_running_loop() is not None}})
    assert dial(one).send(request("loop")).reply()["result"] == {"running": False}


def test_when_it_ends_nothing_is_left(serve, dial, place):
    before, others = descriptors(), threads()
    one = serve()
    lines = [dial(one).send(request()), dial(one).send(b"\0")]
    assert lines[0].reply()["ok"]
    one.stop()
    assert lines[1].hung_up()
    assert list(place.iterdir()) == []
    assert threads() == others
    one.stop()
    for line in lines:
        line.socket.close()
    assert descriptors() == before


def test_a_thousand_questions_leave_nothing(serve, dial):
    one = serve()
    assert answers(one, dial)

    def ask():
        line = dial(one)
        assert line.send(request()).reply()["ok"]
        assert line.hung_up()
        line.socket.close()

    def quiet():
        return not one._visits._visits and len(one._sockets) == QUIET

    ask()
    wait_until(quiet)
    before = descriptors(), threading.active_count()
    for _ in range(1000):
        ask()
    wait_until(quiet)
    # What an earlier test has left may end meanwhile.
    assert descriptors() <= before[0]
    assert threading.active_count() <= before[1]


# -- what is no request


FRAMES = {
    "garbage": (b"GET / HTTP/1.1\r\n\r\n", "too_large"),
    "a gigabyte announced": (struct.pack(">I", 2**30), "too_large"),
    "one byte too many": (struct.pack(">I", 65_537), "too_large"),
    "nothing": (raw(b""), "bad_frame"),
    "no json": (raw(b"resume"), "bad_frame"),
    "no text": (raw(b"\xff\xfe"), "bad_frame"),
    "a list": (raw(b"[1]"), "bad_frame"),
    "deep": (raw(b"[" * 65_000), "bad_frame"),
    "no version": (raw(b'{"command": "steer"}'), "bad_version"),
    "another version": (raw(b'{"version": 9, "command": "steer"}'), "bad_version"),
    "no command": (raw(b'{"version": 1}'), "bad_frame"),
    "an unknown command": (request("x" * 1000), "unknown_command"),
    "half a header": (b"\0\0", "bad_frame"),
    "half a frame": (request("steer")[:-3], "bad_frame"),
}


@pytest.mark.parametrize(("data", "code"), FRAMES.values(), ids=FRAMES.keys())
def test_what_is_no_request_gets_an_error_and_nothing_else_happens(serve, dial, data, code):
    called: list[Any] = []
    one = serve({"steer": called.append}, steers={"steer"})
    line = dial(one).send(data)
    if code == "bad_frame":
        line.end()
    assert line.code() == code
    assert line.hung_up()
    assert answers(one, dial)
    assert called == []
    assert one._thread.is_alive()


def test_who_hangs_up_is_no_matter(serve, dial):
    one = serve()
    for data in (b"", b"\0\0", request()[:-1], request(), struct.pack(">I", 2**30)):
        dial(one).send(data).socket.close()
    assert answers(one, dial)
    wait_until(lambda: len(one._sockets) == QUIET)


def test_what_is_sent_beside_a_request_is_not_read(serve, dial):
    one = serve()
    line = dial(one).send(request() + request("unknown"))
    assert line.reply()["ok"]
    assert line.hung_up()


# -- slow ones


def test_who_does_not_finish_a_request_is_told_so(serve, dial, monkeypatch):
    monkeypatch.setattr(conversation, "REQUEST_TIME", 0.2)
    one = serve()
    silent, half = dial(one), dial(one).send(request()[:-1])
    assert answers(one, dial)
    assert silent.code() == half.code() == "bad_frame"
    assert silent.hung_up()


def test_time_is_not_won_by_sending_slowly(serve, dial, monkeypatch):
    monkeypatch.setattr(conversation, "REQUEST_TIME", 0.3)
    one = serve()
    line = dial(one)
    started = time.monotonic()
    with pytest.raises(OSError):
        for byte in request(long="x" * 10_000):
            line.send(bytes([byte]))
            time.sleep(0.01)
    assert time.monotonic() - started < 5.0
    assert answers(one, dial)


def test_who_takes_no_reply_is_left(serve, dial, monkeypatch):
    monkeypatch.setattr(conversation, "REPLY_TIME", 0.2)
    one = serve({"much": lambda arguments: {"text": "x" * 10_000_000}})
    dial(one).send(request("much"))
    wait_until(lambda: len(one._sockets) == QUIET + 1)
    assert answers(one, dial)
    wait_until(lambda: len(one._sockets) == QUIET and not one._visits._visits)


def test_only_so_many_are_served_at_once(serve, dial, monkeypatch):
    monkeypatch.setattr(visits, "MOST_CLIENTS", 3)
    monkeypatch.setattr(server, "TICK", 0.02)
    ticks: list[int] = []
    one = serve(ticks=[lambda: ticks.append(1)])
    for _ in range(3):
        dial(one)
    wait_until(lambda: len(one._visits._visits) == 3)
    last = dial(one).send(request())
    seen = len(ticks)
    wait_until(lambda: len(ticks) > seen + 3)
    assert len(one._visits._visits) == 3
    last.socket.settimeout(0.1)
    with pytest.raises(TimeoutError):
        last.reply()


def test_who_waits_at_the_door_is_taken_in_when_another_leaves(serve, dial, monkeypatch):
    monkeypatch.setattr(visits, "MOST_CLIENTS", 3)
    monkeypatch.setattr(server, "TICK", 60.0)
    monkeypatch.setattr(conversation, "REQUEST_TIME", 60.0)
    one = serve()
    silent = [dial(one) for _ in range(3)]
    wait_until(lambda: len(one._visits._visits) == 3)
    last = dial(one).send(request())
    silent[1].socket.close()
    assert last.reply()["ok"]


def test_thirty_two_are_the_most(serve, dial):
    one = serve()
    lines = [dial(one) for _ in range(40)]
    wait_until(lambda: len(one._visits._visits) == 32)
    for line in lines:
        line.send(request())
    assert all(line.reply()["ok"] for line in lines)


# -- handlers


SECRET = "password is s3cr%t@x"


def test_what_a_command_raises_is_told_by_its_class_alone(serve, dial, caplog):
    def fail(arguments):
        raise LookupError(SECRET)

    one = serve({"fail": fail})
    reply = dial(one).send(request("fail")).reply()
    assert (reply["error"], reply["message"]) == ("failed", "LookupError")
    assert "event=command_failed what=fail error=LookupError" in caplog.text
    assert "in fail" in caplog.text  # where
    assert "s3cr" not in caplog.text
    assert answers(one, dial)


@pytest.mark.parametrize("result", [{"a": object()}, {"a": float("nan")}, None])
def test_a_result_that_is_none_is_a_failure(serve, dial, caplog, result):
    one = serve({"odd": lambda arguments: result})
    assert dial(one).send(request("odd")).code() == "failed"
    assert answers(one, dial)


def test_a_result_that_is_too_long_is_a_failure(serve, dial):
    one = serve({"much": lambda arguments: {"text": "x" * 17_000_000}})
    assert dial(one).send(request("much")).code() == "too_large"
    assert answers(one, dial)


def test_a_command_says_what_is_wrong_with_its_arguments(serve, dial):
    def picky(arguments):
        raise BadArguments("seconds must be above 0")

    reply = dial(serve({"picky": picky})).send(request("picky")).reply()
    assert (reply["error"], reply["message"]) == ("bad_arguments", "seconds must be above 0")


# -- who may


@pytest.fixture
def peer(monkeypatch):
    """Return a function that makes every caller look like another user's process."""

    def look_like(uid):
        monkeypatch.setattr(protocol, "peer_of", lambda client: Peer(uid, 7))

    return look_like


def test_a_stranger_is_hung_up_on(serve, dial, peer, caplog):
    called: list[Any] = []
    one = serve({"note": called.append})
    peer(os.geteuid() + 4711)
    line = dial(one)
    with suppress(BrokenPipeError):
        line.send(request("note"))
    assert line.hung_up()
    assert called == []
    wait_until(lambda: f"event=stranger uid={os.geteuid() + 4711} pid=7" in caplog.text)


def test_root_may_look_at_anybodys(serve, dial, peer, monkeypatch):
    one = serve()
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    peer(0)
    assert answers(one, dial)


def commands(called):
    """The real ones by name, which only note that they were called."""

    def note(name, arguments):
        called.append(name)
        return {"name": name}

    return {name: partial(note, name) for name in HANDLERS}


def test_to_look_is_no_steering():
    assert set(HANDLERS) - {"status"} == STEERING
    assert {"pause", "resume", "recycle", "resize", "drain", "undrain", "kill_lease"} == STEERING


@pytest.mark.parametrize("command", sorted(STEERING))
@pytest.mark.parametrize(
    ("right", "uid", "allowed"),
    [(False, 0, False), (False, 4711, False), (True, 4711, True), (True, 0, True),
     ("root", 0, True), ("root", 4711, False)],
)  # fmt: skip
def test_each_command_is_refused_to_who_may_not_steer(
    place, dial, monkeypatch, peer, caplog, command, right, uid, allowed
):
    called: list[Any] = []
    config = ControlConfig(directory=place, steering=right, service="tests")
    talk = conversation.Conversation(config, commands(called), STEERING)
    one = server.ControlServer(config, talk, ())
    one.start()
    try:
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
        peer(uid)
        with caplog.at_level(logging.INFO, "django_poolkit.control"):
            reply = dial(one).send(request(command, a=1)).reply()
            # To look is allowed all the same.
            assert dial(one).send(request("status")).reply()["ok"]
    finally:
        monkeypatch.undo()
        one.stop()
    assert reply["ok"] is allowed
    assert called == [command, "status"] if allowed else called == ["status"]
    if not allowed:
        assert reply["error"] == "refused"
        assert "STEERING" in reply["message"]
    [record] = caplog.records
    assert record.levelno == (logging.INFO if allowed else logging.WARNING)
    result = "done" if allowed else "refused"
    assert record.getMessage() == (
        f'event=steer command={command} uid={uid} pid=7 arguments={{"a": 1}} result={result}'
    )


def test_what_came_of_a_command_is_logged_too(serve, dial, caplog):
    def fail(arguments):
        raise LookupError(SECRET)

    def picky(arguments):
        raise BadArguments("no")

    one = serve({"fail": fail, "picky": picky}, steers={"fail", "picky"})
    with caplog.at_level(logging.INFO, "django_poolkit.control"):
        dial(one).send(request("fail")).reply()
        dial(one).send(request("picky")).reply()
    lines = [text for text in caplog.messages if "event=steer" in text]
    assert [text.rpartition("=")[2] for text in lines] == ["failed", "bad_arguments"]


def test_a_log_line_stays_one_line_and_short(serve, dial, caplog):
    one = serve({"steer": lambda arguments: {}}, steers={"steer"})
    with caplog.at_level(logging.INFO, "django_poolkit.control"):
        text = "\n2026 event=steer command=pause result=done \udcff \x1b[2J"
        dial(one).send(request("steer", text=text, more="x" * 60_000)).reply()
    [message] = caplog.messages
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 400


# -- a long life


def test_it_is_found_anew_when_its_socket_was_removed(serve, dial, place, monkeypatch):
    monkeypatch.setattr(server, "TICK", 0.02)
    one = serve()

    def moved(old):
        return one.path != old and one.path.exists()

    for remove in (os.unlink, lambda path: shutil.rmtree(path.parent)):
        before = one.path
        remove(before)
        wait_until(partial(moved, before))
        assert answers(one, dial)
    assert len(directory.places(place, None)) == 1
    wait_until(lambda: len(one._sockets) == QUIET)
    one.stop()
    assert list(place.iterdir()) == []


def test_it_waits_for_a_directory_that_is_right_again(serve, dial, place, monkeypatch):
    monkeypatch.setattr(server, "TICK", 0.02)
    ticks = []
    one = serve(ticks=[lambda: ticks.append(1)])
    shutil.rmtree(place)
    place.write_text("in the way")
    seen = len(ticks)
    wait_until(lambda: len(ticks) > seen + 2)
    place.unlink()
    wait_until(lambda: one.path.exists())
    assert answers(one, dial)


def test_who_cleans_up_by_age_finds_it_young(serve, monkeypatch):
    monkeypatch.setattr(server, "TICK", 0.02)
    one = serve()
    os.utime(one.path, (0, 0))
    wait_until(lambda: time.time() - one.path.stat().st_mtime < 60)


def test_what_is_to_be_done_now_and_then_is(serve, dial, monkeypatch, caplog):
    monkeypatch.setattr(server, "TICK", 0.02)
    where = []

    def broken():
        raise LookupError(SECRET)

    one = serve(ticks=[broken, lambda: where.append(threading.current_thread().name)])
    wait_until(lambda: len(where) > 2)
    assert set(where) == {"poolkit-control"}
    assert "event=tick_failed" in caplog.text
    assert "s3cr" not in caplog.text
    assert answers(one, dial)


def test_it_goes_on_when_the_process_has_no_descriptor_left(serve, dial, monkeypatch):
    monkeypatch.setattr(server, "TICK", 0.05)
    refused: list[float] = []

    class Exhausted(socket.socket):
        def accept(self):
            if len(refused) < 3:
                refused.append(time.monotonic())
                raise OSError(24, "Too many open files")
            return super().accept()

    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", Exhausted)
        one = serve()
    assert answers(one, dial)
    # It did not ask the system again and again meanwhile.
    assert refused[2] - refused[0] > 0.05


def test_it_goes_on_after_a_mistake_of_our_own(serve, dial, monkeypatch, caplog):
    def mistaken(client):
        raise LookupError(SECRET)

    one = serve()
    with monkeypatch.context() as patch:
        patch.setattr(protocol, "peer_of", mistaken)
        assert dial(one).hung_up()
    assert "event=command_failed what=- error=LookupError" in caplog.text
    assert "s3cr" not in caplog.text
    assert answers(one, dial)


# -- the one of this process


@pytest.fixture
def own(monkeypatch):
    """This module's server put aside, as in a fresh process."""
    monkeypatch.setattr(server, "_server", None)
    monkeypatch.setattr(server, "_settled", False)
    yield
    server.stop()


def start(config, **changes):
    config = ControlConfig(**{**vars(config), **changes})
    server.ensure_started(config, {"echo": lambda a: {"echo": dict(a)}}, (), ())


@pytest.mark.usefixtures("own")
def test_there_is_one_however_many_ask_for_it(config, dial, place):
    started, others = threading.Barrier(8), threads()

    def ask():
        started.wait()
        start(config)
        assert len(directory.places(place, None)) == 1  # there for all to find

    many = [threading.Thread(target=ask) for _ in range(8)]
    for thread in many:
        thread.start()
    for thread in many:
        thread.join()
    assert len(threads() - others) == 1
    one = server.running()
    assert one is not None
    assert answers(one, dial)
    server.stop()
    assert server.running() is None
    start(config)
    assert server.running() is not one


@pytest.mark.usefixtures("own")
def test_a_finalizer_that_opens_a_pool_meanwhile_does_not_stop_it(config, monkeypatch):
    asked, sweep = [], directory.sweep

    def interrupted(place):
        asked.append(server.running())
        start(config)
        sweep(place)

    monkeypatch.setattr(directory, "sweep", interrupted)
    thread = threading.Thread(target=start, args=[config], daemon=True)
    thread.start()
    thread.join(10.0)
    stuck = thread.is_alive()
    if stuck:
        monkeypatch.setattr(server, "_lock", threading.RLock())  # for those who come after
    assert not stuck
    assert len(asked) == 1
    assert server.running() is not None


@pytest.mark.usefixtures("own")
def test_there_is_none_where_it_is_not_wanted(config, place):
    start(config, enabled=False)
    assert server.running() is None
    assert not place.exists()


def spoil_parent(place, monkeypatch):
    place.parent.rmdir()


def spoil_mode(place, monkeypatch):
    place.mkdir(mode=0o755)
    place.chmod(0o755)


def spoil_owner(place, monkeypatch):
    place.mkdir(mode=0o700)
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)


def spoil_bind(place, monkeypatch):
    def publish(path, listener):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(directory, "publish", publish)


def spoil_thread(place, monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_parent, "No such file or directory"),
        (spoil_mode, "open to other users"),
        (spoil_owner, "belongs to user"),
        (spoil_bind, "Read-only file system"),
        (spoil_thread, "can't start new thread"),
    ],
)
def test_what_keeps_it_from_serving_is_one_warning(
    config, place, monkeypatch, caplog, spoil, reason
):
    before = descriptors(), threads()
    with monkeypatch.context() as patch:
        spoil(place, patch)
        with caplog.at_level(logging.INFO, "django_poolkit.control"):
            start(config)
            start(config)
    [record] = caplog.records
    text = record.getMessage()
    assert record.levelno == logging.WARNING
    assert text.startswith("event=control_off reason=")
    assert reason in text
    assert "POOLKIT['CONTROL']['DIRECTORY']" in text
    assert server.running() is None
    assert (descriptors(), threads()) == before
    if place.exists():
        assert list(place.iterdir()) == []
