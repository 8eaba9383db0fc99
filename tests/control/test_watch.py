"""Something shown again and again."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from time import monotonic

import pytest

from django_poolkit.control import watch
from tests.pools.support import Call

ENTER, LEAVE = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"


class EnoughError(Exception):
    pass


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A terminal of 5 lines: what was written to it, piece by piece."""
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((80, 5)))
    return []


def test_it_is_done_at_once() -> None:
    def step() -> None:
        raise EnoughError

    started = monotonic()
    with pytest.raises(EnoughError):
        watch.every(60.0, step)
    assert monotonic() - started < 10.0


def test_it_is_done_again_when_the_time_is_over() -> None:
    times: list[float] = []

    def step() -> None:
        times.append(monotonic())
        if len(times) == 3:
            raise EnoughError

    with pytest.raises(EnoughError):
        watch.every(0.1, step)
    first, second, third = times
    assert second - first >= 0.09
    assert third - second >= 0.09


def test_what_takes_longer_than_its_time_is_done_again_at_once() -> None:
    count = iter(range(3))

    def step() -> None:
        if next(count) == 2:
            raise EnoughError
        threading.Event().wait(0.05)

    started = monotonic()
    with pytest.raises(EnoughError):
        watch.every(0.01, step)
    assert monotonic() - started < 5.0


def test_a_screen_is_entered_filled_and_left(terminal: list[str]) -> None:
    with watch.screen(terminal.append) as show:
        show("one\ntwo\n")
        show("three\n")
    assert terminal == [
        ENTER,
        "\x1b[Hone\x1b[K\r\ntwo\x1b[K\x1b[J",
        "\x1b[Hthree\x1b[K\x1b[J",
        LEAVE,
    ]


def test_what_does_not_fit_is_cut_off_and_counted(terminal: list[str]) -> None:
    with watch.screen(terminal.append) as show:
        show("1\n2\n3\n4\n5\n")
        show("1\n2\n3\n4\n5\n6\n7\n")
    assert terminal[1].count("\r\n") == terminal[2].count("\r\n") == 4
    assert "more" not in terminal[1]
    assert terminal[2].endswith("4\x1b[K\r\n... 3 more lines\x1b[K\x1b[J")


@pytest.mark.parametrize("error", [KeyboardInterrupt, EnoughError])
def test_whatever_ends_it_the_screen_is_left(
    terminal: list[str], error: type[BaseException]
) -> None:
    with pytest.raises(error), watch.screen(terminal.append):
        raise error
    assert terminal[-1] == LEAVE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_end_it_too(terminal: list[str], number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended, watch.screen(terminal.append):
        signal.raise_signal(number)
        threading.Event().wait(10.0)
    assert ended.value.code == 128 + number
    assert terminal[-1] == LEAVE
    assert signal.getsignal(number) is before


def test_another_thread_leaves_signals_alone(terminal: list[str]) -> None:
    def look() -> None:
        with watch.screen(terminal.append) as show:
            show("one")

    Call(look).result()
    assert terminal[-1] == LEAVE
