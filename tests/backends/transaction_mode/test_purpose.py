"""What a lease was acquired for: named by hand, in a request or outside of one."""

from __future__ import annotations

import pytest
from django.db import transaction

from django_poolkit import share
from django_poolkit.backends.request import RequestScope, entered
from tests.app.models import Item
from tests.backends.transaction_mode.support import connection

pytestmark = pytest.mark.core


def where() -> str | None:
    """Return where a lease of this thread is, as others see it."""
    with transaction.atomic():
        Item.objects.count()
        (lease,) = connection.pool.leases()
        found: str | None = lease.where
        return found


@pytest.fixture(autouse=True, params=["session", "transaction"])
def pool(pooled, request):
    """A pool in each mode."""
    yield pooled(mode=request.param, max_size=2)
    connection.close()


def test_the_innermost_name_counts():
    with share("exports"), share("exports.orders"):
        assert where() == "exports.orders"


def test_the_next_lease_is_another_works():
    with share("exports"):
        assert where() == "exports"
        connection.close()
    assert where() is None


def test_what_rests_forgets_whose_it_was(pooled):
    pooled(mode="transaction", max_size=2)
    # One that has been looked at rests no more: so nobody does before the last.
    with share("exports"):
        Item.objects.count()
    assert where() is None
    with share("exports"):
        Item.objects.count()
    with entered(RequestScope(method="GET", path="/nowhere/")):
        assert where() == "GET (no view)"


def test_in_a_request_the_name_comes_first():
    with entered(RequestScope(method="GET", path="/nowhere/")), share("exports"):
        assert where() == "exports, GET (no view)"


def test_a_name_is_said_once():
    scope = RequestScope(method="WEBSOCKET", path="/ws/")
    scope.server = "shop.Chat"
    with entered(scope), share("shop.Chat"):
        assert where() == "WEBSOCKET shop.Chat"
    assert scope.view() == "shop.Chat"
