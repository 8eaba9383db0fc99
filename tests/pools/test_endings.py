"""What is done at the end of a process whose exit hooks nobody calls."""

from __future__ import annotations

import atexit
import logging
import os
from pathlib import Path

import pytest

from django_poolkit.pools import endings


def test_all_is_done_in_reverse_and_nothing_stops_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[str] = []

    def fail() -> None:
        raise RuntimeError

    monkeypatch.setattr(
        endings, "_functions", [lambda: done.append("a"), fail, lambda: done.append("b")]
    )
    with caplog.at_level(logging.WARNING, "django_poolkit.pool"):
        endings.end()
    assert done == ["b", "a"]
    assert "event=end_failed error=RuntimeError" in caplog.text


def test_a_forked_process_that_is_told_does_what_exit_hooks_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(endings, "_functions", [])
    monkeypatch.setattr(atexit, "register", lambda function: None)
    endings.at_end((tmp_path / "farewell").write_text, "said")
    if not (child := os.fork()):
        endings.end()
        os._exit(0)
    os.waitpid(child, 0)
    assert (tmp_path / "farewell").read_text() == "said"
