"""Asking processes: the living, the dead, the silent and the strange."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from django_poolkit.conf import control as conf
from django_poolkit.conf.control import ControlConfig
from django_poolkit.control import client, directory, protocol
from django_poolkit.control.client import ask, ask_all, explain_none, look_in


@pytest.fixture
def bogus(place):
    """Return a function that publishes a socket behind which anything may happen."""
    listeners: list[socket.socket] = []

    def listen(behave: Callable[[socket.socket], object] | None = None, backlog: int = 8):
        directory.prepare(place)
        listener = socket.socket(socket.AF_UNIX)
        listeners.append(listener)
        path = directory.publish(place, listener)
        listener.listen(backlog)

        def serve(behave):
            with suppress(OSError):
                caller, _ = listener.accept()
                with caller:
                    behave(caller)

        if behave is not None:
            threading.Thread(target=serve, args=(behave,), daemon=True).start()
        return path

    yield listen
    for listener in listeners:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def only(place):
    [found] = directory.places(place, None)
    return found


# -- one


def test_a_process_answers(serve, place):
    one = serve()
    answer = ask(only(place), "echo", {"a": 1})
    assert answer.result == {"echo": {"a": 1}}
    assert (answer.error, answer.message) == (None, None)
    assert (answer.path, answer.pid, answer.uid) == (one.path, os.getpid(), os.geteuid())


def test_an_error_is_an_answer(serve, place):
    serve()
    answer = ask(only(place), "nonsense", {})
    assert answer.result is None
    assert answer.error == "unknown_command"
    assert "no such command" in str(answer.message)


def test_a_large_answer_arrives(serve, place):
    serve({"much": lambda arguments: {"text": "x" * 5_000_000}})
    result = ask(only(place), "much", {}).result
    assert result is not None
    assert len(result["text"]) == 5_000_000


def say(data):
    def behave(caller):
        caller.recv(100_000)
        caller.sendall(data)

    return behave


def linger(caller):
    caller.recv(100_000)
    caller.sendall(b"\0\0\0")
    caller.recv(1)


def trickle(caller):
    caller.sendall(b"\0\0\xff\xff")
    while True:
        caller.sendall(b"x")
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("behave", "error"),
    [
        (say(b"HTTP/1.1 200 OK"), "too_large"),
        (say(b"\xff\xff\xff\xff"), "too_large"),
        (say(b"\0\0\0\0"), "bad_frame"),
        (say(b"\0\0\0\x05hello"), "bad_frame"),
        (say(protocol.request("status", {})), "bad_frame"),
        (say(b""), "no_answer"),
        (say(b"\0\0\0\x05hel"), "no_answer"),
        (linger, "no_answer"),
        (trickle, "no_answer"),
        (None, "no_answer"),
    ],
)
def test_what_is_no_answer_is_an_error_within_the_time(bogus, place, behave, error):
    bogus(behave)
    started = time.monotonic()
    answer = ask(only(place), "status", {}, timeout=0.3)
    assert time.monotonic() - started < 2.0
    assert (answer.result, answer.error) == (None, error)
    assert answer.message


def test_one_whose_queue_is_full_is_waited_for(bogus, place):
    path = bogus(None, backlog=0)
    callers = []
    while True:
        caller = socket.socket(socket.AF_UNIX)
        caller.setblocking(False)
        callers.append(caller)
        try:
            caller.connect(str(path))
        except BlockingIOError:
            break
    started = time.monotonic()
    answer = ask(only(place), "status", {}, timeout=0.3)
    assert 0.3 <= time.monotonic() - started < 2.0
    assert (answer.error, answer.message) == ("no_answer", "no answer within 0.3 s")
    for caller in callers:
        caller.close()


def test_nothing_is_said_to_a_stranger(bogus, place):
    heard: list[bytes] = []
    bogus(lambda caller: heard.append(caller.recv(1)))
    found = only(place)
    answer = ask(directory.Place(found.path, found.pid, found.uid + 1), "pause", {}, timeout=1.0)
    assert answer.error == "stranger"
    assert heard in ([], [b""])


def test_what_cannot_be_sent_is_the_callers_error(serve, place):
    serve()
    with pytest.raises(protocol.ProtocolError, match="65536"):
        ask(only(place), "echo", {"text": "x" * 70_000})
    with pytest.raises(TypeError):
        ask(only(place), "echo", {"text": object()})


# -- all


def test_all_are_asked_and_come_in_order(serve, config):
    for pid in (300, 20, 4000):
        serve({"who": lambda arguments, pid=pid: {"pid": pid}}, pid=pid)
    answers = ask_all(config, "who", {})
    assert [answer.pid for answer in answers] == [20, 300, 4000]
    assert [answer.result for answer in answers] == [{"pid": pid} for pid in (20, 300, 4000)]
    assert [answer.pid for answer in ask_all(config, "who", {}, pids={4000, 5})] == [4000]
    assert ask_all(config, "who", {}, pids=set()) == []


def test_they_are_asked_at_the_same_time(bogus, serve, config):
    for _ in range(8):
        bogus(linger)
    serve()
    started = time.monotonic()
    answers = ask_all(config, "echo", {}, timeout=0.5)
    assert time.monotonic() - started < 2.5
    assert sorted(str(answer.error) for answer in answers) == ["None", *["no_answer"] * 8]


def test_a_hundred_that_are_frozen_take_no_longer_than_one(bogus, serve, config):
    for _ in range(100):
        bogus()
    serve()
    started = time.monotonic()
    answers = ask_all(config, "echo", {}, timeout=1.0)
    assert time.monotonic() - started < 3.0
    assert [answer.error for answer in answers].count("no_answer") == 100


def test_the_dead_are_no_answers_and_are_swept(serve, bogus, config, place):
    serve()
    with socket.socket(socket.AF_UNIX) as dead:
        path = directory.publish(place, dead)
    assert path.exists()
    assert [answer.result for answer in ask_all(config, "echo", {})] == [{"echo": {}}]
    assert not path.exists()


def test_where_there_is_nothing_nobody_answers(config, place):
    assert ask_all(config, "echo", {}) == []
    place.mkdir(mode=0o755)
    place.chmod(0o755)
    assert ask_all(config, "echo", {}) == []


# -- where


@pytest.fixture
def users(place, monkeypatch):
    """The default directories of some users, with root's and a forged one among them."""
    place.mkdir()
    monkeypatch.setattr(conf, "_TEMPORARY", place)
    me = os.geteuid()

    def make(uid, mark="0123abcd"):
        path = place / f"poolkit-{uid}-{mark}"
        path.mkdir(mode=0o700)
        return path

    def config(uid=me, mark="0123abcd"):
        monkeypatch.setattr(os, "geteuid", lambda: uid)
        return ControlConfig(
            directory=conf.default_directory(uid, mark), service="tests", mark=mark
        )

    return make, config


