"""A server that is restarted in the middle of work, and what is to be there afterwards."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field

from django_poolkit.testing.waiting import wait_until

EACH = 5
"""Writes of each thread or task before the restart, and after it."""
PATIENCE = 60.0

Refusals = tuple[type[BaseException], ...]


@dataclass
class Kept:
    """What writers were told of what they wrote, by name."""

    acknowledged: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    """Failed: whether they were written, nobody could say."""

    def lost(self, stored: Collection[str]) -> list[str]:
        """Return what was acknowledged, and is not stored exactly once."""
        counted = list(stored)
        return [name for name in self.acknowledged if counted.count(name) != 1]

    def forged(self, stored: Collection[str]) -> list[str]:
        """Return what is stored, and nobody wrote."""
        return sorted(set(stored) - {*self.acknowledged, *self.refused})


def through_restart(
    restart: Callable[[], object],
    write: Callable[[str], object],
    refusals: Refusals,
    *,
    threads: int = 4,
) -> Kept:
    """Have threads write, one name after the other, and restart the server under them.

    Returns when each has written several before and after that. Another error than a refusal is
    raised.
    """
    kept, counts = Kept(), [0] * threads
    over = threading.Event()
    errors: list[BaseException] = []

    def work(number: int) -> None:
        turn = 0
        while not over.is_set():
            name, turn = f"writer {number}, turn {turn}", turn + 1
            try:
                write(name)
            except refusals:
                kept.refused.append(name)
            except BaseException as error:
                errors.append(error)
                return
            else:
                kept.acknowledged.append(name)
                counts[number] += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    try:
        wait_until(lambda: errors or min(counts) >= EACH, PATIENCE, lambda: f"{counts}")
        if not errors:
            restart()
        before = list(counts)

        def went_on() -> bool:
            return all(now >= then + EACH for now, then in zip(counts, before, strict=True))

        wait_until(lambda: errors or went_on(), PATIENCE, lambda: f"{before}, then {counts}")
    finally:
        over.set()
        for worker in workers:
            worker.join(PATIENCE)
    if errors:
        raise errors[0]
    return kept


async def athrough_restart(
    restart: Callable[[], object],
    write: Callable[[str], Awaitable[object]],
    refusals: Refusals,
    *,
    tasks: int = 4,
) -> Kept:
    """Do the same with tasks."""
    kept, counts = Kept(), [0] * tasks
    enough, over = asyncio.Event(), False
    goal = [EACH] * tasks

    async def work(number: int) -> None:
        turn = 0
        while not over:
            name, turn = f"task {number}, turn {turn}", turn + 1
            try:
                await write(name)
            except refusals:
                kept.refused.append(name)
            else:
                kept.acknowledged.append(name)
                counts[number] += 1
                if all(now >= wanted for now, wanted in zip(counts, goal, strict=True)):
                    enough.set()

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        for number in range(tasks):
            group.create_task(work(number))
        await enough.wait()
        await asyncio.to_thread(restart)
        goal[:] = [count + EACH for count in counts]
        enough.clear()
        await enough.wait()
        over = True
    return kept
