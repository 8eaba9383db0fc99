"""What runs in the pool's own threads: outages, and leases that are held for too long."""

from __future__ import annotations

import logging
import re
import threading
import time
from typing import Any

import pytest

from django_poolkit.pools.events import Observer
from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres.errors import PoolTimeout
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import Call, fill, queue_up


@pytest.fixture
def outage(proxy):
    """A network that refuses new connects and has cut the old ones."""

    def begin():
        proxy.refuse()
        proxy.drop()

    return begin


def wait_for_errors(pool, more):
    """Wait until so many more connects have failed."""
    goal = pool.stats().connect_errors + more
    wait_until(lambda: pool.stats().connect_errors >= goal)


class TestOutage:
    def test_who_waits_is_served_when_it_is_over(self, far_pool, proxy, outage):
        pool = far_pool(max_size=4, reconnect_cap=0.5, timeout=30.0)
        fill(pool, 4)
        outage()
        calls = [queue_up(pool, pool.acquire) for _ in range(6)]
        wait_until(lambda: pool.stats().connect_errors >= 6)
        proxy.accept()
        over = time.monotonic()
        leases = [call.result() for call in calls[:4]]
        # A pause is at most a tenth above the cap; three times that for a busy machine.
        assert time.monotonic() - over < 0.5 * 1.1 * 3
        for lease in leases:
            lease.release()
        for call in calls[4:]:
            call.result().release()
        assert pool.stats().last_connect_error is None

    def test_a_new_waiter_makes_a_new_attempt(self, far_pool, proxy, outage):
        """However long the pause that the last one is in."""
        pool = far_pool(max_size=4, num_workers=1, reconnect_cap=600.0, timeout=30.0)
        fill(pool, 1)
        outage()
        first = queue_up(pool, pool.acquire)
        wait_until(lambda: pool.stats().connect_errors == 1)
        with pool._lock:
            [attempt] = pool._growth.attempts
            attempt.pause = 600.0
        wait_until(lambda: pool.stats().connect_errors == 2)  # its next pause lasts 10 minutes
        wait_until(lambda: attempt.sleeping)
        proxy.accept()
        wait_until(lambda: time.monotonic() - pool._growth._woken_at > 0.2)
        second = Call(pool.acquire)
        first.result(5.0).release()
        second.result(5.0).release()

    def test_a_success_wakes_all(self, far_pool, proxy, outage):
        pool = far_pool(max_size=4, reconnect_cap=600.0, timeout=30.0)
        fill(pool, 1)
        outage()
        calls = [queue_up(pool, pool.acquire) for _ in range(3)]
        wait_until(lambda: pool.stats().connect_errors >= 3)
        attempts = list(pool._growth.attempts)
        assert len(attempts) == 3
        with pool._lock:
            for attempt in attempts:
                attempt.pause = 600.0
        wait_until(lambda: all(a.sleeping and a.pause == 600.0 for a in attempts))
        proxy.accept()
        wait_until(lambda: time.monotonic() - pool._growth._woken_at > 0.2)
        calls.append(Call(pool.acquire))
        for lease in [call.result(5.0) for call in calls]:
            lease.release()

    def test_attempts_are_bounded_in_number_and_rate(self, far_pool, proxy, outage):
        pool = far_pool(max_size=20, num_workers=3, timeout=1.0)
        fill(pool, 1)
        outage()
        before = proxy.connections
        calls = [Call(pool.acquire) for _ in range(40)]
        most = [0]

        def ended():
            most[0] = max(most[0], pool.stats().connecting)
            return not any(call.is_alive() for call in calls)

        wait_until(ended)
        for call in calls:
            with pytest.raises(PoolTimeout):
                call.result()
        assert most[0] <= 3
        # 0.1, 0.2, 0.4 … s between the tries of each of the three, and one woken each 0.1 s.
        assert pool.stats().connect_errors <= 3 * 5 + 12
        assert proxy.connections == before
        wait_until(lambda: pool.stats().connecting == 0)

    def test_the_error_says_what_is_wrong_and_not_where(self, far_pool, proxy, outage, params):
        pool = far_pool(max_size=4, name="orders")
        fill(pool, 2)
        outage()
        started = time.monotonic()
        with pytest.raises(PoolTimeout) as caught:
            pool.acquire(timeout=0.5)
        assert 0.45 <= time.monotonic() - started < 1.5
        text = str(caught.value)
        assert text.startswith("pool 'orders': no connection within 0.50 s (used 0/4, idle 0, ")
        assert "last connect error: OperationalError [08001]: " in text
        assert "refused" in text
        for secret in (proxy.host, str(proxy.port), params["password"]):
            assert secret not in text
        stats = caught.value.stats
        assert stats is not None
        assert stats.connect_errors >= 1
        assert stats.closed == {"dead": 2}

    def test_reconnect_failed_is_called_once_an_outage(self, far_pool, proxy, outage):
        called: list[object] = []
        names: list[str] = []

        def failed(pool):
            called.append(pool)
            names.append(threading.current_thread().name)

        pool = far_pool(
            max_size=1, timeout=30.0, reconnect_timeout=0.3, reconnect_cap=0.1,
            reconnect_failed=failed,
        )  # fmt: skip
        for number in (1, 2):
            fill(pool, 1)
            outage()
            call = queue_up(pool, pool.acquire)
            wait_for_errors(pool, 12)
            assert called == [pool] * number
            proxy.accept()
            call.result().release()
        assert all("worker" in name for name in names)

    def test_a_minimum_is_restored_with_nobody_waiting(self, far_pool, proxy, outage):
        pool = far_pool(min_size=2, max_size=4, reconnect_cap=0.2, max_idle=0.4)
        pool.open(wait=True, timeout=5.0)
        outage()
        wait_until(lambda: pool.stats().connect_errors >= 3)
        proxy.accept()
        wait_until(lambda: pool.stats().idle == 2)

    def test_opening_without_a_server_says_why(self, far_pool, proxy):
        proxy.refuse()
        pool = far_pool(min_size=1, name="orders")
        with pytest.raises(PoolTimeout, match=r"pool 'orders': .*\[08001\]") as caught:
            pool.open(wait=True, timeout=0.5)
        assert caught.value.pool == "orders"


