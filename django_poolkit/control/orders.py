"""Standing orders: a pause that also holds for processes and pools that are born meanwhile.

`poolctl pause` first posts the order and then asks the sockets; a process first has its socket
and then reads the orders, before its pool opens. So no pool slips through between.

Each user who gives orders has one file in the directory of the sockets, and the file's owner is
what makes it theirs. Of the orders that concern a pool the latest counts.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from django_poolkit.conf.control import ROOT, ControlConfig
from django_poolkit.control.directory import DirectoryRefused, opened

logger = logging.getLogger("django_poolkit.control")

LONGEST: Final = 3600.0
"""Seconds that an order may stand at most: a pause nobody ends is an outage of one's own making."""
# Each order may name all that were named later: a few hundred aliases, paused one by one.
_LARGEST_FILE: Final = 1024 * 1024
_LOCK_WAIT: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Pause the pools of some databases. Times are those of the wall clock, in seconds."""

    databases: tuple[str, ...] | None
    """Aliases, and names of pools; None for all."""
    but: tuple[str, ...] = ()
    """Those that have been resumed since."""
    until: float
    posted: float

    def covers(self, names: Collection[str]) -> bool:
        """Tell whether a pool is meant that has these names: its own, and those of its aliases."""
        if not set(self.but).isdisjoint(names):
            return False
        return self.databases is None or not set(self.databases).isdisjoint(names)


def pause_left(config: ControlConfig, names: Collection[str]) -> float:
    """Return for how many seconds a pool of these names is to be paused, 0.0 for not at all."""
    left = [order.until for order in standing(config) if order.covers(names)]
    return max(0.0, left[-1] - time.time()) if left else 0.0


def standing(config: ControlConfig) -> list[Order]:
    """Return the orders in force, the latest last. Those of others than `STEERING` names are none.

    Never raises: what cannot be read is logged, and no order.
    """
    try:
        with opened(config.directory, os.geteuid()) as (descriptor, _):
            return _read_all(descriptor, config.steerers())
    except FileNotFoundError:
        return []
    except (DirectoryRefused, OSError) as error:
        logger.warning("event=orders_unread error=%s", error)
        return []


def post(directory: Path, order: Order) -> None:
    """Give an order in the name of the calling user, in place of what stood for its databases.

    Does nothing where the directory does not exist, as no process serves there. Blocks for 2
    seconds at most. Raises DirectoryRefused, OSError; TimeoutError where another holds the
    orders for so long.
    """
    _replace(directory, order.databases, order)


def withdraw(directory: Path, databases: Sequence[str] | None) -> None:
    """End the orders for these databases, for all with None, whoever of us or root gave them.

    Blocks and raises as `post()`.
    """
    _replace(directory, databases)


def _replace(directory: Path, databases: Sequence[str] | None, *new: Order) -> None:
    me = os.geteuid()
    with suppress(FileNotFoundError), opened(directory, None if me == ROOT else me) as found:
        descriptor, owner = found
        _lock(descriptor)
        users = {me, owner, ROOT}
        orders = _read_all(descriptor, users)
        left = [] if databases is None else _without(orders, databases)
        # What is left of another's orders is given again as ours, since a file has one owner.
        for uid in users - {me}:
            _unlink(descriptor, _name(uid))
        _write(descriptor, [*left, *new])


def _without(orders: Iterable[Order], databases: Sequence[str]) -> Iterator[Order]:
    for order in orders:
        but = tuple(sorted({*order.but, *databases}))
        if order.databases is None:
            yield replace(order, but=but)
        elif left := tuple(alias for alias in order.databases if alias not in databases):
            yield replace(order, databases=left, but=but)


def _lock(descriptor: int) -> None:
    """Have one poolctl at a time write; the lock goes with the descriptor."""
    deadline = time.monotonic() + _LOCK_WAIT
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TimeoutError("another process holds the standing orders") from None
            time.sleep(0.02)


def _name(uid: int) -> str:
    return f"orders-{uid}.json"


def _read_all(descriptor: int, users: Iterable[int]) -> list[Order]:
    orders = [order for uid in users for order in _read(descriptor, uid)]
    return sorted(orders, key=lambda order: order.posted)


def _read(descriptor: int, uid: int) -> list[Order]:
    """Return the orders of one user that are in force."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(_name(uid), flags, dir_fd=descriptor), "rb") as file:
            if os.fstat(file.fileno()).st_uid != uid:
                raise ValueError(f"it is not of user {uid}")
            text = file.read(_LARGEST_FILE)  # what is cut off is no JSON
        orders = [_order(entry) for entry in json.loads(text)["orders"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        # Of the kind of the error alone: its text may show what is in the file.
        logger.warning("event=orders_unread file=%s error=%s", _name(uid), type(error).__name__)
        return []
    now = time.time()
    return [order for order in orders if now < order.until <= now + LONGEST]


def _order(entry: dict[str, Any]) -> Order:
    databases = entry["databases"]
    return Order(
        databases=None if databases is None else tuple(map(str, databases)),
        but=tuple(map(str, entry["but"])),
        until=float(entry["until"]),
        posted=float(entry["posted"]),
    )


def _write(descriptor: int, orders: list[Order]) -> None:
    uid = os.geteuid()
    if not orders:
        _unlink(descriptor, _name(uid))
        return
    # Root's must be readable to the owner of the directory, which nobody else can enter.
    mode = 0o600 if os.fstat(descriptor).st_uid == uid else 0o644
    hidden = f"{_name(uid)}.{secrets.token_hex(4)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(hidden, flags, 0o600, dir_fd=descriptor), "w") as file:
            os.fchmod(file.fileno(), mode)
            json.dump({"orders": [asdict(order) for order in orders]}, file)
        os.rename(hidden, _name(uid), src_dir_fd=descriptor, dst_dir_fd=descriptor)
    except BaseException:
        _unlink(descriptor, hidden)
        raise


def _unlink(descriptor: int, name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=descriptor)
