"""A client session on event loops: each gets its own, and none outlives its loop."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import warnings
from typing import Any

import aiohttp
import pytest
from asgiref.sync import async_to_sync, sync_to_async

from django_poolkit import PoolClosed, WrongLoop, client_sessions, registry
from django_poolkit.http.shared import SharedClientSession
from django_poolkit.testing.waiting import wait_until
from tests.http.support import MakeSession, read, until
from tests.http.upstream import Upstream


def test_it_gives_what_aiohttp_gives(session: SharedClientSession, upstream: Upstream) -> None:
    async def main() -> None:
        response = await session.get(upstream.url())
        assert isinstance(response, aiohttp.ClientResponse)
        assert (await response.json())["method"] == "GET"
        async with session.post(upstream.url(), json={"a": 1}) as response:
            assert (await response.json())["body"] == '{"a": 1}'
            assert response.content.at_eof()
        for verb in ("put", "patch", "delete", "options"):
            async with getattr(session, verb)(upstream.url()) as response:
                assert (await response.json())["method"] == verb.upper()
        async with session.head(upstream.url()) as response:
            assert (response.status, await response.read()) == (200, b"")
        async with session.request("get", upstream.url(), params={"q": "x"}) as response:
            assert response.url.query == {"q": "x"}

    asyncio.run(main())


def test_all_requests_of_a_loop_share_its_connections(
    make: MakeSession, upstream: Upstream
) -> None:
    session = make(limit=3)

    async def ask() -> None:
        async with client_sessions["api"].get(upstream.url()) as response:
            await response.read()

    async def main() -> None:
        await asyncio.gather(*(ask() for _ in range(30)))
        assert session.stats().size == session.stats().connects == 3
        assert upstream.connections == 3

    asyncio.run(main())


def test_the_end_of_the_loop_closes_what_was_opened_on_it(
    session: SharedClientSession, upstream: Upstream
) -> None:
    async def main() -> None:
        async with session.get(upstream.url()) as response:
            await response.read()
        assert session.stats().idle == 1

    for _ in range(3):
        asyncio.run(main(), debug=True)
        assert session.stats().size == 0
        wait_until(lambda: upstream.connections == 0)
    assert session.stats().connects == 3
    gc.collect()


def test_a_loop_that_is_closed_without_a_word_leaves_neither_warning_nor_socket(
    make: MakeSession, secure: Upstream, upstream: Upstream, cafile: Any
) -> None:
    session = make(CAFILE=str(cafile))
    loop = asyncio.new_event_loop()

    async def ask(url: str) -> Any:
        return await session.get(url)

    loop.run_until_complete(ask(secure.url()))
    loop.run_until_complete(ask(upstream.url()))
    # One that is used as the loop ends: of its answer only a part is there.
    responses = [loop.run_until_complete(ask(upstream.url("/bytes?n=2000000")))]
    stats = session.stats()
    assert (stats.used, stats.idle) == (1, 1)
    loop.close()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert session.stats().size == 0  # whoever looks next clears up
        responses.clear()
        gc.collect()
    assert caught == []
    wait_until(lambda: upstream.connections == secure.connections == 0)
    asyncio.run(ask(upstream.url()))


def test_each_loop_has_its_own_at_the_same_time(
    session: SharedClientSession, upstream: Upstream
) -> None:
    ready, done = threading.Barrier(3), threading.Event()
    found: list[int] = []

    async def main() -> None:
        async with session.get(upstream.url()) as response:
            found.append((await response.json())["headers"].get("x", 0))
        await asyncio.to_thread(ready.wait, 10)
        await asyncio.to_thread(done.wait, 10)

    threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(2)]
    for thread in threads:
        thread.start()
    ready.wait(10)
    stats = session.stats()
    assert (stats.connects, stats.size, stats.max_size) == (2, 2, 200)
    done.set()
    for thread in threads:
        thread.join(10)
    assert session.stats().size == 0
    assert len(found) == 2


def test_without_a_loop_the_error_says_what_to_write(session: SharedClientSession) -> None:
    with pytest.raises(WrongLoop, match=r"client_sessions\['api'\]\.sync\.get\(\.\.\.\)"):
        session.get("http://127.0.0.1/")


def test_a_request_that_is_made_on_one_loop_may_be_awaited_on_another(
    session: SharedClientSession, upstream: Upstream
) -> None:
    async def make_it() -> Any:
        return session.get(upstream.url())

    request = asyncio.run(make_it())

    async def await_it() -> None:
        assert (await request).status == 200

    asyncio.run(await_it())


def test_a_response_that_is_read_on_another_loop_is_refused(
    session: SharedClientSession, upstream: Upstream
) -> None:
    async def read_elsewhere(response: aiohttp.ClientResponse) -> None:
        with pytest.raises(WrongLoop, match="belongs to another event loop"):
            await response.read()
        with pytest.raises(WrongLoop):
            await response.content.readany()

    async def main() -> None:
        async with session.get(upstream.url("/stall")) as response:
            await asyncio.to_thread(lambda: asyncio.run(read_elsewhere(response)))
        assert session.stats().used == 0

    asyncio.run(main())


def test_from_sync_and_async_code_nested_in_each_other(
    session: SharedClientSession, upstream: Upstream
) -> None:
    async def ask() -> int:
        async with session.get(upstream.url()) as response:
            await response.read()
            return response.status

    def in_between() -> tuple[int, int]:
        return session.sync.get(upstream.url()).status, async_to_sync(ask)()

    async def main() -> None:
        assert await sync_to_async(in_between)() == (200, 200)
        assert await asyncio.to_thread(in_between) == (200, 200)
        # asgiref brings a coroutine of such a thread back to this loop, whose session it then is.
        assert session.stats().size <= 3

    asyncio.run(main())
    # Without an outer loop each call has one of its own, which ends with it.
    assert async_to_sync(ask)() == async_to_sync(ask)() == 200
    session.sync.get(upstream.url())
    assert session.stats().size == 1
    wait_until(lambda: upstream.connections == 1)


def test_closing_ends_it_for_good_and_the_next_who_asks_gets_a_new_one(
    session: SharedClientSession, upstream: Upstream
) -> None:
    async def main() -> None:
        async with session.get(upstream.url()) as response:
            await response.read()
        session_in_thread = await asyncio.to_thread(session.sync.get, upstream.url())
        assert session_in_thread.status == 200
        assert session.stats().size == 2
        await session.close()
        assert (session.stats().size, session.stats().state) == (0, "closed")
        await until(lambda: upstream.connections == 0)
        with pytest.raises(PoolClosed, match="client session 'api' is closed") as caught:
            await session.get(upstream.url())
        assert caught.value.pool == "http:api"
        with pytest.raises(PoolClosed):
            await asyncio.to_thread(session.sync.get, upstream.url())
        await session.close()  # once more does no harm
        again = client_sessions["api"]
        assert again is not session
        async with again.get(upstream.url()) as response:
            assert response.status == 200

    asyncio.run(main())


def test_after_shutdown_there_is_no_new_one(
    session: SharedClientSession, upstream: Upstream
) -> None:
    assert session.sync.get(upstream.url()).status == 200
    registry.sessions.shut_down(5.0)
    assert session.ended
    assert session.stats().size == 0
    with pytest.raises(PoolClosed, match="this process is shutting down"):
        client_sessions["api"]
    registry.sessions.reopen()
    assert client_sessions["api"].sync.get(upstream.url()).status == 200


def test_who_waits_for_a_connection_as_it_closes_is_told_so(
    make: MakeSession, upstream: Upstream
) -> None:
    session = make(limit=1)

    async def main() -> None:
        holding = asyncio.create_task(read(session, upstream.url("/hold")))
        await until(lambda: upstream.held == 1)
        waiting = asyncio.create_task(read(session, upstream.url()))
        await until(lambda: session.stats().waiters == 1)
        await session.close()
        for each in (waiting, holding):
            with pytest.raises(PoolClosed):
                await each

    asyncio.run(main())
    assert session.stats().waiters == session.stats().used == 0


@pytest.mark.parametrize("path", ["/stall", "/flaky?fail=9&status=503&after=2"])
def test_who_reads_or_sleeps_as_it_closes_is_told_so(
    make: MakeSession, upstream: Upstream, path: str
) -> None:
    session = make(RETRIES=9, total=None, sock_read=None)
    url = upstream.url(path)

    async def main() -> None:
        tasks = [
            asyncio.create_task(read(session, url)),
            asyncio.create_task(asyncio.to_thread(session.sync.get, url)),
        ]
        # Both have an answer, whose body does not come, or which is not taken.
        used = 2 if path == "/stall" else 0
        await until(lambda: upstream.count(path.partition("?")[0]) == 2)
        await until(lambda: session.stats().used == used)
        connects = session.stats().connects
        await session.close()
        for task in tasks:
            with pytest.raises(PoolClosed):
                await asyncio.wait_for(task, 10)
        assert session.stats().connects == connects == 2

    asyncio.run(main())
    upstream.let_go()
    wait_until(lambda: upstream.connections == 0)


def test_who_connects_as_it_closes_is_told_so(make: MakeSession) -> None:
    session = make()

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            url = f"https://127.0.0.1:{mute.getsockname()[1]}/"
            connecting = asyncio.create_task(session.post(url))
            client, _ = await asyncio.to_thread(mute.accept)
            with client:
                assert session.stats().connecting == 1
                await session.close()
            with pytest.raises(PoolClosed):
                await connecting

    asyncio.run(main())


def test_what_has_come_whole_before_it_closes_can_be_read(
    make: MakeSession, upstream: Upstream
) -> None:
    session = make(limit=1)

    async def main() -> None:
        response = await session.get(upstream.url("/bytes?n=3000"))
        await until(response.content.is_eof)
        next_one = asyncio.create_task(read(session, upstream.url("/hold")))
        await until(lambda: upstream.held == 1)
        await session.close()
        assert len(await response.read()) == 3000
        with pytest.raises(PoolClosed):
            await next_one
        assert session.stats().connects == 1

    asyncio.run(main())


def test_who_sleeps_on_a_loop_that_stands_still_as_it_closes_is_told_so_too(
    make: MakeSession, upstream: Upstream
) -> None:
    session = make(RETRIES=9)
    loop = asyncio.new_event_loop()

    async def begin() -> asyncio.Task[bytes]:
        url = upstream.url("/flaky?fail=9&status=503&after=1")
        task = asyncio.create_task(read(session, url))
        await until(lambda: upstream.count("/flaky") == 1 and session.stats().idle == 1)
        return task

    task = loop.run_until_complete(begin())
    session.close_from_thread(5.0)
    with pytest.raises(PoolClosed):
        loop.run_until_complete(task)
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def test_a_cancelled_request_stays_cancelled_and_frees_its_place(
    make: MakeSession, upstream: Upstream
) -> None:
    session = make(limit=1)

    async def main() -> None:
        holding = asyncio.create_task(read(session, upstream.url("/hold")))
        await until(lambda: upstream.held == 1)
        waiting = asyncio.create_task(read(session, upstream.url()))
        await until(lambda: session.stats().waiters == 1)
        for task in (waiting, holding):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        stats = session.stats()
        assert (stats.waiters, stats.used, stats.timeouts) == (0, 0, 0)
        assert stats.errors == {"CancelledError": 2}
        assert b"GET" in await read(session, upstream.url())

    asyncio.run(main())


def test_closing_takes_no_longer_than_its_time(make: MakeSession) -> None:
    session = make(CLOSE_TIMEOUT=0.5, total=None, sock_read=None)

    async def endless() -> Any:
        while True:
            yield bytes(1_000_000)

    async def main(url: str) -> None:
        task = asyncio.create_task(_send(session, url, endless()))
        await until(lambda: session.stats().used == 1)
        loop = asyncio.get_running_loop()
        started = loop.time()
        await session.close()
        assert 0.3 < loop.time() - started < 3
        with pytest.raises(aiohttp.ClientError):
            await task
        assert session.stats().size == 0

    # It takes connections, and reads nothing: what is sent there never leaves this process.
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        asyncio.run(main(f"http://127.0.0.1:{deaf.getsockname()[1]}/"))


async def _send(session: SharedClientSession, url: str, data: Any) -> None:
    async with session.post(url, data=data):
        pass


def test_a_shared_session_says_its_name_and_nothing_else(make: MakeSession) -> None:
    session = make(headers={"Authorization": "secret"}, base_url="https://secret.example/")
    assert repr(session) == "<SharedClientSession 'api'>"
    assert session.name == "http:api"
