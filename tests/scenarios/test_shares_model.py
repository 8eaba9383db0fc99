"""Shares against a model of them: whoever may have a connection has one, and nobody else.

No waiter looks by itself whether it could be served: whatever makes it so has to tell it.
"""

from __future__ import annotations

import pytest

from django_poolkit.pools.postgres import acquire
from django_poolkit.testing import Node
from tests.scenarios.machines import run_machine
from tests.scenarios.shares_model import SharesModel

pytestmark = [
    # Said by whoever takes a lost lease back, at any time and in any thread.
    pytest.mark.filterwarnings(
        "ignore:.*a lease was dropped:django_poolkit.pools.errors.PoolWarning"
    ),
    pytest.mark.usefixtures("nobody_looks"),
]


@pytest.fixture
def nobody_looks(monkeypatch):
    monkeypatch.setattr(acquire, "_ORPHAN_ROUND", 600.0)


def run(primary: Node, examples: int, steps: int) -> None:
    class Machine(SharesModel):
        def __init__(self) -> None:
            super().__init__(primary)

    run_machine(Machine, examples, steps)


def test_the_shares_do_what_the_model_says(primary):
    run(primary, examples=15, steps=50)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_shares_do_what_the_model_says_at_length(primary):
    run(primary, examples=400, steps=60)
