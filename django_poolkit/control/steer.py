"""What `poolctl` does: give a command to processes, then wait until it has come true in each."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from django_poolkit.conf.control import ControlConfig
from django_poolkit.control import orders
from django_poolkit.control.client import Answer, ask_all, look_in
from django_poolkit.control.orders import Order
from django_poolkit.control.outcome import Outcome

_INTERVAL: Final = 0.1
Status = Mapping[str, Any]
Leases = list[Mapping[str, Any]]
Look = Callable[[Status], tuple[bool, Leases]]
"""Looks at a process: whether something has still to happen, and which leases keep it from that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Which pools are meant. None means all."""

    databases: tuple[str, ...] | None = None
    pids: frozenset[int] | None = None

    def arguments(self) -> dict[str, Any]:
        """Return the part of a command's arguments that says which pools."""
        return {} if self.databases is None else {"databases": list(self.databases)}


# -- the commands


def pause(config: ControlConfig, target: Target, *, seconds: float, wait: float) -> Outcome:
    """Have nothing leased for `seconds`; wait until nothing is leased any more.

    Also holds for processes and pools that are born meanwhile, unless single processes are
    named. Blocks for `wait` seconds at most. Raises DirectoryRefused, OSError if the order for
    those cannot be left.
    """
    now = time.time()
    until = now + seconds
    standing = target.pids is None and os.geteuid() in config.steerers()
    if standing:
        for directory in look_in(config):
            order = Order(databases=target.databases, until=until, posted=now)
            orders.post(directory, order)
    outcome = _give(config, "pause", target, {"seconds": seconds, "until": until})
    if standing and not any(answer.error is None for answer in outcome.answers):
        _withdraw(config, target)  # nobody is paused, so nobody shall be
    outcome = _wait(config, target, outcome, _busy, min(wait, seconds))
    return replace(outcome, until=until)


def resume(config: ControlConfig, target: Target) -> Outcome:
    """End a pause, also for those yet to be born. Raises as `pause()`."""
    if target.pids is None and os.geteuid() in config.steerers():
        _withdraw(config, target)
    return _give(config, "resume", target)


def _withdraw(config: ControlConfig, target: Target) -> None:
    for directory in look_in(config):
        orders.withdraw(directory, target.databases)


def recycle(config: ControlConfig, target: Target, *, wait: float) -> Outcome:
    """Replace all connections; wait until those that are leased now have come home."""
    outcome = _give(config, "recycle", target)
    if wait <= 0:
        return outcome
    leased = _leases(_ask_status(config, target))
    return _wait(config, target, outcome, _still_there({lease["id"] for lease in leased}), wait)


def resize(
    config: ControlConfig, target: Target, *, wait: float, sizes: Mapping[str, int]
) -> Outcome:
    """Change `min_size`, `max_size` or both; wait until no pool is larger than that."""
    outcome = _give(config, "resize", target, sizes)
    return _wait(config, target, outcome, _too_large, wait) if wait > 0 else outcome


def drain(config: ControlConfig, target: Target) -> Outcome:
    """Have the processes sent no more requests: their readiness fails."""
    return _give(config, "drain", target)


def undrain(config: ControlConfig, target: Target) -> Outcome:
    """Take back `drain()`."""
    return _give(config, "undrain", target)


@dataclass(frozen=True, slots=True)
class LeaseId:
    """A lease among those of all processes."""

    pid: int
    pool: str
    key: int

    @classmethod
    def parse(cls, text: str) -> LeaseId:
        """Read `<pid>/<pool>/<key>`. Raises ValueError."""
        pid, _, rest = text.partition("/")
        pool, _, key = rest.rpartition("/")  # the name of a pool may hold a slash of its own
        if not (re.fullmatch("[0-9]+", pid) and pool and re.fullmatch("[0-9]+", key)):
            raise ValueError(f"{text!r} is no lease; poolstatus --leases shows their names")
        return cls(int(pid), pool, int(key))

    def __str__(self) -> str:
        return f"{self.pid}/{self.pool}/{self.key}"


