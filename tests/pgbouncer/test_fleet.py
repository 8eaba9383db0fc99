"""Processes that share a server that has too few connections, held against what is predicted."""

from __future__ import annotations

import pytest

from django_poolkit.testing import Node
from tests.benchmarks.scale_fleet import SMALL, tried


@pytest.mark.usefixtures("installed")
def test_the_plan_for_too_many_processes_is_what_comes_true(primary: Node) -> None:
    """Without a pooler some starve as simulated; with one, set as advised, nobody does."""
    plan = SMALL.plan()
    assert plan.word == "pooler"
    assert plan.pooler is not None
    assert plan.direct is not None
    direct, shared = tried(primary, SMALL, 4.0)
    # Who has a connection keeps it. (One that a busy machine loses may go to another.)
    assert plan.direct.without == SMALL.processes - SMALL.connections
    assert direct.without in (plan.direct.without, plan.direct.without - 1)
    assert direct.connections == plan.direct.connections == SMALL.connections
    assert direct.vain == pytest.approx(plan.direct.timeouts, abs=0.2)
    # The same callers in one queue.
    assert shared is not None
    assert shared.acquires > 100
    assert (shared.vain, shared.without) == (0.0, 0)
    assert shared.connections <= plan.pooler.pool_size < SMALL.connections
    assert shared.p99 < direct.p99
