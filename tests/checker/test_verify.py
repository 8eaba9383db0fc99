"""What is found in histories that are written by hand."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from tests.checker import report
from tests.checker.history import Fault, History, Op, Promotion, Read, Recorder, Write, load
from tests.checker.verify import all_violations

FACTS = {"max_age": 30.0, "pin": 5.0, "bound": 10.0, "oldest": 20.0, "seed": 1}
FROM_REPLICA = 'read;cluster="default";from=replica;count=1'
_numbers = itertools.count(2, 2)


def op(at: float, name: str = "look", visitor: str = "browser0", **more: Any) -> Op:
    """Return an operation that took a tenth of a second."""
    kind: Any = visitor.rstrip("0123456789")
    facts: dict[str, Any] = {"number": next(_numbers), "who": visitor, "outcome": "ok"}
    facts |= {"route": FROM_REPLICA, "status": 200, "server": "wsgi"}
    return Op(visitor=visitor, kind=kind, name=name, invoked=at, ended=at + 0.1, **facts | more)


def wrote(at: float, element: int, visitor: str = "browser0", **more: Any) -> Op:
    """Return an operation that appended to the list of all."""
    facts: dict[str, Any] = {"told": [1, 1000 * element], "writes": [Write("list x", element)]}
    return op(at, "append", visitor, **facts | more)


def read(at: float, *found: int, visitor: str = "browser0", node: str = "r1", **more: Any) -> Op:
    """Return an operation that read the list of all."""
    return op(at, visitor=visitor, reads=[Read("list x", list(found), node)], **more)


def promises(*ops: Op, faults: Any = (), promotions: Any = (), final: Any = None) -> list[str]:
    """Return which promises a history breaks."""
    history = History(dict(FACTS), list(ops), list(faults), list(promotions), final or {})
    return [each.promise for each in all_violations(history)]


def lossy(began: float, ended: float, switch: int) -> Promotion:
    return Promotion(True, began, ended, 1, switch)


def test_a_visitor_reads_its_own_write() -> None:
    assert promises(wrote(1, 7), read(2, 7)) == []
    assert promises(wrote(1, 7), read(2)) == ["own writes"]


def test_a_read_that_began_before_the_answer_may_be_without_it() -> None:
    assert promises(wrote(1, 7), read(1.05)) == []


def test_a_write_that_failed_is_owed_to_nobody() -> None:
    away = Fault("kill", "p", "primary", 0.0, 3.0)
    assert promises(wrote(1, 7, outcome="info"), read(2), faults=[away]) == []
    assert promises(wrote(1, 7, outcome="fail"), read(2), faults=[away]) == []


def test_others_owe_it_nothing() -> None:
    assert promises(wrote(1, 7), read(2, visitor="browser1")) == []


def test_strangers_are_promised_nothing() -> None:
    history = History(dict(FACTS), [wrote(1, 7, "stranger0"), read(2, visitor="stranger0")])
    assert all_violations(history) == []
    assert report.is_conclusive(history)


def test_the_promise_ends_with_the_token() -> None:
    # What is older than a replica may be is another promise.
    assert promises(wrote(1, 7), read(31.2), final={"list x": [7]}) == ["no replica too old"]
    assert promises(wrote(1, 7, told="pin"), read(5.5)) == ["own writes"]
    assert promises(wrote(1, 7, told="pin"), read(6.2)) == []


def test_a_request_sees_what_it_has_written_itself() -> None:
    both: dict[str, Any] = {"writes": [Write("list x", 7)], "reads": [Read("list x", [], "p")]}
    assert promises(op(1, "both", told=[1, 7000], **both)) == ["own writes"]


def test_another_device_sees_it_unless_both_wrote_at_once() -> None:
    member, device = "member0", "device0"
    one = wrote(1, 7, member)
    other = read(2, visitor=device, who=member)
    assert promises(one, other) == ["own writes"]
    beside = op(1.05, "append", device, who=member, writes=[Write("list y", 8)])
    assert promises(one, beside, other) == []


def test_a_counter_is_read_as_high_as_it_was_raised() -> None:
    raised = op(1, "bump", told=[1, 1000], writes=[Write("counter x", 3)])
    for found, broken in ((2, ["own writes"]), (3, []), (4, [])):
        assert promises(raised, op(2, reads=[Read("counter x", found, "r1")])) == broken


def test_who_is_known_never_goes_back() -> None:
    ops = [wrote(1, 7, "browser9"), read(2, 7, visitor="api0"), read(3, visitor="api0", node="r2")]
    assert promises(*ops) == ["monotonic reads"]
    ops[1].kind = ops[2].kind = "browser"
    assert promises(*ops) == []


def test_nor_within_one_request() -> None:
    reads = [Read("list x", [7], "r1"), Read("list x", [], "r2")]
    assert promises(wrote(1, 7, "browser9"), op(2, visitor="api0", reads=reads)) == [
        "monotonic reads"
    ]


def test_reads_at_the_same_time_are_in_no_order() -> None:
    first = read(2, 7, visitor="api0")
    assert promises(wrote(1, 7, "browser9"), first, read(2.05, visitor="api0")) == []


def test_what_was_seen_on_the_primary_beside_a_write_is_not_carried() -> None:
    first = read(2, 7, visitor="api0", node="p", route="unsafe_request;from=primary")
    assert promises(wrote(1, 7, "browser9"), first, read(3, visitor="api0")) == []
    first.route = "token;from=primary"
    assert promises(wrote(1, 7, "browser9"), first, read(3, visitor="api0")) == ["monotonic reads"]


def test_what_was_seen_on_a_host_that_died_is_not_carried() -> None:
    ops = [wrote(1, 7, "browser9"), read(2, 7, visitor="api0"), read(4, visitor="api0", node="r2")]
    assert promises(*ops, faults=[Fault("kill", "r1", "replica", 3.0, 3.5)]) == []
    assert promises(*ops, faults=[Fault("kill", "r2", "replica", 3.0, 3.5)]) == ["monotonic reads"]
    late = Fault("pause replay", "r1", "replica", 3.0, 3.5)
    assert promises(*ops, faults=[late]) == ["monotonic reads"]


def test_a_job_sees_what_was_written_where_it_was_enqueued() -> None:
    first = wrote(1, 7)
    first.name = "enqueue"
    job = read(2, visitor="job0", number=first.number + 1)
    assert promises(first, job) == ["jobs"]
    job.reads[0].found = [7]
    assert promises(first, job) == []


def test_what_was_acknowledged_is_there_in_the_end() -> None:
    assert promises(wrote(1, 7), final={"list x": [7]}) == []
    assert promises(wrote(1, 7), final={"list x": [8]}) == ["no write lost"]
    raised = [op(n, "bump", told=[1, n], writes=[Write("counter x", n)]) for n in (1, 2)]
    assert promises(*raised, final={"counter x": 2}) == []
    assert promises(*raised, final={"counter x": 1}) == ["no write lost"]


@pytest.mark.parametrize(
    ("told", "lost"),
    [([1, 7000], True), ([1, 5000], False), ([2, 7000], False), (None, False), ("pin", True)],
    ids=["beyond the switch", "before it", "of the new timeline", "everywhere", "unknown"],
)
def test_a_lossy_promotion_loses_what_was_beyond_the_switch(told: Any, lost: bool) -> None:
    taken = [lossy(0.5, 3.0, 6000)]
    away = [Fault("promote, lossy", "p", "primary", 0.5, 4.0)]
    found = promises(
        wrote(1, 7, told=told), read(2), faults=away, promotions=taken, final={"list x": [8]}
    )
    assert found == ([] if lost else ["own writes", "no write lost"])


def test_nothing_is_lost_after_the_promotion_nor_by_one_without_loss() -> None:
    late = wrote(4, 7)
    assert promises(late, promotions=[lossy(0.5, 3.0, 6000)], final={"list x": [8]}) == [
        "no write lost"
    ]
    clean = Promotion(False, 0.5, 3.0, 1, 6000)
    assert promises(wrote(1, 7), promotions=[clean], final={"list x": [8]}) == ["no write lost"]


def test_nobody_reads_what_is_too_old() -> None:
    ops = [wrote(1, 7, "browser9"), read(21.5, visitor="stranger0")]
    assert promises(*ops) == ["no replica too old"]
    ops[1].invoked = 20.5
    assert promises(*ops) == []


def test_while_the_primary_is_away_nobody_can_tell_how_old_it_is() -> None:
    ops = [wrote(1, 7, "browser9"), read(21.5, visitor="stranger0")]
    assert promises(*ops, faults=[Fault("kill", "p", "primary", 3.0, 4.0)]) == []


def test_nothing_is_made_up() -> None:
    assert promises(read(2, 7)) == ["nothing made up"]
    away = [Fault("kill", "p", "primary", 0.0, 3.0)]
    assert promises(wrote(1, 7, outcome="fail"), read(2, 7), faults=away) == ["nothing made up"]
    assert promises(wrote(1, 7, outcome="info"), read(2, 7), faults=away) == []


@pytest.mark.parametrize(
    ("fault", "allowed"),
    [
        (Fault("kill", "p", "primary", 1.5, 3.0), True),
        (Fault("kill", "p", "primary", 0.0, 0.5), True),
        (Fault("kill", "p", "primary", -15.0, -9.5), False),
        (Fault("kill", "p", "primary", 2.2, 3.0), False),
        (Fault("kill", "r1", "replica", 1.5, 3.0), False),
    ],
    ids=["meanwhile", "just before", "long ago", "later", "of a replica"],
)
def test_a_write_fails_only_while_the_primary_is_away(fault: Fault, allowed: bool) -> None:
    failed = wrote(2, 7, outcome="info", status=500)
    assert promises(failed, faults=[fault]) == ([] if allowed else ["errors"])


def test_a_read_that_needs_no_primary_fails_for_no_other_server() -> None:
    away = Fault("kill", "p", "primary", 1.5, 3.0)
    failed = read(2, outcome="fail", status=503, visitor="stranger0")
    failed.reads.clear()
    assert promises(failed, faults=[away]) == ["errors"]
    assert promises(failed, faults=[away, Fault("kill", "r1", "replica", 1.5, 3.0)]) == []
    # One that falls again and again is left alone for a while.
    before = Fault("kill", "r1", "replica", -50.0, -45.0)
    assert promises(failed, faults=[away, before]) == ["errors"]
    failed.route = 'all_down;cluster="default";from=primary;count=1'
    assert promises(failed, faults=[away, before]) == []
    failed.route = ""
    failed.brought = True
    assert promises(failed, faults=[away]) == []


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "history.jsonl")
    recorder.facts(**FACTS)
    recorder.op(wrote(1, 7))
    recorder.op(read(2, 7))
    recorder.fault(Fault("kill", "p", "primary", 3.0, 4.0))
    recorder.promotion(lossy(5.0, 6.0, 42))
    recorder.final({"list x": [7]})
    recorder.close()
    assert load(recorder.path) == recorder.history
    recorder.path.write_text('{"is": "op"}\n')
    with pytest.raises(ValueError, match="line 1"):
        load(recorder.path)
