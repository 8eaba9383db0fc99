"""Real signals at random moments of acquire and release, as Ctrl-C and soft time limits send."""

from __future__ import annotations

import gc
import random
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing.waiting import wait_until


class Interrupt(Exception):
    """What the signal handler raises, as Celery's SoftTimeLimitExceeded."""


def interrupt(*_: object) -> None:
    raise Interrupt


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Have SIGALRM raise in the main thread."""
    before = signal.signal(signal.SIGALRM, interrupt)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def interrupted(act: Callable[[], Any], within: float) -> bool:
    """Run `act` with a signal to come at a random moment; return whether it came in time."""
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(5e-6, within))
            act()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Interrupt:
        return True
    return False


def clean(pool: ConnectionPool) -> None:
    pool.acquire().release()


def dirty(pool: ConnectionPool) -> None:
    lease = pool.acquire()
    lease.mark_dirty("test")
    lease.release()


def discard(pool: ConnectionPool) -> None:
    pool.acquire().discard()


def getconn(pool: ConnectionPool) -> None:
    pool.putconn(pool.getconn())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("act", "within"),
    [(clean, 8e-5), (dirty, 4e-4), (discard, 2e-4), (getconn, 8e-5)],
    ids=["clean", "dirty", "discard", "getconn"],
)
def test_no_slot_is_lost_whatever_moment_an_interrupt_comes(
    make_pool: Callable[..., ConnectionPool],
    interrupts: None,
    act: Callable[[ConnectionPool], None],
    within: float,
) -> None:
    pool = make_pool(max_size=1, timeout=10.0)
    hits = 0
    end = time.monotonic() + 3.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while time.monotonic() < end:
            hits += interrupted(lambda: act(pool), within)
            gc.collect(0)
            # With one slot, one that is lost is a timeout here.
            pool.acquire().release()
    assert hits > 20
    wait_until(lambda: pool.stats().connecting == 0)
    stats = pool.stats()
    assert (stats.size, stats.idle, stats.used) == (1, 1, 0)


# An interrupt inside the standard library's Thread.start() has the thread trip over its own
# table, and a finalizer that is hit says so: neither is what this is about.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupted_first_acquire_does_not_end_the_growth_of_a_pool(
    make_pool: Callable[..., ConnectionPool], interrupts: None
) -> None:
    hits = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(40):
            pool = make_pool(max_size=1, num_workers=1, timeout=10.0)
            pool.open()
            hits += interrupted(lambda pool=pool: clean(pool), 4e-4)  # type: ignore[misc]
            clean(pool)
            pool.close()
    assert hits > 5
