"""What a history comes to, as a table for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from tests.checker.history import History
from tests.checker.verify import Violation, backward, own_writes

_SHOWN = 12


def summary(history: History, violations: Sequence[Violation]) -> str:
    """Return the summary of a run."""
    return "\n".join(_lines(history, violations))


def is_conclusive(history: History) -> bool:
    """Return whether the faults were such that a site without a router would have lied."""
    return any(own_writes(history, frozenset({"stranger"})))


def _lines(history: History, violations: Sequence[Violation]) -> Iterator[str]:
    facts = history.facts
    yield (
        f"seed {facts['seed']}, {facts['shape']}, choice {facts['choice']}; django_poolkit"
        f" {facts['poolkit']}, Django {facts['django']}, Python {facts['python']},"
        f" psycopg {facts['psycopg']}, {facts['date']}"
    )
    ops = history.ops
    lasted = max((op.ended for op in ops), default=0.0) - min(
        (op.invoked for op in ops), default=0.0
    )
    yield f"{len(ops):,} operations in {lasted:.0f} s"
    yield ""
    yield f"{'':10} {'ok':>8} {'failed':>8} {'unknown':>8} {'reads':>8} {'replica':>8}"
    for kind in sorted({op.kind for op in ops}):
        of_kind = [op for op in ops if op.kind == kind]
        outcomes = Counter(op.outcome for op in of_kind)
        reads = sum(len(op.reads) for op in of_kind)
        from_replica = sum("from=replica" in op.route for op in of_kind if op.reads)
        pages = sum(bool(op.reads and op.route) for op in of_kind)
        share = f"{from_replica / pages:8.0%}" if pages else f"{'':8}"
        yield (
            f"{kind:10} {outcomes['ok']:8,} {outcomes['fail']:8,} {outcomes['info']:8,}"
            f" {reads:8,} {share}"
        )
    yield ""
    for name, count in sorted(Counter(_faults(history)).items()):
        yield f"{count:5}  {name}"
    yield ""
    stale = sum(1 for _ in own_writes(history, frozenset({"stranger"})))
    back = sum(1 for _ in backward(history, frozenset({"stranger", "browser", "tabs"})))
    yield f"{stale:5,}  times a stranger, whom nothing is promised, read before its own write"
    yield f"{back:5,}  times one without a session went back in what it saw of others"
    yield from _told(violations)


def _faults(history: History) -> Iterator[str]:
    for fault in history.faults:
        # A promotion is entered for each server that it touches.
        if not fault.name.startswith("promote") or fault.role == "primary":
            yield f"{fault.name}{'' if fault.name.startswith('promote') else f', {fault.role}'}"


def _told(violations: Sequence[Violation]) -> Iterator[str]:
    yield ""
    yield f"violations: {len(violations)}"
    for promise, count in sorted(Counter(each.promise for each in violations).items()):
        yield f"{count:5}  {promise}"
    for each in violations[:_SHOWN]:
        yield f"  - {each}"
    if len(violations) > _SHOWN:
        yield f"  … and {len(violations) - _SHOWN} more"
