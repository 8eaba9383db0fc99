"""What goes wrong in `tests.benchmarks.soak`, by dice."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Any, Final

from django_poolkit.testing import Node

NAME: Final = "soak"
"""Of the application, by which the server knows the pools' connections."""


class Faults:
    """Has something go wrong every few seconds, by dice."""

    def __init__(self, node: Node, users: Any, seed: int) -> None:
        self.done: Counter[str] = Counter()
        self._node, self._users = node, users
        self._dice = random.Random(seed)
        self._kinds = {
            "kill one": 4, "kill all": 3, "cancel": 4, "thread death": 4, "hang": 2, "restart": 1,
            "crash": 1,
        }  # fmt: skip

    def strike(self) -> None:
        """Have one thing go wrong. Blocks until it has."""
        [kind] = self._dice.choices(list(self._kinds), list(self._kinds.values()))
        getattr(self, "_" + kind.replace(" ", "_"))()
        self.done[kind] += 1

    def pause(self) -> float:
        """Return for how many seconds nothing does."""
        return self._dice.uniform(0.5, 2.5)

    def _kill_one(self) -> None:
        if sessions := self._node.sessions(NAME):
            self._node.kill_backend(self._dice.choice(sessions).pid)

    def _kill_all(self) -> None:
        self._node.kill_backends(NAME)

    def _cancel(self) -> None:
        self._node.execute(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
            " AND state = 'active'",
            (NAME,),
        )

    def _thread_death(self) -> None:
        self._users.die()

    def _hang(self) -> None:
        self._node.pause()
        time.sleep(self._dice.uniform(0.2, 1.5))
        self._node.resume()

    def _restart(self) -> None:
        self._node.restart("fast")

    def _crash(self) -> None:
        self._node.restart("immediate")
