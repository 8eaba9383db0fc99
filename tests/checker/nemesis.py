"""What is done to the servers while visitors are there: by chance, from a seed, and undone."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.checker.history import Fault, Recorder
from tests.checker.servers import SLOTS, Servers

FAULTS: dict[str, int] = {
    "pause replay": 6,
    "cut streaming": 3,
    "freeze": 3,
    "kill": 3,
    "cut network": 3,
    "slow network": 4,
    "terminate": 4,
    "promote": 2,
    "promote, lossy": 2,
}
"""How often each is done, in proportion."""
_OF_REPLICAS = frozenset({"pause replay", "cut streaming"})
_ALONE = frozenset({"promote", "promote, lossy"})


class Nemesis:
    """Does one thing after the other, sometimes two at once, and enters what it has done."""

    def __init__(
        self,
        servers: Servers,
        recorder: Recorder,
        seed: int,
        *,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._servers = servers
        self._recorder = recorder
        self._chance = random.Random(seed)
        self._tell = tell
        self.ended = threading.Event()
        self.failed: BaseException | None = None

    def haunt(self, calm: float, longest: float) -> None:
        """Go on until `ended` is set; what is in force then is undone.

        `calm`: seconds between two faults, in the mean. `longest`: those that one lasts at most.
        """
        try:
            # Of one run as of any other: something that bites who is promised nothing.
            with self.struck("pause replay", "a"), self.struck("pause replay", "b"):
                self.ended.wait(longest / 2)
            while not self.ended.wait(self._chance.uniform(0.5, 1.5) * calm):
                self._strike(longest)
        except BaseException as error:
            self.failed = error

    def _strike(self, longest: float) -> None:
        name = self._chance.choices(list(FAULTS), list(FAULTS.values()))[0]
        if name in _ALONE:
            with self.promoted(self._chance.choice("ab"), lossy=name != "promote"):
                return
        seconds = self._chance.uniform(0.2, 1.0) * longest
        slot = self._chance.choice("ab" if name in _OF_REPLICAS else SLOTS)
        if self._chance.random() < 0.3:
            # Two at once, of two servers.
            other = self._chance.choice(("pause replay", "slow network", "terminate"))
            place = self._chance.choice([each for each in "ab" if each != slot])
            with self.struck(name, slot), self.struck(other, place):
                self.ended.wait(seconds)
        else:
            with self.struck(name, slot):
                self.ended.wait(0.2 if name == "terminate" else seconds)

    @contextmanager
    def struck(self, name: str, slot: str) -> Iterator[Fault]:
        """Do something to a server, and undo it at the end of the block."""
        node = self._servers.nodes[slot]
        role = "primary" if slot == "primary" else "replica"
        fault = Fault(name, node.name, role, time.monotonic())  # type: ignore[arg-type]
        self._tell(f"{name} of {slot} ({node.name})")
        deed = getattr(self, f"_{name.replace(' ', '_')}")(slot)
        next(deed)
        try:
            yield fault
        finally:
            next(deed, None)
            fault.ended = time.monotonic()
            self._recorder.fault(fault)

    @contextmanager
    def promoted(self, slot: str, *, lossy: bool) -> Iterator[None]:
        """Have a replica take over; go on when the others follow it."""
        old, heir = self._servers.primary, self._servers.nodes[slot]
        others = [node for node in self._servers.replicas if node is not heir]
        name = "promote, lossy" if lossy else "promote"
        self._tell(f"{name} of {slot} ({heir.name})")
        began = time.monotonic()
        promotion = self._servers.promote(slot, lossy=lossy)
        ended = time.monotonic()
        self._recorder.promotion(promotion)
        # The primary was away for a part of it, and then the others were being made anew.
        self._recorder.fault(Fault(name, old.name, "primary", began, ended))
        for node in (old, heir, *others):
            self._recorder.fault(Fault(name, node.name, "replica", began, ended))
        yield

    # -- each does something, and undoes it when it is gone on with

    def _pause_replay(self, slot: str) -> Iterator[None]:
        node = self._servers.nodes[slot]
        node.pause_replay()
        yield
        node.resume_replay()

    def _cut_streaming(self, slot: str) -> Iterator[None]:
        node = self._servers.nodes[slot]
        node.cut_streaming()
        yield
        node.restore_streaming()

    def _freeze(self, slot: str) -> Iterator[None]:
        node = self._servers.nodes[slot]
        node.pause()
        yield
        node.resume()

    def _kill(self, slot: str) -> Iterator[None]:
        node = self._servers.nodes[slot]
        self._servers.crash(node)
        yield
        self._servers.revive(node)

    def _cut_network(self, slot: str) -> Iterator[None]:
        gate = self._servers.gates[slot]
        gate.refuse()
        gate.drop()
        yield
        gate.accept()

    def _slow_network(self, slot: str) -> Iterator[None]:
        gate = self._servers.gates[slot]
        gate.latency = self._chance.uniform(0.002, 0.06)
        yield
        gate.latency = 0.0

    def _terminate(self, slot: str) -> Iterator[None]:
        self._servers.nodes[slot].kill_backends()
        yield
