"""Asks several servers at once where they stand, and waits for none of them longer than it may."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from time import monotonic
from typing import Final, Literal

from django_poolkit.pools.postgres import ConnectionPool, standing
from django_poolkit.pools.postgres.prober import ProbeFailed
from django_poolkit.pools.postgres.standing import Standing

Answer = Standing | ProbeFailed | Literal["alive"]
"""`alive`: that it answers is all that it was asked for."""

# What a probe may take beyond its time.
_GRACE: Final = 0.2


class Asker:
    """Has a thread for each server that it asks, for as long as that takes.

    None is waited for that does not come back: a resolver of names may hang for long, and so may
    a function that a password comes from.
    """

    def __init__(self) -> None:
        self._under_way: dict[str, threading.Thread] = {}
        self.took: dict[str, float] = {}
        """Seconds that those took who have answered, of all that were asked since it was empty."""

    def ask(
        self, pools: Mapping[str, ConnectionPool], seconds: float, alive: Collection[str] = ()
    ) -> dict[str, Answer]:
        """Return what each server says, by name. Blocks for `seconds`, and a little more.

        Those named in `alive` are not asked where they stand.
        """
        answers: dict[str, Answer] = {}
        took: dict[str, float] = {}
        started: dict[str, threading.Thread] = {}

        def ask_one(name: str, pool: ConnectionPool) -> None:
            begun = monotonic()
            answer = _answer(pool, seconds, name in alive)
            took[name] = monotonic() - begun
            answers[name] = answer

        for name, pool in pools.items():
            before = self._under_way.pop(name, None)
            if before is not None and before.is_alive():
                started[name] = before
                continue
            thread = threading.Thread(
                target=ask_one, args=(name, pool), name=f"poolkit-routing-{name}", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:  # the system gives no thread, or the process ends
                answers[name] = ProbeFailed("closed", str(error))
                continue
            started[name] = thread
        deadline = monotonic() + seconds + _GRACE
        for name, thread in started.items():
            thread.join(max(0.0, deadline - monotonic()))
            if thread.is_alive():
                self._under_way[name] = thread
        # One that comes from here on comes too late.
        late = ProbeFailed("timeout", "no answer in time")
        said = {name: answers.copy().get(name, late) for name in pools}
        self.took |= {
            name: took[name] for name, answer in said.items() if not isinstance(answer, ProbeFailed)
        }
        return said


def _answer(pool: ConnectionPool, seconds: float, alive: bool) -> Answer:
    try:
        if alive:
            pool.prober.ask(seconds)
            return "alive"
        return standing.ask(pool.prober, seconds)
    except ProbeFailed as error:
        return error
    except Exception as error:
        return ProbeFailed("unknown", type(error).__name__)
