"""Those who hold one connection and wait for another, until nobody is left to give one back.

With as many threads as connections, and two connections for each, a pool waits for itself until
the first timeout. Who would be the last to queue is refused instead, as a database does with a
deadlock: that unwinds, gives back what it holds, and the others go on. Tasks of an event loop are
told apart: they wait for each other no more than threads do.
"""

from __future__ import annotations

from operator import attrgetter
from time import monotonic

from django_poolkit.pools.lease import Lease, Stack, capture_stack, format_stack
from django_poolkit.pools.postgres.errors import PoolDeadlock
from django_poolkit.pools.postgres.state import State

_since = attrgetter("since")
_thread = attrgetter("_thread")
_task = attrgetter("task")

_SKIPPED = 4  # frames of the pool between the caller and here


def look_locked(pool: State, lease: Lease) -> None:
    """Refuse a lease that is about to queue where all others would wait for its holder.

    Looks through the live leases and the waiters. Raises PoolDeadlock.
    """
    # Everyone who queues passes here, while all others want the lock.
    if len(pool._ledger.live) < pool._max_size or pool._orphans:
        return
    first = next(iter(pool._ledger.live.values()))()
    if first is not None and first.alias is None and not first.in_block:
        return  # acquired by hand: whoever can reach it may give it back
    held = held_locked(pool, lease)
    if not held:
        return
    waiting = {waiter.lease.holder for waiter in pool._waiting.queue}
    waiting.add(lease.holder)
    live = pool._ledger.leases_locked()
    # One that has died without a word is about to be taken back.
    if len(live) != len(pool._ledger.live) or not all(_stuck(each, waiting) for each in live):
        return
    pool._ledger.timeouts += 1
    stats = pool._stats_locked(monotonic())
    whose = "threads" if lease.task is None else "tasks"
    raise PoolDeadlock(
        f"pool {pool.name!r}: all {len(live)} connections are held by {whose} that wait for a "
        f"further one, and this {whose[:-1]} would be the last of them ({stats.summary()}). "
        f"It holds {_described(held[0])}\n"
        f"and asks for another at:\n  {_lines(capture_stack(skip=_SKIPPED))}\n"
        f"Have each {whose[:-1]} hold one connection at a time, or set max_size to at least "
        f"{whose} * (connections of each - 1) + 1.",
        pool=pool.name,
        stats=stats,
    )


def held_locked(pool: State, lease: Lease) -> list[Lease]:
    """Return the leases that the holder of `lease` holds, and nobody else can give back."""
    thread, task, ledger = lease._thread, lease.task, pool._ledger
    # Nearly always none, and each who queues asks: in one go, and in C. All tasks of a loop are in
    # one thread, so they are told apart here already.
    sought, of = (thread, _thread) if task is None else (task, _task)
    if sought not in map(of, ledger.known_locked()):
        return []
    found, mine = sorted(ledger.known_locked(), key=_since), {lease.holder}
    return [each for each in found if each._thread is thread and _stuck(each, mine)]


def _stuck(lease: Lease, holders: set[object]) -> bool:
    # A lease that was acquired by hand may have been handed to somebody else. Those of Django's
    # connections and of `with pool.lease()` end with whom they began. One whose task has died
    # waits for nothing, but to be taken back; and one that was dropped, or is being released by
    # another thread, is on its way home.
    return (lease.in_block or lease.alias is not None) and (
        not (lease.shared or lease.lost or lease.released)
        and (holder := lease.holder) is not None
        and holder in holders
    )


def _described(lease: Lease) -> str:
    alias = "" if lease.alias is None else f" of the alias {lease.alias!r}"
    since = f"one{alias}, since {lease.seconds():.2f} s"
    if not lease.stack:
        return f"{since} (where it was acquired is remembered with the option stacks='all')"
    return f"{since}, acquired at:\n  {_lines(lease.stack)}"


def _lines(stack: Stack) -> str:
    return "\n  ".join(format_stack(stack))
