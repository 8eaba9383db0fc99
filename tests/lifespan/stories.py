"""What servers are put through. Each kind lives a story once, and many tests look at it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from websockets.sync.client import unix_connect

from django_poolkit.testing import Node
from django_poolkit.testing.processes import is_alive
from django_poolkit.testing.waiting import wait_until
from tests.lifespan.serving import PATIENCE, Farm, Server
from tests.servers.serving import held, kill

# How many stories at once: a good part of each is waiting.
_AT_ONCE = 4


@dataclass
class Story:
    """What became of a server."""

    server: Server
    code: int = 0
    """Its exit code."""
    seconds: float = 0.0
    """From what made it end to its end."""
    workers: frozenset[int] = frozenset()
    replies: dict[str, Any] = field(default_factory=dict)


class Stories:
    """Has servers live their stories, several at a time, whatever order they are asked for in."""

    def __init__(self, tellers: Iterable[tuple[Callable[[str], Story], Iterable[str]]]) -> None:
        self._threads = ThreadPoolExecutor(_AT_ONCE)
        self._told = {
            (tell, kind): self._threads.submit(tell, kind)
            for tell, kinds in tellers
            for kind in kinds
        }

    def story(self, tell: Callable[[str], Story], kind: str) -> Story:
        """Return what became of one kind of server."""
        return self._told[tell, kind].result(4 * PATIENCE)

    def close(self) -> None:
        """Drop those that nobody asked for."""
        self._threads.shutdown(cancel_futures=True)


def size_of(kind: str) -> int:
    """Return how many workers a kind of server has."""
    return 2 if kind.endswith("-2") else 1


# -- a whole life

PLAN: dict[str, Any] = {
    "farewell": {},
    "a": {},
    "late": {"required": False, "opening": 0.1},
    "group": {},
    "hangs": {"closing": "hang", "stop_timeout": 0.5},
    "fails": {"closing": "fail"},
    "slow": {"opening": 0.2, "closing": 0.1},
    "z": {},
}
SLOW = ("slow", "slow-sync")
REVERSE = [
    "closing z", "close z", "closing slow", "close slow", "closing fails", "closing hangs",
    "close group", "closing late", "close late", "closing a", "close a", "farewell",
]  # fmt: skip


def live(farm: Farm, kind: str) -> Story:
    """Serve all kinds of requests; at SIGTERM one is in flight, and closing has its troubles."""
    needs = farm.path(f"{kind}-late")
    plan = {**PLAN, "late": {**PLAN["late"], "needs": str(needs)}}
    server = farm.start(kind, plan)
    server.wait_up()
    story = Story(server, workers=frozenset(server.workers(size_of(kind))))
    said = story.replies
    said["degraded"] = server.get("/status/")["status"]
    needs.touch()
    wait_until(
        lambda: server.get("/status/")["status"]["late"][0] == "ready", PATIENCE, "not retried"
    )
    said["states"] = [server.get("/state/")["state"] for _ in range(3 * size_of(kind))]
    for target in ("/query/", "/aquery/", "/resource/?name=a", "/aresource/?name=a"):
        said[target] = server.get(target)
    with unix_connect(str(server.path), "ws://localhost/chat") as socket:
        socket.send("hello")
        said["websocket"] = socket.recv(PATIENCE)
    server.wait_for("websocket ends")
    in_flight = [server.client.start(f"/{view}/?seconds=1.5") for view in SLOW]
    for view in SLOW:
        server.wait_for(f"{view} begins")
    told = server.tell()
    story.code = server.ended()
    story.seconds = time.monotonic() - told
    said["in flight"] = [reply.result(PATIENCE) for reply in in_flight]
    return story


# -- starts that come to nothing


def fail(farm: Farm, kind: str) -> Story:
    """Start with a resource that cannot be opened."""
    return _end_in_start(farm, kind, {"a": {}, "b": {"opening": "fail"}, "c": {}})


def hang(farm: Farm, kind: str) -> Story:
    """Start with a resource whose opening never ends."""
    return _end_in_start(farm, kind, {"a": {}, "b": {"opening": "hang"}}, START_TIMEOUT=1.5)


def _end_in_start(farm: Farm, kind: str, plan: Mapping[str, Any], **lifespan: Any) -> Story:
    server = farm.start(kind, plan, **lifespan)
    server.wait_for("opening b")
    story = Story(server, code=server.ended())
    story.seconds = time.monotonic() - server.at("opening b")
    return story


def interrupted(farm: Farm, kind: str) -> Story:
    """Be told to end while a resource is being opened, which takes its time."""
    server = farm.start(kind, {"a": {}, "b": {"opening": 1.0}})
    server.wait_for("opening b", size_of(kind))
    told = server.tell()
    story = Story(server, code=server.ended())
    story.seconds = time.monotonic() - told
    return story


# -- requests without an end

ENDLESS = ("/stream/", "/cleanup/", "/stubborn/")


def cut(farm: Farm, kind: str, options: tuple[str, ...], lifespan: Mapping[str, Any]) -> Story:
    """Be told to end with requests in flight that do not, and a second for them."""
    server = farm.start(kind, {"a": {}}, *options, DRAIN_TIMEOUT=1.0, **lifespan)
    server.wait_up()
    with unix_connect(str(server.path), "ws://localhost/chat") as socket:
        socket.send("hello")
        socket.recv(PATIENCE)
        replies = {target: server.client.start(target) for target in ENDLESS}
        for target in ENDLESS:
            server.wait_for(f"{target.strip('/')} begins")
        told = server.tell()
        story = Story(server, code=server.ended())
    story.seconds = time.monotonic() - told
    story.replies = {target: reply.result(PATIENCE) for target, reply in replies.items()}
    return story


# -- no lifespan

VIEWS = ("/query/", "/aquery/", "/resource/?name=a", "/aresource/?name=a")


def without(farm: Farm, kind: str) -> Story:
    """Serve all kinds of requests without a lifespan, and end with one in flight."""
    server = farm.start(kind, {"a": {}, "b": {"opening": "fail"}, "group": {}})
    server.wait_up()
    story = Story(server, workers=frozenset(server.workers(1)))
    story.replies = {target: [server.get(target) for _ in range(3)] for target in VIEWS}
    story.replies["/state/"] = server.get("/state/")
    story.replies["/status/"] = server.get("/status/")
    story.replies["group"] = server.client.get("/aresource/?name=group")
    story.replies["failed"] = server.client.get("/aresource/?name=b")
    in_flight = server.client.start("/slow/?seconds=1.5")
    server.wait_for("slow begins")
    server.tell()
    story.code = server.ended()
    story.replies["in flight"] = in_flight.result(PATIENCE)
    return story


# -- workers that come and go


def replace(farm: Farm, database: Node, kind: str, times: int, *options: str) -> Story:
    """Have one of two workers killed, and then so many recycled, and look at what is left."""
    server = farm.start(kind, {"a": {}, "group": {}}, *options)
    server.wait_up()
    story = Story(server, workers=frozenset(server.workers(2)))
    story.replies["before"] = held(server.child.pid)
    kill(min(_living(server)))
    server.wait_for("open group", 3)
    deadline = time.monotonic() + 4 * PATIENCE
    while (closed := server.events().count("close a")) < times:
        assert time.monotonic() < deadline, (server.events(), server.log)
        if kind == "granian":  # recycles by age alone, or when it is told to
            _settle(server)  # it forgets one that it tells to stop as it starts
            server.tell(signal.SIGHUP)
            server.wait_for("close a", closed + 2)
        for reply in [server.client.start("/query/") for _ in range(8)]:
            reply.result(PATIENCE)
    pids = _settle(server)
    everybody = frozenset(entry.pid for entry in server.journal)
    wait_until(lambda: not connections_of(database, everybody - pids), PATIENCE)
    story.replies["sockets"] = {int(name.partition("-")[0]) for name in server.sockets}
    story.replies["living"] = pids
    wait_until(
        lambda: held(server.child.pid) == story.replies["before"],
        10.0,
        lambda: f"{held(server.child.pid)} files and threads, before {story.replies['before']}",
    )
    server.tell()
    story.code = server.ended()
    story.replies["connections"] = connections_of(database, everybody)
    return story


def _settle(server: Server) -> frozenset[int]:
    """Wait until two workers live, and both answer; return who they are."""

    def settled() -> bool:
        living = _living(server)
        return len(living) == 2 and server.workers(2) == set(living)

    wait_until(settled, PATIENCE, lambda: f"{_living(server)}, {server.log}")
    return frozenset(_living(server))


def _living(server: Server) -> list[int]:
    """Return the workers that have started and live."""
    started = [entry.pid for entry in server.journal if entry.event == "open group"]
    ended = {entry.pid for entry in server.journal if entry.event == "closing a"}
    return [pid for pid in started if pid not in ended and is_alive(pid)]


# -- what is left


def connections_of(database: Node, pids: frozenset[int]) -> list[str]:
    """Return the connections that the database still has of these processes."""
    names = [session.application_name for session in database.sessions()]
    return [name for name in names if any(name.startswith(f"pk:{pid}:") for pid in pids)]
