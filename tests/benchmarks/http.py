"""What sharing a client session saves: one run, side by side, against an upstream of its own.

The upstream is another process on loopback, over TCP and over TLS: what is measured is what a
new session costs beside one that keeps its connections, not what a network adds to that.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import ssl
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
import django
import trustme
from aiohttp import web
from asgiref.sync import async_to_sync
from django.conf import settings

READING = """
contestants:
  shared            client_sessions["api"], as in a view: one aiohttp session, its connections kept
  per request       async with aiohttp.ClientSession() as session: ... for each request
  bare              one aiohttp.ClientSession of one's own, without anything of the kit: the floor
  shared, sync      client_sessions["api"].sync, from threads
  per request, sync async_to_sync() around a session for each request, from threads

how to read the table:
  The contestants take turns in short rounds, so that whatever else the machine does hits all of
  them alike. "p50" and "p95" are milliseconds of one request, "sockets" the connections that the
  upstream saw, of all requests together, a first round included that is not timed. "x shared" is
  the ratio of p50 to that of the shared session of the same kind. Compare ratios of one run,
  never times of two.

examples:
  python -m tests.benchmarks.http                     half a minute, on a quiet machine
  python -m tests.benchmarks.http --rounds 20         for figures that are to be quoted
  python -m tests.benchmarks.http --json > run.json   the same rows, for another program
