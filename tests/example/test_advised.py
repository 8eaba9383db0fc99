"""What is made of advice, and of whether it held."""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from typing import Any

import pytest

from example_project import advised
from example_project.advised import Answer, Found, Waits
from example_project.load import Plan
from example_project.measures import Measures
from example_project.processes import ChildFailed
from example_project.runs import UPSTREAM_SECONDS


def document(**changes: Any) -> dict[str, Any]:
    """What `pooladvise --format json` writes, as far as it is read."""
    predictions = [
        {"size": 2, "queued": 0.8, "p99": 1.2, "acquires": 30_000},
        {"size": 5, "queued": 0.03, "p99": 0.04, "acquires": 30_000},
    ]
    kind = {"max_size": 2, "waits": {"count": 200, "queued": 0.75, "p50": 0.25, "p99": 1.0}}
    pool = {"kind": kind, "now": predictions[0], "advised": 5, "predictions": predictions}
    return {"pools": [pool | changes], "problems": [], "status": "change"}


def found(
    size: int = 2,
    queued: float = 0.75,
    p99: float | None = 1.0,
    best: int | None = 5,
    failures: int = 0,
    predicted: float = 0.8,
) -> Found:
    measures = Measures(latencies=[0.2] * 200, failures=Counter({"503": failures}))
    guesses = {2: Waits(queued=predicted, p99=1.2), 5: Waits(queued=0.03, p99=0.04)}
    answer = Answer(
        size=size, advised=best, measured=Waits(queued=queued, p99=p99), predicted=guesses
    )
    return Found(answer=answer, measures=measures)


def kept(before: Found, after: Found | None) -> list[bool]:
    return [verdict.kept for verdict in advised.verdicts(before, after)]


AFTER: dict[str, Any] = {"size": 5, "queued": 0.06, "p99": 0.05}


def test_the_answer_is_read_from_the_document_of_the_command() -> None:
    answer = Answer.of(document())
    assert (answer.size, answer.advised) == (2, 5)
    assert answer.measured == Waits(queued=0.75, p99=1.0)
    assert answer.predicted == {2: Waits(queued=0.8, p99=1.2), 5: Waits(queued=0.03, p99=0.04)}


def test_without_a_measured_pool_there_is_no_answer() -> None:
    quiet = document(now=None) | {"problems": ["no live process was found"]}
    with pytest.raises(ChildFailed, match="It says: no live process was found"):
        Answer.of(quiet)
    with pytest.raises(ChildFailed, match="It says: nothing measured"):
        Answer.of({"pools": [], "problems": [], "status": "nothing measured"})


def test_that_it_has_none_ends_the_visits_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[str] = []

    async def drive(*args: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            left.append("home")

    async def drive_alone(*args: Any) -> None:
        pass

    def ask(variables: Any) -> Answer:
        return Answer.of({"pools": [], "problems": [], "status": "nothing measured"})

    for stub in (drive, drive_alone):
        monkeypatch.setattr(advised, stub.__name__, stub)
    monkeypatch.setattr(advised, "_ask", ask)
    with pytest.raises(ChildFailed, match="nothing measured"):
        asyncio.run(advised._visited(Plan("http://127.0.0.1/", 0.01, 4), {}))
    assert left == ["home"]


def test_waits_that_are_as_predicted_keep_the_promise() -> None:
    assert kept(found(), found(**AFTER)) == [True] * 5


@pytest.mark.parametrize(
    ("before", "after", "broken"),
    [
        ({"best": 2}, {}, 0),  # it saw no need
        ({"predicted": 0.3}, {}, 1),  # nothing like what was measured
        ({"queued": 0.05, "predicted": 0.04}, {"queued": 0.01}, 1),  # nobody waited anyway
        ({}, {"queued": 0.4}, 2),  # it got no better
        ({}, {"queued": 0.25}, 2),  # better, and far from what was predicted
        ({}, {"p99": 1.0}, 3),
        ({}, {"p99": None}, 3),
        ({}, {"failures": 1}, 4),
    ],
)
def test_one_that_differs_breaks_it(
    before: dict[str, Any], after: dict[str, Any], broken: int
) -> None:
    judged = kept(found(**before), found(**{**AFTER, **after}))
    assert not judged[broken]
    assert judged.count(False) == 1


def test_without_a_size_that_helps_there_is_no_second_run() -> None:
    assert kept(found(best=None), None) == [False, True]


def test_both_sizes_stand_beside_what_was_predicted_of_them() -> None:
    view = advised.table(found(), found(**AFTER))
    cells = [list(column.cells) for column in view.columns]
    assert [column.header for column in view.columns] == ["", "max_size 2", "max_size 5"]
    assert cells[1][:4] == ["80.0%", "75.0%", "1,200 ms", "up to 1,000 ms"]
    assert cells[2][:4] == ["3.0%", "6.0%", "40 ms", "up to 50 ms"]


def test_so_many_visitors_keep_the_connections_busy() -> None:
    for connections in (4, 8, 100):
        rate = advised.visitors(connections) / (advised.PAUSE + 0.9 * UPSTREAM_SECONDS)
        busy = rate * 0.9 * UPSTREAM_SECONDS / connections
        assert busy == pytest.approx(advised.LOAD, rel=0.02)


def test_pauses_are_those_of_the_client_and_last_as_long_as_said_on_average() -> None:
    plan = Plan("http://127.0.0.1/", 1.0, 4, pause=2.0)
    one, again, other = plan.pauses(1), plan.pauses(1), plan.pauses(2)
    drawn = [one() for _ in range(4000)]
    assert drawn == [again() for _ in drawn]
    assert drawn[0] != other()
    assert statistics.mean(drawn) == pytest.approx(2.0, rel=0.1)
    assert Plan("http://127.0.0.1/", 1.0, 4).pauses(1)() == 0.0


def test_visitors_set_out_no_faster_than_they_come_later() -> None:
    assert Plan("http://127.0.0.1/", 5.0, 4, pause=2.0).ramp == 2.0
    assert Plan("http://127.0.0.1/", 5.0, 4).ramp == 1.0
