"""One look of each check at a time, whoever asks, and however it ends."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from dataclasses import dataclass, field

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_poolkit.health.report import Result
from django_poolkit.health.runner import Runner
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import Call

pytestmark = pytest.mark.core


@dataclass(eq=False)
class Gate:
    """A check that takes as long as a test wants."""

    name: str = "gate"
    timeout: float | None = None
    cache: float | None = None
    result: Result | BaseException = field(default_factory=lambda: Result(name="x", status="pass"))
    looks: int = 0
    closed: int = 0

    def __post_init__(self):
        self.open = threading.Event()
        self.open.set()
        self.threads = set()

    def look(self, seconds):
        self.looks += 1
        self.threads.add(threading.get_ident())
        self.open.wait(30.0)
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result

    def close(self):
        self.closed += 1


@pytest.fixture
def runner():
    made = Runner()
    yield made
    made.close(5.0)


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open.set()


def ask(runner, *checks, timeout=5.0, cache=60.0):
    return runner.ask(checks, timeout=timeout, cache=cache).results()


def aask(runner, *checks, timeout=5.0, cache=60.0):
    return runner.ask(checks, timeout=timeout, cache=cache).aresults()


def look(runner, *checks, timeout=None, default=5.0):
    return runner.look(checks, timeout=timeout, default=default).results()


# -- the usual


def test_a_result_bears_the_name_of_the_check_and_its_time(runner, gate):
    before = time.monotonic()
    [result] = ask(runner, gate)
    assert (result.name, result.status, result.reason) == ("gate", "pass", None)
    assert before <= result.observed <= time.monotonic()
    assert 0 <= result.latency < 1.0


def test_what_the_check_says_of_its_latency_holds(runner, gate):
    gate.result = Result(name="x", status="pass", latency=0.25)
    assert ask(runner, gate)[0].latency == 0.25


def test_a_result_holds_for_its_time(runner, gate):
    first = ask(runner, gate)
    assert ask(runner, gate) == first
    assert gate.looks == 1
    assert ask(runner, gate, cache=0.0) != first
    assert gate.looks == 2


def test_a_checks_own_times_come_first(runner, gate):
    gate.cache = 0.0
    ask(runner, gate)
    ask(runner, gate)
    assert gate.looks == 2
    gate.timeout = 0.05
    gate.open.clear()
    assert ask(runner, gate)[0].reason == "timeout"


def test_to_look_asks_anew(runner, gate):
    ask(runner, gate)
    [result] = look(runner, gate)
    assert (gate.looks, result.status) == (2, "pass")
    gate.timeout = 60.0
    gate.open.clear()
    assert look(runner, gate, timeout=0.05)[0].reason == "timeout"


def test_checks_are_looked_at_at_the_same_time(runner):
    barrier = threading.Barrier(3)

    class Meeting(Gate):
        def look(self, seconds):
            barrier.wait(5.0)
            return self.result

    results = ask(runner, *(Meeting(name) for name in "abc"))
    assert [(each.name, each.status) for each in results] == [
        ("a", "pass"), ("b", "pass"), ("c", "pass"),
    ]  # fmt: skip


# -- many ask


def test_however_many_ask_there_is_one_look_and_one_thread(runner, gate):
    gate.open.clear()
    callers = [Call(ask, runner, gate) for _ in range(50)]

    async def tasks():
        waiting = [asyncio.create_task(aask(runner, gate)) for _ in range(150)]
        await asyncio.sleep(0)
        gate.open.set()
        return await asyncio.gather(*waiting)

    wait_until(lambda: gate.looks == 1, message="nobody looks")
    results = [*asyncio.run(tasks()), *(caller.result() for caller in callers)]
    assert len(results) == 200
    assert {each.observed for [each] in results} == {results[0][0].observed}
    assert (gate.looks, len(gate.threads)) == (1, 1)


def test_who_asks_on_an_event_loop_does_not_hold_it_up_and_uses_no_thread(runner, gate):
    gate.open.clear()

    async def main():
        before = threading.active_count()
        waiting = asyncio.create_task(aask(runner, gate))
        turns = 0
        while gate.looks == 0 or turns < 100:
            await asyncio.sleep(0)
            turns += 1
        assert threading.active_count() == before + 1  # that of the check
        assert not waiting.done()
        gate.open.set()
        return await waiting

    assert asyncio.run(main())[0].status == "pass"


# -- it takes too long


def test_who_waits_is_told_in_time_and_the_look_goes_on(runner, gate):
    gate.open.clear()
    started = time.monotonic()
    [result] = ask(runner, gate, timeout=0.2)
    assert 0.2 <= time.monotonic() - started < 0.5
    assert (result.status, result.reason) == ("fail", "timeout")
    assert 0.2 <= result.latency < 0.5
    assert runner._slots["gate"].flight is not None


def test_on_an_event_loop_too(runner, gate):
    gate.open.clear()
    started = time.monotonic()
    [result] = asyncio.run(aask(runner, gate, timeout=0.2))
    assert 0.2 <= time.monotonic() - started < 0.5
    assert result.reason == "timeout"


def test_several_that_hang_take_no_longer_than_one(runner):
    gates = [Gate(name) for name in "abcd"]
    for each in gates:
        each.open.clear()
    started = time.monotonic()
    results = ask(runner, *gates, timeout=0.2)
    assert time.monotonic() - started < 0.5
    assert {each.reason for each in results} == {"timeout"}
    for each in gates:
        each.open.set()


def test_who_comes_later_is_told_at_once_and_begins_no_second_look(runner, gate):
    gate.open.clear()
    ask(runner, gate, timeout=0.1)
    threads = threading.active_count()
    started = time.monotonic()
    for _ in range(100):
        assert ask(runner, gate, timeout=0.1)[0].reason == "timeout"
        assert asyncio.run(aask(runner, gate, timeout=0.1))[0].reason == "timeout"
    assert time.monotonic() - started < 3.0
    assert (gate.looks, threading.active_count()) == (1, threads)
    # Nobody who has left is remembered.
    assert runner._slots["gate"].flight._wakers == set()


def test_a_look_that_ends_late_has_failed(runner, gate):
    gate.open.clear()
    ask(runner, gate, timeout=0.1)
    gate.open.set()
    wait_until(lambda: runner._slots["gate"].flight is None, message="it does not end")
    [result] = ask(runner, gate, timeout=0.1)
    assert (gate.looks, result.status, result.reason) == (1, "fail", "timeout")
    assert ask(runner, gate, cache=0.0)[0].status == "pass"


def test_a_late_failure_keeps_its_own_reason(runner, gate):
    gate.open.clear()
    gate.result = Result(name="x", status="fail", reason="unreachable")
    ask(runner, gate, timeout=0.1)
    gate.open.set()
    wait_until(lambda: runner._slots["gate"].flight is None, message="it does not end")
    assert ask(runner, gate)[0].reason == "unreachable"


# -- it ends otherwise


@pytest.mark.parametrize("error", [ValueError("s3cret"), SystemExit("s3cret"), KeyboardInterrupt()])
def test_a_check_that_raises_has_failed_and_its_thread_goes_on(runner, gate, error, caplog):
    gate.result = error
    [result] = ask(runner, gate)
    assert (result.status, result.reason) == ("fail", "unknown")
    assert f"error={type(error).__name__}\n" in caplog.text
    assert "in look" in caplog.text  # where it was raised
    assert "s3cret" not in caplog.text
    gate.result = Result(name="x", status="pass")
    assert ask(runner, gate, cache=0.0)[0].status == "pass"
    assert len(gate.threads) == 1


def test_a_thread_that_died_in_a_look_is_replaced_when_the_look_is_late(runner, gate, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    fly = runner._fly

    def die(*args):
        raise SystemExit

    monkeypatch.setattr(runner, "_fly", die)
    assert ask(runner, gate, timeout=0.1)[0].reason == "timeout"
    monkeypatch.setattr(runner, "_fly", fly)
    wait_until(lambda: not runner._slots["gate"].worker.alive, message="it lives")
    assert ask(runner, gate, timeout=0.1)[0].status == "pass"


def test_a_check_that_the_settings_do_not_fit_says_so(runner, gate):
    gate.result = ImproperlyConfigured("s3cret")
    assert ask(runner, gate)[0].reason == "config_error"


def test_where_there_is_no_thread_the_check_fails(runner, gate, monkeypatch, caplog):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        [result] = ask(runner, gate)
    assert (result.status, result.reason) == ("fail", "unknown")
    assert "event=no_thread" in caplog.text
    assert ask(runner, gate, cache=0.0)[0].status == "pass"


def test_a_caller_that_is_cancelled_leaves_and_the_others_get_their_answer(runner, gate):
    gate.open.clear()

    async def main():
        first, second = (asyncio.create_task(aask(runner, gate)) for _ in range(2))
        await asyncio.sleep(0)  # by then both have begun to wait
        flight = runner._slots["gate"].flight
        assert len(flight._wakers) == 2
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert len(flight._wakers) == 1
        gate.open.set()
        return await second

    assert asyncio.run(main())[0].status == "pass"
    assert gate.looks == 1


def test_a_caller_whose_loop_is_closed_harms_nobody(runner, gate):
    gate.open.clear()
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(aask(runner, gate))
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    assert len(runner._slots["gate"].flight._wakers) == 1
    loop.close()
    other = Call(ask, runner, gate)
    gate.open.set()
    assert other.result()[0].status == "pass"
    assert not waiting.done()
    waiting._log_destroy_pending = False  # type: ignore[attr-defined]
    del waiting
    gc.collect()


def test_a_check_that_is_another_one_now_is_asked_anew(runner, gate):
    ask(runner, gate)
    other = Gate(result=Result(name="x", status="warn"))
    assert ask(runner, other)[0].status == "warn"
    wait_until(lambda: gate.closed == 1, message="the old one is left")


# -- life


def test_closing_ends_the_threads_and_what_they_keep(runner):
    gates = [Gate(name) for name in "ab"]
    ask(runner, *gates)
    workers = [slot.worker for slot in runner._slots.values()]
    runner.close(5.0)
    assert [each.closed for each in gates] == [1, 1]
    assert not any(worker.alive for worker in workers)
    assert ask(runner, *gates)[0].status == "pass"


def test_closing_does_not_wait_for_what_hangs(runner, gate):
    gate.open.clear()
    ask(runner, gate, timeout=0.05)
    worker = runner._slots["gate"].worker
    started = time.monotonic()
    runner.close(0.2)
    assert time.monotonic() - started < 0.5
    gate.open.set()
    wait_until(lambda: not worker.alive, message="it does not end")
    assert gate.closed == 1


def test_what_raises_as_it_is_closed_is_told_of(runner, gate, caplog):
    error = ValueError("s3cret")

    def close():
        raise error

    gate.close = close
    ask(runner, gate)
    worker = runner._slots["gate"].worker
    runner.close(5.0)
    assert not worker.alive
    assert "check=gate event=check_failed error=ValueError" in caplog.text
    assert "s3cret" not in caplog.text


def test_a_forked_child_has_neither_results_nor_looks_of_its_parent(runner, gate):
    gate.open.clear()
    ask(runner, gate, timeout=0.05)
    parents = runner._slots["gate"].worker
    # As a fork while another thread decides: nobody in the child will ever release it.
    runner._lock.acquire()
    runner.after_fork()
    other = Gate()
    assert ask(runner, other)[0].status == "pass"
    gate.open.set()
    parents.stop(5.0)


def test_a_change_is_told_of_once(runner, gate, caplog):
    caplog.set_level(logging.INFO, "django_poolkit.health")

    def lines():
        return [record.getMessage() for record in caplog.records]

    ask(runner, gate, cache=0.0)
    assert lines() == []
    gate.result = Result(name="x", status="fail", reason="unreachable", latency=0.5)
    ask(runner, gate, cache=0.0)
    ask(runner, gate, cache=0.0)
    wait_until(lines, message="it is not told of")
    assert lines() == ["check=gate event=health status=fail reason=unreachable seconds=0.500"]
    assert caplog.records[0].levelno == logging.WARNING
    gate.result = Result(name="x", status="pass", latency=0.25)
    ask(runner, gate, cache=0.0)
    wait_until(lambda: len(lines()) == 2, message="it is not told of")
    assert lines()[1] == "check=gate event=health status=pass reason=None seconds=0.250"
    assert caplog.records[1].levelno == logging.INFO
