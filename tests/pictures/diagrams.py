"""The diagrams of the explanations: what they show, and where in the picture it stands."""

from __future__ import annotations

from pathlib import Path

from tests.pictures.shapes import Arrow, Box, Message, picture, sequence
from tests.test_architecture import FLOORS


def lease() -> str:
    """Draw how a connection is acquired, used and given back."""
    middle, left, right = 380, 130, 690
    return picture(
        860,
        640,
        "The life of a lease: acquired, probed, used, reset and given back",
        [
            Box(
                middle,
                40,
                300,
                ["a query, and no lease yet:", "one idle, and nobody queues?"],
                "own",
            ),
            Box(left, 180, 200, ["queue:", "first come, first served"]),
            Box(middle, 290, 300, ["the probe: does it live?"], "own"),
            Box(middle, 400, 240, ["leased"], "own"),
            Box(middle, 510, 240, ["roll back what is open,", "reset where one is due"], "own"),
            Box(right, 400, 200, ["idle"]),
            Box(right, 600, 200, ["closed, with a reason"], "end"),
            Box(90, 50, 150, ["TooManyWaiters"], "end"),
            Box(left, 600, 170, ["PoolTimeout"], "end"),
            Box(left, 400, 200, ["connect,", "in a thread of the pool"]),
            *_out(middle, right),
            *_home(middle, right),
        ],
    )


def _out(middle: float, right: float) -> list[Arrow]:
    """Return the ways to a lease."""
    return [
        Arrow([(middle, 64), (middle, 274)], "yes: the one used last", (middle + 10, 150)),
        Arrow([(230, 56), (200, 56), (200, 156)], "no", (206, 110)),
        Arrow([(90, 156), (90, 66)], "max_waiting", (96, 116), dashed=True),
        Arrow([(200, 204), (200, 290), (230, 290)], "handed one,|in order", (118, 240)),
        Arrow(
            [(330, 274), (330, 190), (230, 190)],
            "no: drop it and|its like; first|in the queue",
            (238, 150),
        ),
        Arrow([(middle, 306), (middle, 384)], "yes", (middle + 10, 348)),
        Arrow([(right, 384), (right, 40), (530, 40)], "the next one", (right - 92, 200)),
        Arrow([(60, 204), (60, 376)], "asks for one,|if there is room", (66, 300), dashed=True),
        Arrow([(230, 400), (240, 400), (240, 306)]),
        Arrow(
            [(30, 180), (16, 180), (16, 560), (80, 560), (80, 584)], "the time|is over", (24, 480)
        ),
    ]


def _home(middle: float, right: float) -> list[Arrow]:
    """Return the ways from there."""
    return [
        Arrow(
            [(middle, 416), (middle, 486)],
            "the request, or the statement or block, ends;"
            "|or it is lost: taken back, with a warning",
            (middle + 10, 444),
        ),
        Arrow([(500, 510), (right, 510), (right, 416)], "clean, and nobody waits", (512, 504)),
        Arrow(
            [(260, 510), (252, 510), (252, 306)],
            "clean, and|somebody waits",
            (244, 470),
            anchor="end",
        ),
        Arrow([(480, 534), (480, 600), (590, 600)], "failed", (490, 594)),
        Arrow(
            [(right + 60, 416), (right + 60, 584)],
            "max_idle,|max_lifetime,|recycle, resize",
            (right + 66, 540),
        ),
    ]


SAID = {
    "pools": "pools: no Django in here. PostgreSQL, asyncpg, the bridge",
    "conf": "conf: the only reader of Django's settings",
    "registry": "registry: the pools of this process",
    "backends": "backends: where Django's ORM meets a pool",
    "exhaustion": "exhaustion: the 503",
    "lifespan": "lifespan: what a server opens and closes",
    "management": "commands",
}
"""What a part is, where its name is not enough."""


def floors() -> str:
    """Draw which part may know which, as the test of the architecture holds it."""
    parts: list[Box | Arrow] = []
    for number, row in enumerate(reversed(FLOORS)):
        wide = 720 / len(row)
        kind = "own" if row == FLOORS[0] else "box"
        for column, name in enumerate(row):
            x = 30 + wide * (column + 0.5)
            parts.append(Box(x, 40 + number * 44, wide - 10, [SAID.get(name, name)], kind))
    bottom = 40.0 + 44 * (len(FLOORS) - 1)
    parts.append(Arrow([(790, 40), (790, bottom)], "imports|run|down", (802, bottom / 2)))
    title = "The floors of the package: each imports those below it, and none above"
    return picture(860, int(bottom) + 40, title, parts)


def start_and_stop() -> str:
    """Draw the lifespan of a server process."""
    server, ours, resources, app = range(4)
    return sequence(
        "A server starts and stops: resources are opened in order, and closed in reverse",
        ["server", "Poolkit", "resources", "application"],
        [
            Message(server, ours, "lifespan.startup"),
            Message(ours, resources, "open, in order"),
            Message(ours, app, "lifespan.startup, if it wants one"),
            Message(ours, server, "startup.complete", answer=True),
            Message(server, ours, "requests"),
            Message(server, server, "SIGTERM: takes no more, waits"),
            Message(server, ours, "lifespan.shutdown"),
            Message(ours, ours, "waits for what is left, then cuts it"),
            Message(ours, app, "lifespan.shutdown"),
            Message(ours, resources, "close, in reverse"),
            Message(ours, server, "shutdown.complete", answer=True),
        ],
        860,
    )


def token() -> str:
    """Draw how a visitor finds what it has written."""
    visitor, site, primary, replica = range(4)
    return sequence(
        "A visitor writes, and the next request reads a replica that has what was written",
        ["visitor", "site", "primary", "replica"],
        [
            Message(visitor, site, "POST"),
            Message(site, primary, "INSERT, COMMIT: where are you?"),
            Message(primary, site, "at 0/4618BE0", answer=True),
            Message(site, visitor, "redirect, cookie 0/4618BE0", answer=True),
            Message(visitor, site, "GET, with the cookie"),
            Message(site, replica, "where are you?"),
            Message(replica, site, "at 0/4618C28: it has it", answer=True),
            Message(site, replica, "SELECT"),
            Message(site, visitor, "the page; no cookie any more", answer=True),
        ],
        860,
    )


def client_sessions() -> str:
    """Draw which session a request of which kind of code goes by."""
    return picture(
        860,
        200,
        "Async code is led to a session on its loop, sync code to one in the background",
        [
            Box(130, 60, 200, ["async view"]),
            Box(130, 140, 200, ["sync view, thread, task"]),
            Box(410, 100, 200, ["client_sessions['x']"], "own"),
            Box(710, 60, 250, ["aiohttp session on the server's loop"]),
            Box(710, 140, 250, ["aiohttp session on the loop", "in the background"]),
            Arrow([(230, 60), (310, 90)]),
            Arrow([(230, 140), (310, 112)], ".sync", (250, 148)),
            Arrow([(510, 90), (585, 64)]),
            Arrow([(510, 112), (585, 138)]),
        ],
    )


DIAGRAMS = {
    "life-of-a-lease.svg": lease,
    "floors.svg": floors,
    "start-and-stop.svg": start_and_stop,
    "token.svg": token,
    "client-sessions.svg": client_sessions,
}
"""What makes each file below docs/images."""


def draw(images: Path) -> None:
    """Write all of them."""
    for name, make in DIAGRAMS.items():
        (images / name).write_text(make())
