"""Runs checks: one look of each at a time, however many ask, and in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from django_poolkit.health.base import Check
from django_poolkit.health.flight import Flight, overdue
from django_poolkit.health.report import Result
from django_poolkit.health.worker import Worker
from django_poolkit.lifespan.base import stack_of
from django_poolkit.pools.endings import at_end
from django_poolkit.pools.forks import in_child

logger = logging.getLogger("django_poolkit.health")

# Seconds for the threads at the end of the process.
_FAREWELL: Final = 1.0


@dataclass(slots=True)
class _Slot:
    check: Check
    worker: Worker
    result: Result | None = None
    """The newest."""
    flight: Flight | None = None
    """The look that is under way."""


class Asked:
    """What some checks say: results that are still good, and looks that are under way."""

    def __init__(self, answers: Sequence[Result | Flight]) -> None:
        self._answers = answers

    def results(self) -> list[Result]:
        """Return all results. Blocks for as long as the slowest look may take."""
        return [each.result() if isinstance(each, Flight) else each for each in self._answers]

    async def aresults(self) -> list[Result]:
        """Return all results, without blocking the running event loop."""
        return [
            await each.aresult() if isinstance(each, Flight) else each for each in self._answers
        ]


class Runner:
    """The checks of this process that have been asked for."""

    def __init__(self) -> None:
        # Kept by a forked child: what checks of its parent have open is not the child's to close.
        self._inherited: list[Any] = []
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()  # guards the slots and what is in them
        self._slots: dict[str, _Slot] = {}

    def ask(self, checks: Iterable[Check], *, timeout: float, cache: float) -> Asked:
        """Begin to look at what was not looked at within `cache` seconds. Does not block.

        What a check says of its own `timeout` and `cache` comes first.
        """
        answers: list[Result | Flight] = []
        for check in checks:
            seconds = timeout if check.timeout is None else check.timeout
            fresh = cache if check.cache is None else check.cache
            answer = self._answer(check, seconds, fresh)
            answers.append(answer)
        return Asked(answers)

    def look(self, checks: Iterable[Check], *, timeout: float | None, default: float) -> Asked:
        """Begin to look at all of them now, whatever was found before. Does not block.

        `timeout` is for all, `default` where it is None and a check has no other of its own.
        """
        answers: list[Result | Flight] = []
        for check in checks:
            own = default if check.timeout is None else check.timeout
            answers.append(self._answer(check, own if timeout is None else timeout, 0.0))
        return Asked(answers)

    def clear(self) -> None:
        """Forget all results, and let the threads end."""
        self.close(0.0)

    def close(self, timeout: float) -> None:
        """End all threads, and close what they have kept. Blocks for `timeout` at most."""
        deadline = monotonic() + timeout
        with self._lock:
            slots, self._slots = list(self._slots.values()), {}
        for slot in slots:
            if slot.worker.alive:
                slot.worker.stop(max(0.0, deadline - monotonic()))

    def after_fork(self) -> None:
        """Begin anew in a forked child."""
        self._inherited.append(self._slots)
        self._reset()

    def _answer(self, check: Check, seconds: float, cache: float) -> Result | Flight:
        with self._lock:
            slot = self._slots.get(check.name)
            gone = None
            if slot is None or slot.check != check:  # the settings have changed
                gone = slot
                slot = self._slots[check.name] = _new(check)
            if slot.result is not None and monotonic() - slot.result.observed < cache:
                return slot.result
            flight = slot.flight
            # A look never ends whose thread has died.
            begins = flight is None or (flight.late and not slot.worker.alive)
            if begins or flight is None:
                flight = slot.flight = Flight(check.name, seconds)
        if gone is not None and gone.worker.alive:
            gone.worker.stop(0.0)
        if begins:
            self._begin(slot, flight)
        return flight

    def _begin(self, slot: _Slot, flight: Flight) -> None:
        try:
            slot.worker.run(partial(self._fly, slot, flight))
        except RuntimeError as error:  # the system gives no thread
            logger.warning("check=%s event=no_thread error=%s", flight.name, error)
            now = monotonic()
            result = Result(name=flight.name, status="fail", reason="unknown", observed=now)
            self._land(slot, flight, result)

    def _fly(self, slot: _Slot, flight: Flight) -> None:
        """Look, and say what came of it. Raises nothing."""
        started = monotonic()
        try:
            result = slot.check.look(flight.seconds)
        except ImproperlyConfigured as error:
            _say(flight.name, error)
            result = Result(name=flight.name, status="fail", reason="config_error")
        except BaseException as error:
            _say(flight.name, error)
            result = Result(name=flight.name, status="fail", reason="unknown")
        now = monotonic()
        if flight.late and result.status != "fail":
            # Those who waited have been told so, and those who come now must hear the same.
            result = replace(overdue(flight.name, started), figures=result.figures)
        latency = now - started if result.latency is None else result.latency
        result = replace(result, name=flight.name, latency=latency, observed=now)
        self._land(slot, flight, result)

    def _land(self, slot: _Slot, flight: Flight, result: Result) -> None:
        with self._lock:
            before = slot.result
            if slot.flight is flight:
                slot.flight, slot.result = None, result
        flight.land(result)
        if (before.status if before else "pass") != result.status:
            level = logging.INFO if result.status == "pass" else logging.WARNING
            logger.log(
                level, "check=%s event=health status=%s reason=%s seconds=%.3f",
                result.name, result.status, result.reason, result.latency or 0.0,
            )  # fmt: skip


def _new(check: Check) -> _Slot:
    def farewell() -> None:
        try:
            check.close()
        except BaseException as error:
            _say(check.name, error)

    return _Slot(check, Worker(check.name, farewell))


def _say(name: str, error: BaseException) -> None:
    # Of the text nothing, not even here: it may hold a part of a password.
    logger.error(
        "check=%s event=check_failed error=%s\n%s", name, type(error).__name__, stack_of(error)
    )


runner: Final = Runner()
"""That of this process."""


def _settings_changed(*, setting: str, **kwargs: Any) -> None:
    if setting in ("POOLKIT", "DATABASES"):  # in a test
        runner.clear()


setting_changed.connect(_settings_changed)
in_child(runner.after_fork)
at_end(runner.close, _FAREWELL)
