"""What counts the round trips of SQLAlchemy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from django_poolkit.testing import Node
from django_poolkit.testing.faults import TCPProxy


@pytest.fixture
def proxy(primary: Node) -> Iterator[TCPProxy]:
    """What counts the round trips to the server."""
    with TCPProxy(primary.host, primary.port) as proxy:
        yield proxy
