"""What servers are put through. Each kind lives a story once, and many tests look at it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from websockets.sync.client import unix_connect

from django_poolkit.testing import Node
from django_poolkit.testing.waiting import wait_until
from tests.lifespan.serving import PATIENCE, Farm, Server

# How many stories at once: most of each is waiting.
_AT_ONCE = 3


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
    """Has each kind of server live a story, several of them at a time."""

    def __init__(self, tell: Callable[[str], Story], kinds: Mapping[str, Any] | tuple[str, ...]):
        self._threads = ThreadPoolExecutor(_AT_ONCE)
        self._told: dict[str, Future[Story]] = {
            kind: self._threads.submit(tell, kind) for kind in kinds
        }

    def __getitem__(self, kind: str) -> Story:
        return self._told[kind].result(4 * PATIENCE)

    def close(self) -> None:
        """Wait for those that nobody asked for."""
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
    in_flight = server.client.start("/slow/?seconds=1.5")
    server.wait_for("slow begins")
    told = server.tell()
    story.code = server.ended()
    story.seconds = time.monotonic() - told
    said["in flight"] = in_flight.result(PATIENCE)
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


def cut(farm: Farm, kind: str, *options: str) -> Story:
    """Be told to end with requests in flight that do not, by a server that gives them a second."""
    server = farm.start(kind, {"a": {}}, *options, DRAIN_TIMEOUT=1.0)
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


# -- what is left


def connections_of(database: Node, pids: frozenset[int]) -> list[str]:
    """Return the connections that the database still has of these processes."""
    names = [session.application_name for session in database.sessions()]
    return [name for name in names if any(name.startswith(f"pk:{pid}:") for pid in pids)]
