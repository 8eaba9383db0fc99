"""Signals, heard beside whoever else hears them: what does not end is cut in time."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIHandler

from django_poolkit.asgi import Poolkit
from django_poolkit.lifespan import in_flight
from django_poolkit.lifespan.notice import SIGNALS, Notice
from tests.lifespan.support import Wire, looped, until

ROOT = Path(__file__).parents[2]
SETTINGS = "django_poolkit.lifespan"


@pytest.fixture(autouse=True)
def handlers() -> Iterator[list[Any]]:
    """Have handlers of the test's own, which stay what they are."""
    heard: list[Any] = []

    def hear(number: int, frame: object) -> None:
        heard.append(number)

    before = {number: signal.signal(number, hear) for number in SIGNALS}
    yield heard
    for number, old in before.items():
        assert signal.getsignal(number) is hear
        signal.signal(number, old)


async def serve(ends: list[str], stubborn: bool) -> None:
    """Serve a request that ends when it is cut, or when it is cut again."""
    with in_flight.counted():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends.append("cut")
            if stubborn:
                await asyncio.Event().wait()


@pytest.mark.parametrize("number", SIGNALS)
def test_it_cuts_what_is_in_flight_and_the_server_hears_as_ever(
    handlers: list[Any], number: signal.Signals
) -> None:
    @looped
    async def main() -> None:
        ends: list[str] = []
        request = asyncio.create_task(serve(ends, stubborn=False))
        await until(lambda: in_flight.count() == 1)
        notice = Notice(0.05)
        notice.listen()
        os.kill(os.getpid(), number)
        assert handlers == [number]
        assert ends == []
        await request
        notice.ignore()

    main()


@looped
async def test_it_cuts_again_what_goes_on(
    handlers: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_poolkit.lifespan.notice._AGAIN", 0.05)
    request = asyncio.create_task(serve([], stubborn=True))
    await until(lambda: in_flight.count() == 1)
    notice = Notice(0.0)
    notice.listen()
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait({request})
    assert request.cancelled()
    notice.ignore()


@looped
async def test_a_signal_that_comes_as_it_begins_to_listen_is_heard(
    handlers: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asyncio.create_task(serve([], stubborn=False))
    await until(lambda: in_flight.count() == 1)
    notice, set_handler = Notice(0.0), signal.signal

    def set_and_send(number: int, handler: Any) -> Any:
        before = set_handler(number, handler)
        os.kill(os.getpid(), number)
        return before

    with monkeypatch.context() as patch:
        patch.setattr(signal, "signal", set_and_send)
        notice.listen()
    assert handlers == [*SIGNALS]
    await asyncio.wait({request}, timeout=5)
    assert request.done()
    notice.ignore()


@looped
async def test_a_loop_that_listens_hears_as_ever() -> None:
    loop, heard = asyncio.get_running_loop(), asyncio.Event()
    before = signal.getsignal(signal.SIGTERM)
    loop.add_signal_handler(signal.SIGTERM, heard.set)
    notice = Notice(60.0)
    notice.listen()
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(5):
        await heard.wait()
    notice.ignore()
    loop.remove_signal_handler(signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)


@looped
async def test_a_handler_that_was_set_since_stays() -> None:
    notice = Notice(60.0)
    before = signal.getsignal(signal.SIGTERM)
    notice.listen()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    notice.ignore()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    signal.signal(signal.SIGTERM, before)


@looped
async def test_who_was_set_since_and_hands_on_still_reaches_the_server(handlers: list[Any]) -> None:
    notice, ends = Notice(0.0), list[str]()
    before = signal.getsignal(signal.SIGTERM)
    notice.listen()
    ours = signal.getsignal(signal.SIGTERM)
    assert callable(ours)
    heard: list[int] = []

    def hand_on(number: int, frame: Any) -> None:
        heard.append(number)
        ours(number, frame)

    signal.signal(signal.SIGTERM, hand_on)
    notice.ignore()
    task = asyncio.create_task(serve(ends, False))
    await until(lambda: in_flight.count() == 1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert heard == handlers == [signal.SIGTERM]
    for _ in range(5):
        await asyncio.sleep(0)
    assert ends == []  # nothing is cut any more
    task.cancel()
    await asyncio.wait({task})
    signal.signal(signal.SIGTERM, before)


def test_a_handler_that_python_cannot_call_stays(
    handlers: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        notice, before = Notice(60.0), signal.getsignal(signal.SIGTERM)
        with monkeypatch.context() as patch:
            # What Python says of one that the program around it has set.
            patch.setattr(signal, "getsignal", lambda number: None)
            notice.listen()
        assert signal.getsignal(signal.SIGTERM) is before
        os.kill(os.getpid(), signal.SIGTERM)
        assert handlers == [signal.SIGTERM]
        notice.ignore()

    asyncio.run(main())


def test_a_loop_that_was_closed_does_not_keep_others_from_hearing(handlers: list[Any]) -> None:
    notices: list[Notice] = []

    async def main() -> None:
        notices.append(Notice(60.0))
        notices[0].listen()

    asyncio.run(main())
    os.kill(os.getpid(), signal.SIGTERM)
    assert handlers == [signal.SIGTERM]
    notices[0].ignore()


def test_another_thread_than_the_main_one_listens_to_nothing() -> None:
    async def main() -> None:
        notice = Notice(0.0)
        notice.listen()
        notice.ignore()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    thread.join()


@looped
async def test_the_lifespan_listens_if_it_is_told_to(handlers: list[Any]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    for cut_after, listens in ((None, False), (60.0, True)):
        wire = Wire(Poolkit(ASGIHandler()), **{SETTINGS: {"cut_after": cut_after}})
        await wire.ask("startup")
        assert (signal.getsignal(signal.SIGTERM) != before) is listens
        await wire.ask("shutdown")
        assert signal.getsignal(signal.SIGTERM) is before


def test_a_process_that_nobody_else_listens_for_ends_by_the_signal() -> None:
    program = (
        "import asyncio, os, signal\n"
        "from django_poolkit.lifespan.notice import Notice\n"
        "async def main():\n"
        "    Notice(60.0).listen()\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, check=False, timeout=60
    )
    assert done.returncode == -signal.SIGTERM
