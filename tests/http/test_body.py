"""Bodies up to a bound: counted decompressed and while they are read, in whatever way."""

from __future__ import annotations

import asyncio
import inspect
import tracemalloc
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
import pytest
from aiohttp.streams import StreamReader

from django_poolkit.http.body import BoundedReader
from django_poolkit.http.errors import BodyTooLarge
from django_poolkit.http.shared import SharedClientSession
from django_poolkit.testing.waiting import wait_until
from tests.http.support import MakeSession, read, until
from tests.http.upstream import LINE, Upstream

MB = 1_000_000


def test_a_body_of_the_bound_is_read_and_one_byte_more_is_not(
    make: MakeSession, upstream: Upstream
) -> None:
    session = make(MAX_BODY=5000)
    assert session.sync.get(upstream.url("/bytes?n=5000")).body == LINE * 5
    with pytest.raises(BodyTooLarge, match="more than 5000 bytes") as caught:
        session.sync.get(upstream.url("/bytes?n=5001"))
    assert isinstance(caught.value, aiohttp.ClientPayloadError)
    assert session.stats().errors == {"BodyTooLarge": 1}
    assert session.sync.get(upstream.url("/bytes?n=0")).body == b""
    assert session.sync.head(upstream.url("/bomb?n=9000")).body == b""


def test_without_a_bound_all_is_read(make: MakeSession, upstream: Upstream) -> None:
    assert len(make(MAX_BODY=None).sync.get(upstream.url("/bytes?n=3000000")).body) == 3 * MB
    assert make().config.max_body == 10 * 1024 * 1024


def test_a_bomb_is_not_unpacked(make: MakeSession, upstream: Upstream) -> None:
    session = make(MAX_BODY=MB, limit=1)
    received: list[int] = []

    async def main() -> None:
        for way in ("read", "read(huge)", "iter_any"):
            async with session.get(upstream.url("/bomb?n=50000000")) as response:
                with pytest.raises(BodyTooLarge):
                    await WAYS[way](response.content)
                received.append(response.content.total_bytes)
                assert response.closed
        # Its place is free, and its connection gone.
        assert session.stats().used == 0
        await until(lambda: upstream.connections == 0)
        assert b"GET" in await read(session, upstream.url())

    asyncio.run(main())
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            session.sync.get(upstream.url("/bomb?n=50000000"))
        assert tracemalloc.get_traced_memory()[1] < 8 * MB
    finally:
        tracemalloc.stop()
    assert max(received) <= 2 * MB


async def all_of(content: Any, step: Callable[[Any], Coroutine[Any, Any, bytes]]) -> int:
    total = 0
    while piece := await step(content):
        total += len(piece)
    return total


async def chunk(content: Any) -> bytes:
    data, _ = await content.readchunk()
    return bytes(data)


async def iterated(content: Any, name: str, *args: int) -> int:
    total = 0
    async for piece in getattr(content, name)(*args):
        total += len(piece[0] if isinstance(piece, tuple) else piece)
    return total


async def at_once(content: Any) -> int:
    await content.wait_eof()
    return len(content.read_nowait())


WAYS: dict[str, Callable[[Any], Coroutine[Any, Any, int]]] = {
    "read": lambda content: all_of(content, lambda c: c.read()),
    "read(n)": lambda content: all_of(content, lambda c: c.read(700)),
    "read(huge)": lambda content: all_of(content, lambda c: c.read(10**9)),
    "readany": lambda content: all_of(content, lambda c: c.readany()),
    "readchunk": lambda content: all_of(content, chunk),
    "readline": lambda content: all_of(content, lambda c: c.readline()),
    "readuntil": lambda content: all_of(content, lambda c: c.readuntil(b"y")),
    "readexactly": lambda content: all_of(content, lambda c: c.readexactly(4001)),
    "iter_chunked": lambda content: iterated(content, "iter_chunked", 512),
    "iter_any": lambda content: iterated(content, "iter_any"),
    "iter_chunks": lambda content: iterated(content, "iter_chunks"),
    "lines": lambda content: iterated(content, "__aiter__"),
    "read_nowait": at_once,
}


@pytest.mark.parametrize("way", WAYS)
def test_the_bound_holds_in_each_way_to_read(
    make: MakeSession, upstream: Upstream, way: str
) -> None:
    session = make(MAX_BODY=4000)

    async def main() -> None:
        async with session.get(upstream.url("/bytes?n=4000")) as response:
            if way != "readexactly":
                assert await WAYS[way](response.content) == 4000
        # So much that the server could not have sent all of it by now, if nobody hung up.
        size = 6000 if way == "read_nowait" else 5 * MB
        async with session.get(upstream.url(f"/bytes?n={size}")) as response:
            with pytest.raises(BodyTooLarge):
                await WAYS[way](response.content)
            assert response.connection is None
            assert session.stats().used == 0

    asyncio.run(main())


def test_nothing_of_aiohttps_reader_goes_past_the_bound() -> None:
    """Each public method is ours, or made of those that are."""
    made_of_others = {"iter_chunked", "iter_any", "iter_chunks"}
    of_the_parser = {
        "feed_data",
        "feed_eof",
        "begin_http_chunk_receiving",
        "end_http_chunk_receiving",
    }
    theirs = {
        name
        for name, value in vars(StreamReader).items()
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property))
    }
    assert theirs - made_of_others - of_the_parser <= set(vars(BoundedReader))


def test_the_rest_of_the_reader_is_aiohttps(
    session: SharedClientSession, upstream: Upstream
) -> None:
    async def main() -> None:
        async with session.get(upstream.url("/bytes?n=4000")) as response:
            content = response.content
            assert isinstance(content, StreamReader)
            ended = []
            content.on_eof(lambda: ended.append(True))
            await content.wait_eof()
            assert ended == [True]
            assert (content.is_eof(), content.at_eof()) == (True, False)
            assert content.total_bytes == content.total_raw_bytes == 4000
            assert content.get_read_buffer_limits() > (0, 0)
            assert content.exception() is None
            assert "BoundedReader of <StreamReader" in repr(content)
            assert len(await content.read()) == 4000

    asyncio.run(main())


def test_a_body_can_be_handed_on_as_the_body_of_a_request(
    session: SharedClientSession, upstream: Upstream, other: Upstream
) -> None:
    async def main() -> None:
        async with (
            session.get(upstream.url("/bytes?n=4000")) as first,
            session.post(other.url(), data=first.content) as second,
        ):
            assert (await second.json())["body"] == LINE.decode() * 4

    asyncio.run(main())


def test_what_was_put_back_is_not_counted_twice(make: MakeSession, upstream: Upstream) -> None:
    session = make(MAX_BODY=4000)

    async def main() -> None:
        async with session.get(upstream.url("/bytes?n=4000")) as response:
            start = await response.content.read(100)
            with pytest.warns(DeprecationWarning, match="unread_data"):
                response.content.unread_data(start)
            assert len(await response.content.read()) == 4000

    asyncio.run(main())


def test_an_answer_that_breaks_off_or_stalls_is_counted(
    make: MakeSession, upstream: Upstream
) -> None:
    session = make(sock_read=0.2)
    with pytest.raises(aiohttp.SocketTimeoutError):
        session.sync.get(upstream.url("/stall"))
    assert session.stats().errors == {"SocketTimeoutError": 1}
    assert session.stats().used == 0
    upstream.let_go()
    wait_until(lambda: upstream.connections == 0)