"""

SHARED, EACH, BARE = "shared", "per request", "bare"
SYNC, EACH_SYNC = "shared, sync", "per request, sync"
_BASELINE = {SHARED: SHARED, EACH: SHARED, BARE: SHARED, SYNC: SYNC, EACH_SYNC: SYNC}


@dataclass
class Upstream:
    """The server, as the benchmark sees it."""

    url: str
    pipe: Connection

    def sockets(self) -> int:
        """Return how many connections it has accepted so far."""
        self.pipe.send("sockets")
        found: int = self.pipe.recv()
        return found


def _serve(pipe: Connection, certificate: str | None) -> None:
    asyncio.run(_answer(pipe, certificate))


async def _answer(pipe: Connection, certificate: str | None) -> None:
    accepted = 0

    async def answer(request: web.BaseRequest) -> web.Response:
        return web.json_response({"days": 3})

    class Counting(web.Server):
        def __call__(self) -> Any:
            nonlocal accepted
            accepted += 1
            return super().__call__()

    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        Counting(answer),
        "127.0.0.1",
        0,
        ssl=context,
        backlog=1024,
    )
    pipe.send(server.sockets[0].getsockname()[1])
    while await loop.run_in_executor(None, pipe.recv) == "sockets":
        pipe.send(accepted)
    server.close()


@contextmanager
def upstream(certificate: Path | None) -> Iterator[Upstream]:
    """Run the server in a process of its own."""
    ours, theirs = multiprocessing.Pipe()
    path = None if certificate is None else str(certificate)
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, path))
    process.start()
    try:
        scheme = "http" if certificate is None else "https"
        yield Upstream(f"{scheme}://127.0.0.1:{ours.recv()}/", ours)
    finally:
        ours.send("end")
        process.join(10)


async def _crowd(ask: Callable[[], Awaitable[None]], requests: int, at_once: int) -> list[float]:
    """Have so many askers send requests one after the other; return the seconds of each."""
    seconds: list[float] = []

    async def one() -> None:
        for _ in range(requests // at_once):
            started = time.perf_counter()
            await ask()
            seconds.append(time.perf_counter() - started)

    await asyncio.gather(*(one() for _ in range(at_once)))
    return seconds


def _threads(ask: Callable[[], None], requests: int, at_once: int) -> list[float]:
    local: list[float] = []
    lock = threading.Lock()

    def one(_: int) -> None:
        mine = []
        for _ in range(requests // at_once):
            started = time.perf_counter()
            ask()
            mine.append(time.perf_counter() - started)
        with lock:
            local.extend(mine)

    with ThreadPoolExecutor(at_once) as executor:
        list(executor.map(one, range(at_once)))
    return local


class Contest:
    """All contestants against one upstream."""

    def __init__(self, server: Upstream, context: ssl.SSLContext | bool, at_once: int) -> None:
        from django_poolkit import client_sessions

        self.server, self.context, self.at_once = server, context, at_once
        self.session = client_sessions["api"]
        self.seconds: dict[str, list[list[float]]] = {name: [] for name in _BASELINE}
        self.sockets = dict.fromkeys(_BASELINE, 0)
        self.requests = dict.fromkeys(_BASELINE, 0)

    async def _shared(self) -> None:
        async with self.session.get(self.server.url) as response:
            await response.json()

    async def _each(self) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.get(self.server.url, ssl=self.context) as response,
        ):
            await response.json()

    async def round(self, requests: int, *, count: bool) -> None:
        """Let each contestant send so many requests."""
        loop = asyncio.get_running_loop()
        async with aiohttp.ClientSession() as bare:

            async def ask_bare() -> None:
                async with bare.get(self.server.url, ssl=self.context) as response:
                    await response.json()

            for name, ask in ((SHARED, self._shared), (EACH, self._each), (BARE, ask_bare)):
                before = self.server.sockets()
                seconds = await _crowd(ask, requests, self.at_once)
                self._note(name, seconds, before, count)

        def sync() -> None:
            self.session.sync.get(self.server.url).json()

        for name, call in ((SYNC, sync), (EACH_SYNC, async_to_sync(self._each))):
            before = self.server.sockets()
            seconds = await loop.run_in_executor(None, _threads, call, requests, self.at_once)
            self._note(name, seconds, before, count)

    def _note(self, name: str, seconds: list[float], before: int, count: bool) -> None:
        if count:
            self.seconds[name].append(seconds)
        self.requests[name] += len(seconds)
        self.sockets[name] += self.server.sockets() - before

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """Return what was measured, in milliseconds."""
        p50 = {
            name: statistics.median(statistics.median(each) for each in rounds)
            for name, rounds in self.seconds.items()
        }
        return [
            {
                "upstream": kind,
                "contestant": name,
                "requests": self.requests[name],
                "sockets": self.sockets[name],
                "p50": p50[name] * 1000,
                "p95": statistics.median(
                    statistics.quantiles(each, n=20)[-1] for each in rounds
                ) * 1000,
                "x_shared": p50[name] / p50[_BASELINE[name]],
            }
            for name, rounds in self.seconds.items()
        ]  # fmt: skip


def measure(rounds: int, requests: int, at_once: int) -> list[dict[str, Any]]:
    """Run all rounds, over TCP and over TLS; return one row for each contestant."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        authority, cafile = trustme.CA(), Path(folder) / "ca.pem"
        authority.cert_pem.write_to_path(cafile)
        certificate = Path(folder) / "server.pem"
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
        settings.configure(
            INSTALLED_APPS=["django_poolkit"],
            POOLKIT={"HTTP": {"api": {"CAFILE": str(cafile)}}, "CONTROL": {"ENABLED": False}},
            LOGGING_CONFIG=None,
        )
        django.setup()
        rows = []
        for kind, path in (("tcp", None), ("tls", certificate)):
            context = ssl.create_default_context(cafile=cafile) if path else True
            with upstream(path) as server:
                contest = Contest(server, context, at_once)

                async def run(contest: Contest = contest) -> None:
                    await contest.round(requests, count=False)  # what is met for the first time
                    for _ in range(rounds):
                        await contest.round(requests, count=True)

                asyncio.run(run())
                rows += contest.rows(kind)
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.http",
        description=__doc__,
        epilog=READING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: %(default)s)")
    parser.add_argument(
        "--requests", type=int, default=200, help="of each contestant a round (%(default)s)"
    )
    parser.add_argument("--at-once", type=int, default=10, help="requests at once (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print rows for another program")
    arguments = parser.parse_args()
    rows = measure(arguments.rounds, arguments.requests, arguments.at_once)
    if arguments.json:
        json.dump(rows, sys.stdout, indent=2)
        return
    print(
        f"{'':4} {'':18} {'requests':>8} {'sockets':>8} {'p50 ms':>8} {'p95 ms':>8} {'x shared':>9}"
    )
    for row in rows:
        print(
            f"{row['upstream']:4} {row['contestant']:18} {row['requests']:8} {row['sockets']:8} "
            f"{row['p50']:8.2f} {row['p95']:8.2f} {row['x_shared']:9.2f}"
        )


if __name__ == "__main__":
    main()
