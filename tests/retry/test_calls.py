"""`retry_read()`: a call that only reads is made again, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import DataError, NotSupportedError, OperationalError, connection, transaction

from django_poolkit import PoolTimeout, retry
from django_poolkit.pools.deadline import deadline
from django_poolkit.retry import retry_read
from django_poolkit.testing.faults import Snare
from tests.app.models import Item
from tests.pools.support import Call
from tests.retry.test_reads import MODES, READ, WRITES, scalar, warm

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("unasked")]


class Dice:
    """Chance that always falls the same way."""

    def __init__(self, falls: float) -> None:
        self.falls = falls
        self.asked: list[tuple[float, float]] = []

    def uniform(self, low: float, high: float) -> float:
        self.asked.append((low, high))
        return self.falls


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nobody wait for long."""
    monkeypatch.setattr(retry, "BASE", 0.001)


@MODES
def test_all_of_a_call_is_made_again(pooled, proxy, ledger, mode):
    pool = pooled(mode=mode)
    warm()
    calls = []

    @retry_read
    def report(name: str) -> tuple[int, int]:
        """Say it."""
        calls.append(name)
        with transaction.atomic():
            return scalar("SELECT 1"), scalar(READ)

    snare = proxy.snare = Snare(READ, "after", times=2)
    assert report("one") == (1, 3)
    assert (report.__name__, report.__doc__) == ("report", "Say it.")
    assert calls == ["one"] * 3
    assert (snare.sent, ledger.runs) == (3, 3)
    assert dict(pool.stats().retries) == {"call": 2}


@MODES
def test_outside_of_transactions_as_well(pooled, proxy, ledger, mode):
    pooled(mode=mode)
    warm()
    snare = proxy.snare = Snare(READ, "before")
    assert retry_read(scalar)(READ) == 1  # the form for one call
    assert snare.sent == 2


def test_what_the_server_could_not_have_one_after_the_other_is_made_again(pooled):
    pool = pooled(mode="transaction")
    shaky = retry_read(attempts=4)(lambda: scalar("SELECT number FROM shaky_view"))
    assert shaky() == 3
    assert dict(pool.stats().retries) == {"call": 2}


@MODES
def test_there_are_so_many_attempts(pooled, proxy, mode):
    pooled(mode=mode)
    warm()
    snare = proxy.snare = Snare(READ, "before", times=99)
    with pytest.raises(OperationalError) as caught:
        retry_read(attempts=4)(scalar)(READ)
    assert snare.sent == 4
    assert caught.value.__notes__ == ["django_poolkit: given up after 4 attempts to read"]


@pytest.mark.parametrize("bound", ["seconds", "deadline"])
def test_none_begins_after_its_time(pooled, proxy, monkeypatch, bound):
    pooled(mode="transaction")
    warm()
    # Each pause is longer than all the time there is.
    monkeypatch.setattr(retry, "chance", Dice(60.0))
    snare = proxy.snare = Snare(READ, "before", times=99)
    seconds = 30.0 if bound == "seconds" else 500.0
    with pytest.raises(OperationalError), deadline(30.0 if bound == "deadline" else 500.0):
        retry_read(attempts=9, seconds=seconds)(scalar)(READ)
    assert snare.sent == 1


def test_the_pauses_are_by_chance_and_grow_to_a_bound(pooled, proxy, monkeypatch):
    pooled(mode="transaction")
    warm()
    dice = Dice(0.0)
    monkeypatch.setattr(retry, "BASE", 0.05)
    monkeypatch.setattr(retry, "chance", dice)
    proxy.snare = Snare(READ, "before", times=99)
    with pytest.raises(OperationalError):
        retry_read(attempts=8)(scalar)(READ)
    bounds = (0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0)
    assert dice.asked == [(0.0, longest) for longest in bounds]


