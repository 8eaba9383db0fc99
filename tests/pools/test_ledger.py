"""The ledger: counts, ages and live leases."""

from __future__ import annotations

import gc
import time
import weakref
from types import SimpleNamespace

import pytest
from psycopg import pq

from django_poolkit.pools import ledger as ledger_module
from django_poolkit.pools.lease import Lease, capture_stack
from django_poolkit.pools.ledger import Ledger, describe

pytestmark = pytest.mark.core


class Home:
    name = "home"
    statements = None
    greeting: object = None
    fenced = 0

    def adrift(self, lease):
        raise NotImplementedError

    def count_pin(self, reason):
        raise NotImplementedError

    def rest(self, lease):
        raise NotImplementedError

    def rouse(self, lease, depth, skip):
        raise NotImplementedError

    def end_rest(self, lease):
        raise NotImplementedError

    def release(self, lease):
        raise NotImplementedError

    def discard(self, lease):
        raise NotImplementedError

    def lost(self, lease):
        pass


@pytest.fixture
def ledger():
    return Ledger()


@pytest.fixture
def lend(ledger):
    home = Home()

    def lend(now, connection=None):
        lease = Lease(home, ledger.new_key(), ())
        ledger.lend_locked(lease, connection or object(), now)
        return lease

    return lend


def test_keys_are_never_given_twice(ledger):
    assert len({ledger.new_key() for _ in range(100)}) == 100


def test_a_lease_is_entered_and_struck_out_once(ledger, lend):
    lease = lend(10.0)
    assert (ledger.acquired, len(ledger.live)) == (1, 1)
    assert lease.since == 10.0
    assert ledger.settle_locked(lease, 12.0)
    assert not ledger.settle_locked(lease, 13.0)
    assert ledger.live == {}
    assert ledger.use.snapshot().sum == 2.0
    assert ledger.use.snapshot().count == 1


def test_what_was_lent_in_vain_is_not_counted(ledger, lend):
    lease = lend(10.0)
    key = lease.key
    ledger.revoke_locked(lease)
    assert (ledger.acquired, ledger.live) == (0, {})
    assert lease.connection is None
    assert lease.key != key
    assert ledger.use.snapshot().count == 0


def test_the_oldest_lease(ledger, lend):
    assert ledger.oldest_locked(10.0) == 0.0
    first, second = lend(1.0), lend(2.0)
    assert ledger.oldest_locked(10.0) == 9.0
    ledger.settle_locked(first, 10.0)
    assert ledger.oldest_locked(10.0) == 8.0
    ledger.settle_locked(second, 10.0)
    assert ledger.oldest_locked(10.0) == 0.0


def test_a_lease_is_held_weakly_and_its_slot_stays_until_it_is_settled(ledger, lend):
    lease = lend(1.0)
    key = lease.key
    del lease
    gc.collect()
    assert list(ledger.live) == [key]
    assert ledger.leases_locked() == []
    assert ledger.oldest_locked(10.0) == 0.0
    assert ledger.overdue_locked(1.0, 10.0) == []


def test_an_overdue_lease_is_reported_once(ledger, lend):
    old, young = lend(1.0), lend(9.0)
    assert ledger.overdue_locked(5.0, 10.0) == [old]
    assert ledger.overdue_locked(5.0, 11.0) == []
    assert ledger.overdue_locked(5.0, 15.0) == [young]


def test_who_is_overdue_is_marked_and_counted(ledger, lend):
    leases = [lend(1.0), lend(2.0), lend(5.0)]
    assert ledger.overdue_locked(5.0, 10.0) == leases[:2], "the last for no longer than that"
    assert [lease.overdue for lease in leases] == [True, True, False]
    assert ledger.overdue == 2


def test_a_new_ledger_has_nothing_to_tell(ledger):
    assert [ledger.new_key(), ledger.new_key()] == [1, 2]
    for counts in (ledger.closed, ledger.pins, ledger.evictions, ledger.read_retries):
        assert counts == {}
    assert ledger.retries == {}
    assert ledger.last_connect_error is None
    assert ledger.last_check_error is None


def test_reports_are_forgotten_with_their_lease(ledger, lend):
    lease = lend(1.0)
    ledger.overdue_locked(1.0, 10.0)
    ledger.settle_locked(lease, 10.0)
    assert not ledger.reported


def test_leases_are_listed_oldest_first(ledger, lend):
    leases = [lend(float(n)) for n in range(3)]
    assert ledger.leases_locked() == leases


def test_a_lease_is_described_without_a_live_connection(lend):
    class Dead:
        closed = True

    lease = lend(0.0, Dead())
    lease.stack = capture_stack(skip=0)
    described = describe(lease)
    assert described.backend_pid == 0
    assert described.thread == lease.thread
    assert described.seconds > 0
    assert "test_a_lease_is_described" in described.stack[0]


