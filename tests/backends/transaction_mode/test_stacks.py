"""How far the stack of a lease reaches: to the line that asked, past all of Django's."""

from __future__ import annotations

import pytest
from django.db import transaction

from tests.app.models import Item
from tests.backends.transaction_mode.support import connection

pytestmark = pytest.mark.core


def stack_of_a_count() -> tuple[str, ...]:
    with transaction.atomic():
        Item.objects.count()
        [lease] = connection.pool.leases()
        stack: tuple[str, ...] = lease.stack
        return stack


def test_that_of_the_first_lease_reaches_as_far_as_the_next(pooled):
    pooled(stacks="all")
    for stack in (stack_of_a_count(), stack_of_a_count()):
        assert any("stack_of_a_count" in line for line in stack)


def test_none_begins_before_the_caller_of_cursor(pooled):
    pooled(stacks="all")
    for _ in range(2):
        with transaction.atomic(), connection.cursor():
            [lease] = connection.pool.leases()
            assert "test_none_begins" in lease.stack[0]


def test_so_does_that_of_an_eager_block(pooled):
    pooled(stacks="all", atomic_lease="eager")
    for _ in range(2):
        with transaction.atomic():
            [lease] = connection.pool.leases()
            assert any("test_so_does_that" in line for line in lease.stack)
