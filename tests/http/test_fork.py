"""Forks, each in a process of its own: the child works anew, the parent notices nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.http.support import said
from tests.http.upstream import Upstream

ROOT = Path(__file__).parents[2]

PRELUDE = """
import asyncio, gc, json, os, signal, sys, threading, time, warnings
# What several threads and a fork may come to is what is tested here.
warnings.filterwarnings("ignore", ".*multi-threaded, use of fork.*", DeprecationWarning)
# Nor are steps of a loop that a busy machine makes long, which asyncio's debug mode tells of.
import logging
logging.getLogger("asyncio").setLevel(logging.ERROR)
from django.conf import settings
options = json.loads(os.environ["OPTIONS"])
settings.configure(
    INSTALLED_APPS=["django_poolkit"],
    POOLKIT={"HTTP": {"api": options}, "CONTROL": {"ENABLED": False}},
)
import django
django.setup()
from django_poolkit import client_sessions
url, secure = os.environ["URL"], os.environ["SECURE"]
session = client_sessions["api"]

def sockets():
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if target.startswith("socket:") or "eventpoll" in target:
            found.append(target)
    return sorted(found)

def in_child(work, end):
    child = os.fork()
    if child:
        deadline = time.monotonic() + 20
        while not (done := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                sys.exit("the child hangs")
            time.sleep(0.01)
        assert os.waitstatus_to_exitcode(done[1]) == 0, done
        return
    try:
        work()
    except BaseException as error:
        print(repr(error), flush=True)
        os._exit(3)
    if end == "exit":
        sys.exit(0)  # with all that an interpreter does at its end
    sys.stdout.flush()
    os._exit(0)

async def ask(to=url):
    async with session.get(to) as response:
        await response.read()
        return response.status
"""


@pytest.fixture
def run(upstream: Upstream, secure: Upstream, cafile: Path) -> Any:
    def run(script: str, **options: Any) -> str:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OPTIONS": json.dumps({"CAFILE": str(cafile), **options}),
            "URL": upstream.url(),
            "SECURE": secure.url(),
        }
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", "-c", PRELUDE + textwrap.dedent(script)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (said(done.stderr), done.returncode) == ("", 0), done.stdout
        return done.stdout

    return run


@pytest.mark.parametrize("end", ["exit", "_exit"])
def test_the_child_of_a_process_that_has_used_it_uses_its_own(run: Any, end: str) -> None:
    out = run(
        f"""
        assert session.sync.get(url).status == session.sync.get(secure).status == 200
        before = session.stats()
        assert (before.size, before.connects) == (2, 2)
        inherited = sockets()

        def work():
            assert session is client_sessions["api"]
            assert session.stats().size == session.stats().connects == 0
            # Of the parent's sockets none is held open, so that the parent can end them.
            assert sockets() == []
            assert session.sync.get(url).status == session.sync.get(secure).status == 200
            assert session.stats().connects == 2
            assert asyncio.run(ask()) == 200
            gc.collect()

        for _ in range(3):
            in_child(work, {end!r})
            # The parent's loop still hears of what is given to it, and of its connections.
            assert sockets() == inherited
            assert session.sync.get(url).status == session.sync.get(secure).status == 200
        assert session.stats().connects == 2
        print("done")
        """
    )
    assert out == "done\n"


def test_a_fork_in_the_middle_of_calls_leaves_both_at_work(run: Any) -> None:
    out = run(
        """
        ended = threading.Event()
        failed = []

        def busy():
            while not ended.is_set():
                try:
                    assert session.sync.get(url).status == 200
                except BaseException as error:
                    failed.append(error)

        threads = [threading.Thread(target=busy) for _ in range(8)]
        for thread in threads:
            thread.start()

        def work():
            assert session.sync.get(url).status == 200
            assert session.stats().used == 0

        for _ in range(10):
            in_child(work, "_exit")
        ended.set()
        for thread in threads:
            thread.join(20)
        assert failed == []
        assert session.stats().used == 0
        print("done")
        """,
        limit=4,
    )
    assert out == "done\n"


def test_a_fork_while_a_loop_runs_leaves_that_loop_its_connections(run: Any) -> None:
    out = run(
        """
        async def main():
            assert await ask() == await ask(secure) == 200

            def work():
                assert session.stats().size == 0
                assert session.sync.get(url).status == 200

            await asyncio.to_thread(in_child, work, "_exit")
            in_child(work, "_exit")
            assert await ask() == await ask(secure) == 200
            assert session.stats().connects == 2

        asyncio.run(main())
        assert session.stats().size == 0
        print("done")
        """
    )
    assert out == "done\n"


def test_a_fork_while_another_thread_opens_it(run: Any) -> None:
    out = run(
        """
        assert asyncio.run(ask()) == 200
        assert session.sync.get(url).status == 200
        opening, forked = threading.Event(), threading.Event()

        def open_it():
            with session._lock:
                opening.set()
                forked.wait(20)

        thread = threading.Thread(target=open_it)
        thread.start()
        opening.wait(20)

        def work():
            assert session.stats().size == 0
            assert session.sync.get(url).status == 200

        in_child(work, "_exit")
        forked.set()
        thread.join(20)
        assert session.stats().connects == 2
        print("done")
        """
    )
    assert out == "done\n"


def test_a_child_of_a_child(run: Any) -> None:
    out = run(
        """
        session.sync.get(url)

        def work():
            session.sync.get(url)
            in_child(lambda: session.sync.get(url), "_exit")
            assert session.stats().connects == 1

        in_child(work, "exit")
        print("done")
        """
    )
    assert out == "done\n"


def test_what_the_parent_has_closed_stays_closed_in_the_child(run: Any) -> None:
    out = run(
        """
        from django_poolkit import PoolClosed, registry
        session.sync.get(url)
        registry.sessions.shut_down(5.0)

        def work():
            for ask in (lambda: session.sync.get(url), lambda: client_sessions["api"]):
                try:
                    ask()
                except PoolClosed:
                    continue
                raise AssertionError

        in_child(work, "exit")
        print("done")
        """
    )
    assert out == "done\n"