def kill(config: ControlConfig, leases: Iterable[LeaseId], *, wait: float) -> Outcome:
    """Take connections away from those who lease them; wait until the leases are gone."""
    wanted = {str(lease): lease for lease in leases}
    target = Target(pids=frozenset(lease.pid for lease in wanted.values()))
    answers = _ask_status(config, target)
    silent = {answer.pid for answer in answers if answer.error is not None}
    alive = {lease["id"] for lease in _leases(answers)}
    refused = []
    for name in wanted.keys() & alive:
        lease = wanted[name]
        arguments = {"pool": lease.pool, "key": lease.key}
        given = ask_all(config, "kill_lease", arguments, pids={lease.pid})
        # Arguments that were right a moment ago are bad when the lease has ended meanwhile.
        refused += [a for a in given if a.error not in (None, "bad_arguments")]
    outcome = Outcome(
        command="kill-lease",
        answers=list({answer.path: answer for answer in (*answers, *refused)}.values()),
        # Of what a process holds that says nothing, nothing is known.
        missing=sorted(name for name in wanted.keys() - alive if wanted[name].pid not in silent),
    )
    return _wait(config, target, outcome, _still_there(alive & wanted.keys()), wait)


# -- how


def _give(
    config: ControlConfig, command: str, target: Target, arguments: Mapping[str, Any] | None = None
) -> Outcome:
    everything = {**target.arguments(), **(arguments or {})}
    answers = ask_all(config, command, everything, pids=target.pids)
    missing = (target.pids or frozenset()) - {answer.pid for answer in answers}
    return Outcome(command=command, answers=answers, missing=[str(pid) for pid in sorted(missing)])


def _ask_status(config: ControlConfig, target: Target) -> list[Answer]:
    arguments = {**target.arguments(), "leases": True, "steerable": True}
    return ask_all(config, "status", arguments, pids=target.pids)


def _leases(answers: Iterable[Answer]) -> Leases:
    return [lease for answer in answers for lease in (answer.result or {}).get("leases", [])]


def _wait(
    config: ControlConfig, target: Target, outcome: Outcome, look: Look, wait: float
) -> Outcome:
    """Look at the processes that took the command until all is done, or the time is over.

    Ctrl-C ends the waiting, not what is waited for.
    """
    failed = {answer.path: answer for answer in outcome.answers if answer.error is not None}
    if len(failed) == len(outcome.answers):
        return outcome
    deadline = time.monotonic() + wait
    while True:
        answers = _ask_status(config, target)
        concerned = [answer for answer in answers if answer.path not in failed]
        seen = [look(answer.result) for answer in concerned if answer.result is not None]
        left = len(seen) < len(concerned) or any(unfinished for unfinished, _ in seen)
        if not left or time.monotonic() >= deadline:
            break
        try:
            time.sleep(_INTERVAL)
        except KeyboardInterrupt:
            break
    return replace(
        outcome,
        answers=[failed.get(answer.path, answer) for answer in answers],
        unfinished=left,
        holding=[lease for _, leases in seen for lease in leases],
    )


def _busy(status: Status) -> tuple[bool, Leases]:
    """Look for pools that are not paused yet, or in which something still goes on."""
    return _of_pools(
        status,
        lambda pool: pool["state"] == "open" or pool["used"] > 0 or pool["connecting"] > 0,
    )


def _too_large(status: Status) -> tuple[bool, Leases]:
    return _of_pools(status, lambda pool: pool["size"] > pool["max_size"])


def _of_pools(
    status: Status, unfinished: Callable[[Mapping[str, Any]], bool]
) -> tuple[bool, Leases]:
    names = {pool["name"] for pool in status["pools"] if unfinished(pool)}
    return bool(names), [lease for lease in status["leases"] if lease["pool"] in names]


def _still_there(ids: Collection[str]) -> Look:
    def look(status: Status) -> tuple[bool, Leases]:
        left = [lease for lease in status["leases"] if lease["id"] in ids]
        return bool(left), left

    return look