def of_overdue(heard: list[str]) -> Observer:
    """Note the events of leases that are held for too long, and no others."""

    def note(event: str, facts: Any) -> None:
        if event in ("lease_leaked", "lease_returned"):
            heard.append(event)

    return note


class TestOverdue:
    def test_it_is_reported_once_with_its_stack(self, make_pool, caplog):
        caplog.set_level(logging.WARNING, "django_poolkit.pool")
        heard: list[str] = []
        pool = make_pool(max_size=2, leak_after=0.2)
        pool.events.subscribe(of_overdue(heard))
        lease = pool.acquire()
        lease.connection.execute("SELECT 'a secret'")
        wait_until(lambda: heard == ["lease_leaked"])
        wait_until(lambda: lease.seconds() > 0.8)
        assert heard == ["lease_leaked"]
        [record] = [r for r in caplog.records if "event=overdue" in r.getMessage()]
        assert record.levelname == "WARNING"
        acquired, now = record.getMessage().split("Its thread is now at:")
        assert "test_it_is_reported_once_with_its_stack" in acquired
        assert "test_it_is_reported_once_with_its_stack" in now
        assert "wait_until" in now
        assert "statement=SELECT" in acquired
        assert "secret" not in record.getMessage()
        assert not lease.released
        lease.release()
        assert (pool.stats().overdue, pool.stats().leaks) == (1, 0)

    def test_its_return_is_said_once(self, make_pool, caplog):
        caplog.set_level(logging.INFO, "django_poolkit.pool")
        heard: list[str] = []
        pool = make_pool(max_size=1, leak_after=0.1)
        pool.events.subscribe(of_overdue(heard))
        lease = pool.acquire()
        wait_until(lambda: heard == ["lease_leaked"])
        lease.release()
        assert heard == ["lease_leaked", "lease_returned"]
        [record] = [r for r in caplog.records if "event=overdue_returned" in r.getMessage()]
        assert record.levelname == "INFO"
        assert f"lease={lease.key}" in record.getMessage()
        pool.acquire().release()
        assert pool.stats().overdue == 1
        assert len([r for r in caplog.records if "overdue_returned" in r.getMessage()]) == 1

    def test_of_a_thread_that_has_ended_there_is_nothing_to_see(self, make_pool, caplog):
        caplog.set_level(logging.WARNING, "django_poolkit.pool")
        pool = make_pool(max_size=1, leak_after=0.1)
        leases: list[Lease] = []
        thread = threading.Thread(target=lambda: leases.append(pool.acquire()))
        thread.start()
        thread.join()
        wait_until(lambda: pool.stats().overdue == 1)
        wait_until(lambda: "(it has ended)" in caplog.text)
        leases.pop().release()

    def test_a_short_one_is_not(self, make_pool):
        heard: list[str] = []
        pool = make_pool(max_size=1, leak_after=0.4)
        pool.events.subscribe(of_overdue(heard))
        start = time.monotonic()
        while time.monotonic() - start < 0.8:
            with pool.acquire() as connection:
                connection.execute("SELECT pg_sleep(0.05)")
        assert heard == []


def test_what_is_recycled_while_it_connects_is_old_at_birth(make_pool):
    gate, at = threading.Event(), threading.Event()

    def configure(connection):
        at.set()
        assert gate.wait(10.0)

    pool = make_pool(max_size=1, configure=configure)
    call = queue_up(pool, pool.acquire)
    assert at.wait(10.0)
    pool.recycle()
    gate.set()
    call.result().release()
    assert pool.stats().closed == {"recycled": 1}
    assert pool.stats().connects == 2


def test_an_outage_is_told_in_few_lines_that_add_up(far_pool, proxy, caplog):
    """A large minimum, none of which can be made."""
    caplog.set_level(logging.WARNING, "django_poolkit.pool")
    proxy.refuse()
    pool = far_pool(min_size=20, max_size=20, reconnect_cap=0.2)
    pool.open()
    wait_until(lambda: pool.stats().connect_errors >= 60)
    pool.close()
    failed = pool.stats().connect_errors
    said = [int(n) for n in re.findall(r"event=connect_failed times=(\d+) error=", caplog.text)]
    assert said[0] == 1
    assert len(said) < failed / 3
    # What came after the last line is told with the next one.
    assert sum(said) + sum(times for _, times in pool._ledger._failures._said.values()) == failed