def test_a_user_looks_at_their_own_alone(users, place):
    make, config = users
    make(1), make(2)
    assert look_in(config(1)) == [place / "poolkit-1-0123abcd"]
    assert look_in(config(3)) == [place / "poolkit-3-0123abcd"]


def test_root_looks_at_those_of_all_users_of_this_project(users, place):
    make, config = users
    own, other = make(0), make(1)
    make(1, "99999999")
    (place / "poolkit-x-0123abcd").mkdir()
    (place / "poolkit-1-0123abcd-more").mkdir()
    assert look_in(config(0)) == [own, other]


def test_root_too_looks_at_the_one_that_was_set(users, place):
    make, config = users
    make(1)
    chosen = ControlConfig(directory=place / "set", service="tests")
    config(0)
    assert look_in(chosen) == [place / "set"]


def test_root_asks_nobody_in_a_directory_that_is_not_whose_its_name_says(users, serve, place):
    _, config = users
    me = os.geteuid()
    forged, right = place / f"poolkit-{me + 1}-0123abcd", place / f"poolkit-{me}-0123abcd"
    for path in (forged, right):
        serve(directory=path)
    answers = ask_all(config(0), "echo", {})
    assert {answer.path.parent for answer in answers} == {right}


# -- nobody


def test_it_is_explained_where_nobody_is(users, place, monkeypatch):
    make, config = users
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    make(5)
    text = explain_none(config(1))
    assert text.startswith(f"No live process was found. Looked in {place}/poolkit-1-0123abcd")
    assert "which does not exist" in text
    for cause in (
        "no process", "user 5", "another settings module", "container", "PrivateTmp",
        "event=control_off", "TMPDIR is '/var/tmp' here; it is not consulted",
    ):  # fmt: skip
        assert re.search(cause, text, re.IGNORECASE) or cause == "no process", cause
    assert "ENABLED" not in text


def test_the_causes_are_those_that_can_be(users, place, monkeypatch):
    _, config = users
    monkeypatch.delenv("TMPDIR", raising=False)
    assert "TMPDIR" not in explain_none(config(1))
    assert "as another user than 1" in explain_none(config(1))
    assert "another user" not in explain_none(config(0))
    off = ControlConfig(directory=place / "set", service="tests", enabled=False)
    text = explain_none(off)
    assert "ENABLED'] is False" in text
    assert "another settings module" not in text
    (place / "set").mkdir(mode=0o755)
    (place / "set").chmod(0o755)
    assert "refused: " in explain_none(off)
    assert client.TIMEOUT == 3.0
