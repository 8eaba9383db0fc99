"""To look at a connection, or to make sure of one, is not to hold it."""

from __future__ import annotations

import pytest
from django.db import OperationalError

from tests.backends.transaction_mode.support import (
    SOON,
    backend,
    connection,
    used,
)

pytestmark = pytest.mark.core


def test_is_usable_tells_of_the_logical_connection(pooled, primary):
    pooled(max_size=1)
    assert isinstance(backend(), int)
    assert connection.is_usable()
    connection._close()
    assert not connection.is_usable()
    assert isinstance(backend(), int)
    assert connection.is_usable()


def test_is_usable_is_false_while_nobody_can_connect(pooled, primary, proxy):
    pool = pooled(max_size=1, entry={"HOST": proxy.host, "PORT": str(proxy.port)})
    assert isinstance(backend(), int)
    proxy.refuse()
    proxy.drop()
    pool.timeout = SOON
    assert not connection.is_usable()
    assert used(pool) == 0
    proxy.accept()
    pool.timeout = 20.0
    assert connection.is_usable()


def test_a_temporary_connection_is_none_afterwards(pooled):
    pool = pooled(max_size=1)
    with connection.temporary_connection() as cursor:
        cursor.execute("SELECT 1")
        assert used(pool) == 1
    assert used(pool) == 0
    backend()
    with connection.temporary_connection() as cursor:
        cursor.execute("SELECT 1")
    assert used(pool) == 0


def test_ensure_connection_connects_for_real(pooled, proxy):
    pool = pooled(max_size=1, entry={"HOST": proxy.host, "PORT": str(proxy.port)})
    proxy.refuse()
    pool.timeout = SOON
    with pytest.raises(OperationalError):
        connection.ensure_connection()
    assert used(pool) == 0
    proxy.accept()
    pool.timeout = 20.0
    connection.ensure_connection()
    assert pool.stats().connects == 1
    # And notices later that the server is gone.
    proxy.refuse()
    proxy.drop()
    pool.timeout = SOON
    with pytest.raises(OperationalError):
        connection.ensure_connection()
