"""Those who watch the router, for tests: what it decided, and what was written."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

from django_poolkit.routing.topology import Cluster

Reason = Literal[
    "no_replica", "use_primary", "use_replica", "transaction", "rule", "command",
    "unsafe_request", "wrote", "instance", "token", "read", "all_down",
]  # fmt: skip
"""Why a read goes where it goes."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a read was sent."""

    model: str
    """Label of the model, as `shop.Order`."""
    cluster: str
    alias: str
    """What the router chose; where everything runs on one database, what it would have chosen."""
    role: Literal["primary", "replica"]
    reason: Reason


class Watcher:
    """Is told what the router does, by the threads that it does it in."""

    one_database: bool = False
    """Whether everything is to run on the primary, whatever is decided."""

    def decided(self, decision: Decision) -> None:
        """Take note of where a read goes. Asked once or more for each query, as Django does."""

    def writing(self, cluster: Cluster, alias: str) -> None:
        """Take note that a statement which may write begins. What this raises, that raises."""


watchers: tuple[Watcher, ...] = ()
"""Those that are told. Read by every query, so replaced as a whole."""

_changing: Final = threading.Lock()  # held while `watchers` is replaced


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Have a watcher told for the length of a `with` block, by all threads of the process."""
    global watchers
    with _changing:
        watchers = (*watchers, watcher)
    try:
        yield
    finally:
        with _changing:
            watchers = tuple(each for each in watchers if each is not watcher)


def on_one_database() -> bool:
    """Return whether a watcher has everything run on the primary, so that nothing is behind."""
    return any(watcher.one_database for watcher in watchers)
