"""What the router has decided, counted: by cluster and reason, whoever asks at the same time."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.contrib.auth.models import User

from django_poolkit.metrics.families import DECISIONS
from django_poolkit.metrics.readings import readings
from django_poolkit.routing import NoReplica, admission, figures, scope, use_primary, use_replica
from django_poolkit.routing.breaker import Circuit
from django_poolkit.routing.figures import Decisions
from tests.app.models import Item
from tests.routing.conftest import alias_of


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Decisions:
    """The counts of this process, from nothing."""
    made = Decisions()
    monkeypatch.setattr(figures, "decisions", made)
    return made


@pytest.fixture
def evict(routed: object) -> Iterator[Callable[[], None]]:
    """Return a function that has the one replica not be read."""
    circuit = Circuit()
    circuit.bad("refuses")
    yield lambda: admission.publish({"replica": circuit})
    admission.publish({})


def test_each_answer_is_counted_by_its_reason(routed, counted):
    with scope():
        for _ in range(3):
            alias_of(Item)
        alias_of(User)
        with use_primary():
            alias_of(Item)
        with use_replica():
            alias_of(User)
    assert counted.read() == {
        ("default", "read"): 3, ("default", "rule"): 1,
        ("default", "use_primary"): 1, ("default", "use_replica"): 1,
    }  # fmt: skip
    # To look changes nothing.
    assert counted.read() == counted.read()


def test_a_fall_to_the_primary_and_an_error_are_answers(evict, settings, counted):
    evict()
    with scope():
        alias_of(Item)
    clusters = {"default": {"replicas": ["replica"], "all_down": "error"}}
    settings.POOLKIT = {**settings.POOLKIT, "CLUSTERS": clusters}
    evict()  # settings that change are a new beginning
    with scope(), pytest.raises(NoReplica):
        alias_of(Item)
    assert counted.read() == {("default", "all_down"): 1, ("default", "error"): 1}


def test_the_metrics_of_the_process_have_them(routed):
    before = readings.take()[DECISIONS].get(("default", "read"), (0,))[0]
    with scope():
        alias_of(Item)
    assert readings.take()[DECISIONS]["default", "read"] == (before + 1,)


def test_none_is_lost_where_threads_count_side_by_side():
    made, seen, threads, times = Decisions(), [], 8, 4000
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    def work(number: int) -> None:
        for turn in range(times):
            made.count("default", "read" if turn % 2 else "wrote")
            if number == 0 and turn % 100 == 0:
                seen.append(made.read()["default", "wrote"])

    try:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))
    finally:
        sys.setswitchinterval(interval)
    assert made.read() == dict.fromkeys(
        [("default", "read"), ("default", "wrote")], threads * times // 2
    )
    assert seen == sorted(seen)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_begins_at_nothing():
    figures.decisions.count("default", "read")
    child = os.fork()
    if child == 0:  # pragma: no cover
        os._exit(len(figures.decisions.read()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert figures.decisions.read()["default", "read"] >= 1