@MODES
def test_what_may_write_is_refused_before_it_is_sent(pooled, proxy, ledger, mode):
    pooled(mode=mode)
    warm()
    for text in WRITES:
        if "listed" in text:
            continue  # said to be harmless, by the project
        snare = proxy.snare = Snare(text, "before", times=0)
        for _ in range(2):  # also where the text has been seen before
            with pytest.raises(NotSupportedError, match="retry_read"):
                retry_read(scalar)(text)
        assert snare.sent == 0, text
    with pytest.raises(NotSupportedError), transaction.atomic():
        retry_read(Item.objects.create)(name="one")
    assert ledger.rows == 0
    Item.objects.create(name="beside")  # which is no matter of theirs
    assert scalar("SELECT nextval('runs')") == 1


def test_within_a_transaction_it_is_called_once(pooled, proxy):
    pooled(mode="session")
    warm()
    snare = proxy.snare = Snare(READ, "before")
    with pytest.raises(OperationalError), transaction.atomic():
        retry_read(scalar)(READ)
    assert snare.sent == 1


@MODES
def test_within_a_transaction_by_hand_as_well(pooled, proxy, ledger, mode):
    pooled(mode=mode)
    transaction.set_autocommit(False)
    try:
        Item.objects.create(name="before")
        snare = proxy.snare = Snare(READ, "before")
        with pytest.raises(OperationalError):
            retry_read(scalar)(READ)
    finally:
        connection.close()
    assert (snare.sent, ledger.rows) == (1, 0)


def test_one_within_another_does_not_multiply_them(pooled, proxy):
    pooled(mode="transaction")
    warm()
    snare = proxy.snare = Snare(READ, "before", times=99)
    with pytest.raises(OperationalError):
        retry_read(attempts=3)(retry_read(attempts=3)(scalar))(READ)
    assert snare.sent == 3


@MODES
def test_state_of_the_session_is_not_lost_unseen(pooled, proxy, mode):
    pooled(mode=mode)
    wrapper: Any = connection
    with wrapper.pinned():
        scalar("SELECT set_config('app.tenant', '7', false)")
        snare = proxy.snare = Snare(READ, "before")
        with pytest.raises(OperationalError):
            retry_read(scalar)(READ)
    assert snare.sent == 1


def test_other_failures_are_raised_at_once(pooled):
    pool = pooled(mode="transaction", max_size=1)
    warm()
    pool.timeout = 0.1  # from here on: a connect may well take longer
    calls = []

    def fail(text: str) -> Any:
        calls.append(text)
        return scalar(text)

    with pytest.raises(DataError):
        retry_read(fail)("SELECT 1 / 0")
    with pool.lease(), pytest.raises(PoolTimeout):
        Call(lambda: retry_read(fail)("SELECT 1")).result()
    with pytest.raises(KeyError):
        retry_read(dict[str, str]().__getitem__)("none")
    assert calls == ["SELECT 1 / 0", "SELECT 1"]
    assert dict(pool.stats().retries) == {}


def test_an_error_of_the_projects_own_from_it_is_understood(pooled, proxy):
    pooled(mode="transaction")
    warm()

    class Missing(OperationalError):
        pass

    def translated() -> Any:
        try:
            return scalar(READ)
        except OperationalError as error:
            raise Missing from error

    proxy.snare = Snare(READ, "before")
    assert retry_read(translated)() == 1


@pytest.mark.parametrize("attempts", [0, -1, True, 1.5, "s3cret"])
def test_attempts_that_make_no_sense_are_refused(attempts):
    with pytest.raises(ValueError, match="attempts must be") as caught:
        retry_read(attempts=attempts)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("seconds", [0, -1.0, True, float("inf"), float("nan"), "s3cret"])
def test_seconds_that_make_no_sense_are_refused(seconds):
    with pytest.raises(ValueError, match="seconds must be") as caught:
        retry_read(seconds=seconds)
    assert "s3cret" not in str(caught.value)


def test_what_runs_after_the_call_is_refused():
    async def task() -> None: ...

    def rows() -> Any:
        yield 1

    with pytest.raises(TypeError, match="aretry_read"):
        retry_read(task)
    with pytest.raises(TypeError, match="generator"):
        retry_read(rows)
