"""An interrupt anywhere in the code of a lease, as of Ctrl-C or a time limit, loses nothing.

It is raised at each line of the backend in turn, so no moment is left to chance.
"""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from django.db import connections, transaction

from tests.app.models import Item
from tests.backends.transaction_mode.support import backend, connection, create, scalar, used

WHERE = "/django_poolkit/backends/"


class Interrupt(Exception):
    """What a signal handler raises."""


def comes_of_an_interrupt(error: BaseException) -> bool:
    """Return whether that is one, or what Django made of one on its way out of a block."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, Interrupt):
        cause = cause.__context__
    return cause is not None


def interrupted(act: Callable[[], object], line: int) -> str | None:
    """Run `act`, and raise as the backend comes to its `line`-th line; return where that was."""
    passed = 0
    where: str | None = None

    def within(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal passed, where
        if event == "line" and where is None:
            passed += 1
            if passed == line:
                code = frame.f_code
                where = f"{code.co_filename}:{frame.f_lineno} {code.co_qualname}"
                raise Interrupt
        return within

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        return within if WHERE in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        act()
    except Exception as error:
        if not comes_of_an_interrupt(error):
            raise
    finally:
        sys.settrace(before)
    return where


def query() -> None:
    Item.objects.exists()


def block() -> None:
    with transaction.atomic():
        create("one half")
        with transaction.atomic():
            create("the other half")


def iterate() -> None:
    for _ in Item.objects.iterator(chunk_size=1):
        Item.objects.exists()


def pin() -> None:
    scalar("SET search_path TO public, pg_catalog")
    connection.close()


def by_hand() -> None:
    with connection.pinned():
        backend()
        backend()
    transaction.set_autocommit(False)
    create("never committed")
    transaction.rollback()
    transaction.set_autocommit(True)


@pytest.fixture
def own_wrapper(pooled):
    """Leave to others no wrapper that has seen interrupts."""
    yield
    connection.close()
    del connections["default"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "act", [query, pytest.param(block, marks=pytest.mark.core), iterate, pin, by_hand]
)
def test_nothing_is_lost_whatever_line_an_interrupt_hits(pooled, server, own_wrapper, act):
    pool = pooled(max_size=1, timeout=2.0)
    create("there")
    line = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while where := interrupted(act, line := line + 1):
            # As at the end of a request.
            connection.close()
            if connection.in_atomic_block:
                # It hit Django's Atomic on its way in or out, which leaves any wrapper useless.
                del connections["default"]
            gc.collect(0)
            # With one slot, one that is lost is a timeout here.
            assert Item.objects.filter(name="there").exists(), where
            assert used(pool) == 0, where
            assert connection.get_autocommit(), where
            assert scalar("SHOW search_path") == '"$user", public', where
            connection.close()
            pool.acquire().release()
            assert used(pool) == 0, where
    assert line > 50
    names = server.names
    assert names.count("one half") == names.count("the other half")
    assert "never committed" not in names
