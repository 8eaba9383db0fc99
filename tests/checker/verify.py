"""What is promised, and whether a history keeps it. Pure functions: nobody is asked.

Each yields a violation for each time that a promise was broken, with all that is needed to see
that it was. `all_violations()` is the sum.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

from tests.checker.history import KNOWN, History, Op, Read, by_visitor
from tests.checker.losses import Losses
from tests.checker.permits import Permits, forbidden_errors

# The routes on which the primary is read beside a write of the visitor's own: what others wrote,
# and it showed, is not carried on.
_BESIDE = ("unsafe_request", "wrote", "transaction", "rule", "use_primary", "instance")

# How many of the writes that are long since due are looked for in each read.
_MOST = 50


@dataclass(frozen=True, slots=True)
class Violation:
    """One promise, once broken."""

    promise: str
    text: str
    op: Op

    def __str__(self) -> str:
        op = self.op
        return (
            f"{self.promise}: {self.text}\n    op {op.number} {op.name} of {op.visitor}"
            f" ({op.kind}, {op.server}) {op.invoked:.3f}..{op.ended:.3f} {op.outcome}"
            f" {op.status} {op.error} route={op.route!r}"
        )


def all_violations(history: History) -> list[Violation]:
    """Return all violations of a history, those of one promise together."""
    return [
        *own_writes(history),
        *backward(history),
        *blind_jobs(history),
        *lost_writes(history),
        *too_old(history),
        *phantoms(history),
        *forbidden(history),
    ]


def own_writes(history: History, kinds: frozenset[str] | None = None) -> Iterator[Violation]:
    """Yield where a visitor has read before its own write.

    Of strangers nothing is promised; `kinds` counts those of some kinds, whatever is promised.
    """
    losses = Losses(history)
    for who, ops in _by_owner(history).items():
        written = [op for op in ops if op.outcome == "ok" and op.writes and op.kind != "job"]
        ends = [op.ended for op in written]
        for op in ops:
            if op.outcome != "ok" or not op.reads or op.kind == "job":
                continue
            if (op.kind == "stranger") if kinds is None else (op.kind not in kinds):
                continue
            recent = written[bisect_left(ends, op.invoked - float(history.facts["max_age"])) :]
            for earlier in recent:
                if earlier.ended > op.ended:
                    break
                if _is_owed(history, earlier, op, recent):
                    yield from _missing("own writes", op, earlier, who, losses)


def _is_owed(history: History, earlier: Op, op: Op, written: list[Op]) -> bool:
    """Return whether an operation has to see what another one of the same owner has written."""
    if earlier is op:
        return op.wrote_first
    if earlier.ended >= op.invoked or op.ended - earlier.invoked > _window(history, earlier):
        return False
    if earlier.visitor == op.visitor and op.kind != "device":
        return True
    # By the cache: who writes on two devices at the same moment may undo the one by the other.
    return not any(
        each is not earlier and each.invoked < earlier.ended and earlier.invoked < each.ended
        for each in written
    )


def _window(history: History, op: Op) -> float:
    facts = history.facts
    return float(facts["pin"] if op.told == "pin" else facts["max_age"])


def _missing(promise: str, op: Op, earlier: Op, who: str, losses: Losses) -> Iterator[Violation]:
    for read in op.reads:
        for write in earlier.writes:
            if write.target != read.target or not write.element or read.has(write.element):
                continue
            if not losses.is_gone(earlier, op.ended):
                yield Violation(
                    promise,
                    f"{read.target} on {read.node} is without {write.element}, which {who} wrote"
                    f" by op {earlier.number}, answered {op.invoked - earlier.ended:.3f} s before"
                    f" (told {earlier.told}, op {earlier.route!r})",
                    op,
                )


def backward(history: History, kinds: frozenset[str] = KNOWN) -> Iterator[Violation]:
    """Yield where a visitor who is known has read what is older than what it had read before."""
    losses, permits = Losses(history), Permits(history)
    for _, ops in by_visitor(history):
        if ops[0].kind not in kinds:
            continue
        latest: dict[str, list[tuple[Op, Read]]] = {}
        for op in ops:
            if op.outcome != "ok":
                continue
            for place, read in enumerate(op.reads):
                within = [each for each in op.reads[:place] if each.target == read.target]
                for before in within:
                    yield from _lacks(op, read, op, before, losses)
                for earlier, before in latest.get(read.target, ())[-8:]:
                    if op.ended - earlier.invoked > float(history.facts["max_age"]):
                        continue
                    if earlier.ended < op.invoked and not _is_excused(earlier, before, op, permits):
                        yield from _lacks(op, read, earlier, before, losses)
            for read in op.reads:
                latest.setdefault(read.target, []).append((op, read))


def _is_excused(earlier: Op, before: Read, op: Op, permits: Permits) -> bool:
    """Return whether what was seen is not carried on, by what is promised."""
    if any(reason in earlier.route for reason in _BESIDE):
        return True
    # Its host was evicted since, and what it had shown is known to nobody.
    return permits.replica_was_hit(before.node, earlier.invoked, op.ended)


def _lacks(op: Op, read: Read, earlier: Op, before: Read, losses: Losses) -> Iterator[Violation]:
    seen = [before.found] if isinstance(before.found, int) else before.found
    for element in seen:
        if not read.has(element) and not losses.may_lack(read.target, element, op.ended):
            yield Violation(
                "monotonic reads",
                f"{read.target} on {read.node} is without {element}, which it had shown on"
                f" {before.node} to op {earlier.number} ({earlier.route!r})"
                f" {op.invoked - earlier.ended:.3f} s before",
                op,
            )
            return


def blind_jobs(history: History) -> Iterator[Violation]:
    """Yield where a job has not seen what was written where it was enqueued."""
    losses = Losses(history)
    by_number = {op.number: op for op in history.ops if op.name == "enqueue"}
    for op in history.ops:
        earlier = by_number.get(op.number - 1) if op.kind == "job" else None
        if earlier is None or op.outcome != "ok":
            continue
        yield from _missing("jobs", op, op, "it", losses)
        if op.ended - earlier.invoked <= _window(history, earlier):
            yield from _missing("jobs", op, earlier, "the enqueuer", losses)


def lost_writes(history: History) -> Iterator[Violation]:
    """Yield what was acknowledged, and is not there in the end."""
    if not history.final:
        return
    losses = Losses(history)
    bumps: dict[str, list[Op]] = {}
    left_in = {k: set(v) for k, v in history.final.items() if isinstance(v, list)}
    for op in history.ops:
        if op.outcome != "ok" or losses.may_be_lost(op):
            continue
        for write in op.writes:
            if write.target.startswith("counter"):
                bumps.setdefault(write.target, []).append(op)
            elif write.element not in left_in.get(write.target, ()):
                text = f"{write.element} of {write.target} was acknowledged, and is not there"
                yield Violation("no write lost", f"{text} (told {op.told})", op)
    for target, ops in bumps.items():
        left = history.final.get(target, 0)
        if left < len(ops):
            text = f"{target} was raised {len(ops)} times, and is {left}"
            yield Violation("no write lost", text, ops[-1])


def too_old(history: History) -> Iterator[Violation]:
    """Yield where anybody has read what is older than a replica may be that is read."""
    if "oldest" not in history.facts:
        return
    bound = float(history.facts["oldest"])
    losses, permits = Losses(history), Permits(history)
    written: dict[str, list[tuple[float, int]]] = {}
    for op in sorted(history.ops, key=lambda each: each.ended):
        if op.outcome == "ok" and not losses.may_be_lost(op):
            for write in op.writes:
                if write.element:
                    written.setdefault(write.target, []).append((op.ended, write.element))
    for op in history.ops:
        if op.outcome != "ok" or permits.primary_was_hit(op.invoked - bound, op.ended):
            continue
        for read in op.reads:
            known = written.get(read.target, [])
            due = bisect_left(known, (op.invoked - bound, 0))
            absent = next(
                (each for each in known[max(0, due - _MOST) : due] if not read.has(each[1])), None
            )
            if absent is not None:
                age = op.invoked - absent[0]
                text = f"{read.target} on {read.node} is without {absent[1]}, {age:.1f} s old"
                yield Violation("no replica too old", text, op)


def phantoms(history: History) -> Iterator[Violation]:
    """Yield where something was read that was never written, or whose write was refused."""
    written = {
        write.element
        for op in history.ops
        if op.outcome != "fail"
        for write in op.writes
        if write.target.startswith("list")
    }
    for op in history.ops:
        for read in op.reads:
            if not read.target.startswith("list"):
                continue
            for element in read.found:
                if element not in written:
                    text = f"{read.target} on {read.node} has {element}, which nobody has written"
                    yield Violation("nothing made up", text, op)


def forbidden(history: History) -> Iterator[Violation]:
    """Yield the errors that no fault allows."""
    for op, text in forbidden_errors(history):
        yield Violation("errors", text, op)


def _by_owner(history: History) -> dict[str, list[Op]]:
    found: dict[str, list[Op]] = {}
    for op in sorted(history.ops, key=lambda each: each.ended):
        found.setdefault(op.who, []).append(op)
    return found
