"""Connects where there are several hosts, and some are not there."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from django_poolkit.pools.asyncpg.hosts import dial
from django_poolkit.testing import Node
from django_poolkit.testing.faults import TCPProxy
from tests.pools.asyncpg.support import MakePool, Run, assert_quiet, pid


@pytest.fixture
def silent() -> Iterator[int]:
    """Return the port of a machine that hangs: it takes connections, and says nothing."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        place.listen()
        yield place.getsockname()[1]


def test_a_silent_host_keeps_nobody_from_the_next(
    make: MakePool, run_on_each: Run, primary: Node, silent: int
) -> None:
    async def main() -> None:
        hosts = ["127.0.0.1", primary.host]
        pool = make({"host": hosts, "port": [silent, primary.port]}, timeout=1.0)
        assert await pid(pool)
        async with pool.listener("orders") as listener:
            assert listener.connected
        assert_quiet(pool)

    run_on_each(main())


def test_hosts_are_tried_in_their_order(
    make: MakePool, run: Run, primary: Node, where: dict[str, Any]
) -> None:
    async def main() -> None:
        with TCPProxy(primary.host, primary.port) as proxy:
            hosts = ["127.0.0.1", primary.host]
            pool = make({"host": hosts, "port": [proxy.port, primary.port]}, max_size=1)
            assert await pid(pool)
            assert proxy.open_connections == 1
            proxy.refuse()
            proxy.drop()
            assert await pid(pool)
            assert proxy.open_connections == 0

    run(main())


@pytest.mark.parametrize(
    ("wanted", "asked"),
    [
        ("primary", [("a", "primary"), ("b", "primary")]),
        (None, [("a", None), ("b", None)]),
        ("prefer-standby", [("a", "standby"), ("b", "standby"), ("a", "any"), ("b", "any")]),
    ],
)
def test_each_host_is_asked_what_it_is(
    run: Run, wanted: str | None, asked: list[tuple[str, str | None]]
) -> None:
    found = []

    async def connect(**options: Any) -> None:
        found.append((options["host"], options["target_session_attrs"]))
        if options["host"] == "a":
            raise ConnectionRefusedError
        raise asyncpg.TargetServerAttributeNotMatched

    arguments = {"host": ["a", "b"], "port": 5432, "target_session_attrs": wanted}
    with pytest.raises(ConnectionRefusedError):  # the other is as it should be
        run(dial(connect, arguments))
    assert found == asked


def test_a_wrong_password_is_not_tried_on_the_next(run: Run) -> None:
    found = []

    async def connect(**options: Any) -> None:
        found.append(options["host"])
        raise asyncpg.InvalidPasswordError

    with pytest.raises(asyncpg.InvalidPasswordError):
        run(dial(connect, {"host": ["a", "b"], "port": [1, 2]}))
    assert found == ["a"]


def test_hosts_and_ports_that_do_not_match_are_refused(make: MakePool, run: Run) -> None:
    async def main() -> None:
        pool = make({"host": ["a", "b"], "port": [1, 2, 3]})
        with pytest.raises(asyncpg.ClientConfigurationError, match="could not match"):
            async with pool.listener("orders"):
                raise AssertionError("not to be entered")

    run(main())
