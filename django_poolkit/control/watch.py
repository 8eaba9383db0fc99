"""Show something again and again: on a terminal as a screen, elsewhere line by line."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

# Control sequences that every terminal of this century knows (ECMA-48, and xterm's private
# modes): the alternate screen, the cursor, and whether long lines wrap.
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _TO_LINE_END, _TO_SCREEN_END = "\x1b[H", "\x1b[K", "\x1b[J"


def every(seconds: float, step: Callable[[], None]) -> NoReturn:
    """Call `step` now, and then each time the seconds are over. An exception ends it."""
    while True:
        started = time.monotonic()
        step()
        time.sleep(max(0.0, seconds - (time.monotonic() - started)))


@contextmanager
def screen(write: Callable[[str], None]) -> Iterator[Callable[[str], None]]:
    """Take the terminal's other screen, give a function that fills it, and go back at the end.

    `write` has to put out what it is given at once, and nothing else. Also SIGTERM and a hang-up
    lead to that end, as SystemExit with 128 and their number.
    """

    def show(text: str) -> None:
        # Drawn over the old one line by line, so that nothing flickers.
        height = shutil.get_terminal_size().lines
        lines = text.rstrip("\n").split("\n")
        if len(lines) > height:
            lines[height - 1 :] = [f"... {len(lines) - height + 1} more lines"]
        write(_HOME + f"{_TO_LINE_END}\r\n".join(lines) + _TO_LINE_END + _TO_SCREEN_END)

    with _endings():
        try:
            write(_ENTER)
            yield show
        finally:
            write(_LEAVE)


@contextmanager
def _endings() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are none of its business
        return

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    old = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
