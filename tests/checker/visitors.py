"""Those who use the site, each in its own way, and enter what they did and saw."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
import urllib.parse
from collections.abc import Sequence
from typing import Any

from tests.checker.history import Kind, Op, Read, Recorder, Write
from tests.checker.jar import Jar, Numbers
from tests.checker.servers import Servers
from tests.checker.stage import Stage

PATIENCE = 60.0
"""Seconds that a visitor waits for a page: longer than any fault lasts."""
GENERATION = 45.0
"""Seconds after which lists are begun anew, so that none becomes too long to be read each time."""
SHARED = 2


class Visitor:
    """One who asks for pages, from one or several threads."""

    def __init__(self, name: str, kind: Kind, who: str, world: World, *, tabs: int = 1) -> None:
        self.name = name
        self.kind = kind
        self.who = who
        self.tabs = tabs
        self._world = world
        self._jar = Jar()
        self._floor = ""  # of a client of an API, which asks one at a time

    def enter(self) -> None:
        """Log in, where this is somebody with a session."""
        if self.kind in ("member", "device"):
            body = json.dumps({"user": self.who})
            server = sorted(self._world.stage.places)[0]
            status, _, _ = self._send(server, "POST", "/enter", body)
            if status != 200:
                raise RuntimeError(f"{self.name} could not log in: {status}")

    def stay(self, seed: str, think: float, ended: threading.Event) -> None:
        """Ask for one page after the other, until it is enough."""
        chance = random.Random(seed)
        while not ended.wait(chance.expovariate(1 / think)):
            self.act(chance)

    def act(self, chance: random.Random) -> None:
        """Do something by chance."""
        own, shared = self._lists(chance)
        deed = chance.choices(
            ("look", "page", "append", "bump", "both", "enqueue"), (8, 6, 4, 2, 2, 1)
        )[0]
        if deed in ("look", "page"):
            if chance.random() < 0.3:
                own, shared = f"counter {self.who}", "counter shared"
            where = [own] if deed == "look" else [own, shared, own, shared]
            self.do(deed, {"look": where}, chance)
        elif deed == "append":
            self.append(chance.choice((own, shared)), chance)
        elif deed == "bump":
            target = f"counter {chance.choice((self.who, 'shared'))}"
            self.do("bump", {"bump": target}, chance)
        elif deed == "both":
            element = self._world.elements.take()
            asked = {"append": [own, element, True], "look": [own, shared]}
            self.do("both", asked, chance)
        else:
            self.enqueue(own, chance)

    def look(self, *targets: str) -> Op:
        """Look at one place or at several."""
        return self.do("look", {"look": list(targets)}, random.Random(0))

    def append(self, target: str, chance: random.Random) -> None:
        """Append to a list."""
        asked = [target, self._world.elements.take(), chance.random() < 0.7]
        self.do("append", {"append": asked}, chance)

    def enqueue(self, target: str, chance: random.Random) -> None:
        """Append to a list, and have a job look at it."""
        number = self._world.numbers.pair()
        asked: dict[str, Any] = {"append": [target, self._world.elements.take(), True]}
        asked["job"] = {"number": number + 1, "look": [target]}
        if chance.random() < 0.3:
            asked["job"]["append"] = [target, self._world.elements.take()]
        self.do("enqueue", asked, chance, number)

    def _lists(self, chance: random.Random) -> tuple[str, str]:
        """Return a list of one's own, and one that all write to."""
        generation = int((time.monotonic() - self._world.began) / GENERATION)
        shared = f"list shared{chance.randrange(SHARED)} {generation}"
        return f"list {self.who} {generation}", shared

    # -- one operation

    def do(self, name: str, asked: dict[str, Any], chance: random.Random, number: int = 0) -> Op:
        """Ask for a page, and enter what became of it."""
        server = chance.choice(sorted(self._world.stage.places))
        writes = "append" in asked or "bump" in asked
        if self.kind in ("member", "device"):
            asked["session"] = chance.random() < 0.5
        path = "/awork" if (server == "asgi") == (chance.random() < 0.8) else "/work"
        # A GET that writes something is no good manners, and happens.
        method = "POST" if writes and name != "both" else "GET"
        body = json.dumps(asked)
        if method == "GET":
            path, body = f"{path}?asked={urllib.parse.quote(body)}", ""
        op = Op(
            number=number or self._world.numbers.pair(),
            visitor=self.name,
            kind=self.kind,
            who=self.who,
            name=name,
            invoked=time.monotonic(),
            ended=0.0,
            outcome="info",
            server=server,
            session=bool(asked.get("session")),
        )
        if "append" in asked:
            op.writes.append(Write(asked["append"][0], asked["append"][1]))
        elif "bump" in asked:
            op.writes.append(Write(asked["bump"], 0))
        try:
            op.status, headers, text = self._send(server, method, path, body, op)
            self._read(op, headers, text, pure=name in ("append", "bump", "enqueue"))
        except (OSError, http.client.HTTPException) as error:
            op.error = f"{type(error).__name__}: {error}"[:200]
        op.ended = time.monotonic()
        self._world.recorder.op(op)
        if name == "enqueue":
            self._world.enqueued(op, asked["job"])
        return op

    def _send(
        self, server: str, method: str, path: str, body: str, op: Op | None = None
    ) -> tuple[int, Any, str]:
        host, port = self._world.stage.places[server]
        headers: dict[str, str] = {}
        if self.kind not in ("stranger", "api"):
            headers["Cookie"] = self._jar.sent(ours=self.kind != "device")
        if self.kind == "api":
            headers["Authorization"] = f"Bearer {self.name}"
            if self._floor:
                headers["X-Floor"] = self._floor
        if op is not None:
            # What the cache knows of who is logged in, nobody sees from here.
            known = self.kind in ("member", "device", "api")
            op.brought = known or "poolkit_" in headers.get("Cookie", "")
        connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
        try:
            connection.request(method, path, body or None, headers)
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        finally:
            connection.close()
        self._jar.take(answer.headers.get_all("Set-Cookie", []))
        self._floor = answer.headers.get("X-Floor") or self._floor
        return answer.status, answer.headers, text

    def _read(self, op: Op, headers: Any, text: str, *, pure: bool) -> None:
        op.route = headers.get("X-Routing", "")
        op.told = as_told(headers.get("X-Told", ""))
        if op.status != 200:
            # Nothing was sent where there was no connection; but what came before it may have been.
            op.outcome = "fail" if not op.writes or (pure and op.status == 503) else "info"
            op.error = text[:200].strip()
            return
        answer = json.loads(text)
        op.outcome = "ok"
        op.reads = self._world.reads_of(answer.get("reads", ()))
        if "value" in answer:
            op.writes[0].element = answer["value"]