class Server:
    """A connection that answers as psycopg's does."""

    closed = False

    info = SimpleNamespace(backend_pid=4711, transaction_status=pq.TransactionStatus.INTRANS)


def test_turns_that_are_over_count_as_leases_of_their_own(ledger, lend):
    resting = lend(10.0)
    lend(11.0)
    ledger.turns += [0.25, 0.5, 2.0]
    ledger.count_turns_locked()
    assert not ledger.turns
    assert ledger.acquired == 2 + 3
    assert (ledger.use.snapshot().count, ledger.use.snapshot().sum) == (3, 2.75)
    assert ledger.settle_locked(resting, 14.0)
    assert ledger.acquired == 2 + 3
    assert (ledger.use.snapshot().count, ledger.use.snapshot().sum) == (4, 2.75 + 4.0)


def test_a_lease_that_was_lent_in_vain_may_be_lent_again(ledger, lend):
    lease = lend(1.0)
    assert ledger.overdue_locked(5.0, 10.0) == [lease]
    ledger.revoke_locked(lease)
    assert not ledger.reported
    key = lease.key
    ledger.revoke_locked(lease)  # that of a pool which has forgotten it, as in a forked child
    assert key != lease.key
    ledger.lend_locked(lease, object(), 20.0)
    assert list(ledger.live) == [lease.key]
    assert lease.key == key + 1


def test_a_standstill_is_counted_from_the_last_begin_or_end(ledger, lend):
    assert ledger.standstill_locked(10.0) == 0.0
    early = lend(0.25)
    assert ledger.standstill_locked(1.25) == 1.0
    ledger.revoke_locked(early)
    first = lend(11.0)
    assert ledger.standstill_locked(14.0) == 3.0
    second = lend(12.0)
    assert ledger.standstill_locked(14.0) == 2.0
    ledger.settle_locked(first, 13.0)
    assert ledger.standstill_locked(14.0) == 1.0
    ledger.settle_locked(second, 14.0)
    assert ledger.standstill_locked(20.0) == 0.0
    assert lend(5.0) in ledger.leases_locked()


def test_leases_that_died_without_a_word_are_struck_out_and_counted(ledger, lend):
    kept = lend(1.0)
    for _ in range(2):
        lost = [lend(1.0), lend(2.0)]
        assert set(lost) <= set(ledger.overdue_locked(0.5, 10.0))
        del lost
        gc.collect()
        assert ledger.purge_locked() == 2
        assert list(ledger.live) == [kept.key]
        assert ledger.reported == {kept.key}
    assert ledger.purge_locked() == 0
    assert (ledger.leaks, ledger.closed) == (4, {"lost": 4})


def test_of_those_that_were_struck_out_the_latest_are_remembered(ledger, lend, monkeypatch):
    monkeypatch.setattr(ledger_module, "PURGED", 2)
    keys = [lend(1.0).key for _ in range(3)]
    gc.collect()
    assert ledger.purge_locked() == 3
    assert list(ledger.purged) == keys[1:]
    keys.append(lend(1.0).key)
    gc.collect()
    assert ledger.purge_locked() == 1
    assert list(ledger.purged) == keys[2:]


def test_a_lease_is_described_as_the_server_sees_it(lend):
    class Asking:
        def where(self):
            return "orders:list"

    lease = lend(time.monotonic() - 100.0, Server())
    asking = Asking()
    lease.context = weakref.ref(asking)
    lease.statement = "select secret from orders"
    described = describe(lease)
    assert (described.key, described.thread) == (lease.key, lease.thread)
    assert described.where == "orders:list"
    assert described.statement == "SELECT"
    assert (described.status, described.backend_pid) == ("intrans", 4711)
    assert described.pinned is None
    assert 100.0 <= described.seconds < 100.0 + 60.0
    lease.pinned = "LISTEN"
    assert describe(lease).pinned == "LISTEN"


class ClosedMeanwhile:
    """A connection whose owner closes it as soon as somebody has seen it open."""

    def __init__(self, real):
        self._real = real
        self.info = real.info

    @property
    def closed(self):
        before = self._real.closed
        self._real.close()
        return before


def test_a_lease_can_be_described_while_its_owner_closes_the_connection(lend, primary):
    described = describe(lend(0.0, ClosedMeanwhile(primary.connect())))
    assert (described.status, described.backend_pid) == ("unknown", 0)


def test_nothing_is_made_up_of_a_lease_without_connection_context_and_statement(lend):
    lease = lend(0.0)
    lease._connection = None
    described = describe(lease)
    assert (described.status, described.backend_pid) == ("unknown", 0)
    assert (described.where, described.statement) == (None, None)
