"""What is called in a child of which Python has not been told."""

from __future__ import annotations

import ctypes
import io
import logging
import os
import signal
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from django_poolkit.pools import forks


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have three functions in place of all there are; the second one fails."""
    called: list[str] = []

    def fail() -> None:
        raise RuntimeError("no")

    functions = [forks._told, lambda: called.append("first"), fail, lambda: called.append("last")]
    monkeypatch.setattr(forks, "_functions", functions)
    monkeypatch.setattr(forks, "_process", os.getpid())
    monkeypatch.setattr(threading, "_after_fork", lambda: called.append("threads"))
    return called


def test_a_server_that_forks_behind_pythons_back_calls_all_once(called, monkeypatch, caplog):
    server: Any = SimpleNamespace(post_fork_hook=lambda: called.append("theirs"))
    forks.watch(server)
    monkeypatch.setattr(forks, "_process", 0)
    server.post_fork_hook()
    assert called == ["threads", "first", "last", "theirs"]
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "event=fork_failed error=RuntimeError", "event=untold_fork",
    ]  # fmt: skip
    server.post_fork_hook()
    assert called[4:] == ["theirs"]


def test_a_thread_that_logs_as_the_process_is_forked_holds_up_no_child(called):
    server: Any = SimpleNamespace()
    handler = logging.StreamHandler(io.StringIO())
    forks.watch(server)
    logging.getLogger("django_poolkit").addHandler(handler)
    held, ended = threading.Event(), threading.Event()

    def log() -> None:
        with handler.lock:  # type: ignore[union-attr]
            held.set()
            ended.wait()

    thread = threading.Thread(target=log)
    thread.start()
    held.wait()
    try:
        child = ctypes.PyDLL(None).fork()  # in C, as uWSGI does
        if not child:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)
            server.post_fork_hook()
            os._exit("untold_fork" not in handler.stream.getvalue())
        assert os.waitpid(child, 0)[1] == 0
    finally:
        ended.set()
        thread.join()
        logging.getLogger("django_poolkit").removeHandler(handler)


def test_a_child_that_has_been_told_is_not_told_again(called):
    server: Any = SimpleNamespace()
    forks.watch(server)
    child = os.fork()
    if not child:
        called.clear()
        server.post_fork_hook()
        os._exit(len(called))
    assert os.waitpid(child, 0)[1] == 0


def test_outside_of_uwsgi_there_is_nothing_to_watch():
    assert forks._uwsgi() is None