class World:
    """What all visitors share."""

    def __init__(self, stage: Stage, servers: Servers, recorder: Recorder) -> None:
        self.stage = stage
        self.recorder = recorder
        self.began = time.monotonic()
        self.elements = Numbers()
        self.numbers = Numbers()
        self._servers = servers
        self._jobs: dict[int, tuple[Op, dict[str, Any]]] = {}
        self._done: set[int] = set()
        self._answers: list[dict[str, Any]] = []

    def reads_of(self, found: Sequence[dict[str, Any]]) -> list[Read]:
        """Return what an answer says that was read."""
        name_at = self._servers.name_at
        return [Read(each["target"], each["found"], name_at(each["port"])) for each in found]

    def enqueued(self, op: Op, job: dict[str, Any]) -> None:
        """Take note of a job that may come."""
        self._jobs[job["number"]] = op, job

    def collect(self) -> int:
        """Enter what jobs have found since; return how many there may be yet to come."""
        self._answers += self.stage.jobs_done()
        # One may be done before its visitor has been told that it was enqueued.
        answers, self._answers = self._answers, []
        for answer in answers:
            number = answer["number"]
            known = self._jobs.get(number)
            if known is None:
                self._answers.append(answer)
                continue
            self._done.add(number)
            op, job = known
            writes = [Write(*job["append"])] if "append" in job else []
            outcome = ("info" if writes else "fail") if answer["error"] else "ok"
            self.recorder.op(
                Op(
                    number=number,
                    visitor=op.visitor,
                    kind="job",
                    who=op.who,
                    name="job",
                    invoked=answer["began"],
                    ended=answer["ended"],
                    outcome=outcome,  # type: ignore[arg-type]
                    writes=writes,
                    reads=self.reads_of(answer.get("reads", ())),
                    error=answer["error"],
                    server="job",
                    told=as_told(answer.get("told", "")),
                    brought=True,
                )
            )
        # A copy: visitors enqueue meanwhile.
        enqueued = list(self._jobs.items())
        return sum(op.outcome == "ok" for number, (op, _) in enqueued if number not in self._done)


def as_told(text: str) -> list[int] | str | None:
    """Read the header that says what a visitor was given."""
    if "/" in text:
        return [int(part) for part in text.split("/")]
    return text or None


def crowd(world: World, count: int) -> list[Visitor]:
    """Return so many visitors of all kinds."""
    found: list[Visitor] = []
    kinds: tuple[Kind, ...] = ("browser", "member", "api", "tabs", "stranger", "member")
    for number in range(count):
        kind = kinds[number % len(kinds)]
        name = f"{kind}{number}"
        found.append(Visitor(name, kind, name, world, tabs=3 if kind == "tabs" else 1))
        if number % len(kinds) == 5:
            # The same user, at another place, where no cookie of ours is kept.
            found.append(Visitor(f"{name}-device", "device", name, world))
    return found
