"""Websockets on a pool of two, under a real server: `python -m tests.neighbours.channels.drive`.

Prints as JSON what became of their messages, and of the leases that they took.
"""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any
from urllib.request import urlopen

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.neighbours.channels.settings"
django.setup()

from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.conf import settings  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection as default_connection  # noqa: E402
from django.test import Client as Browser  # noqa: E402
from websockets.exceptions import WebSocketException  # noqa: E402
from websockets.sync.client import ClientConnection, connect  # noqa: E402

from django_poolkit.asgi import Poolkit  # noqa: E402
from django_poolkit.control import answers  # noqa: E402
from django_poolkit.testing.waiting import wait_until  # noqa: E402
from tests.app.models import Item  # noqa: E402
from tests.neighbours.channels import servers, site  # noqa: E402
from tests.neighbours.channels.names import KINDS, MESSAGES, OF_EACH  # noqa: E402
from tests.neighbours.restarts import through_restart  # noqa: E402
from tests.neighbours.support import ask_for_restart, locked  # noqa: E402

connection: Any = default_connection
PATIENCE = 30.0

application = Poolkit(
    ProtocolTypeRouter(
        {
            "http": get_asgi_application(),
            "websocket": AuthMiddlewareStack(URLRouter(site.websockets)),
        }
    )
)


class Story:
    """What clients do, each a browser that is logged in."""

    def __init__(self, port: int, cookie: str) -> None:
        self.port = port
        self._cookie = cookie
        self.pool = connection.pool

    def connect(self, kind: str) -> ClientConnection:
        """Connect with a consumer."""
        headers = {"Cookie": f"sessionid={self._cookie}"}
        url = f"ws://127.0.0.1:{self.port}/{kind}/"
        return connect(url, additional_headers=headers, open_timeout=PATIENCE)

    def used(self) -> int:
        """Return how many leases there are when all messages have been handled."""
        with suppress(TimeoutError):
            wait_until(lambda: self.pool.stats().used == 0, 2.0)
        return int(self.pool.stats().used)

    def messages(self) -> dict[str, Any]:
        """Have many say something at the same time; all of them stay connected."""
        found: dict[str, Any] = {}
        with ExitStack() as stack:
            clients = [
                (f"{kind} {number}", stack.enter_context(self.connect(kind)))
                for kind in KINDS
                for number in range(OF_EACH)
            ]
            found["used when all are connected"] = self.used()

            def talk(name: str, client: ClientConnection) -> list[str]:
                return [say(client, f"{name} says {turn}") for turn in range(MESSAGES)]

            with ThreadPoolExecutor(len(clients)) as threads:
                found["answers"] = list(threads.map(talk, *zip(*clients, strict=True)))
            found["used between messages"] = self.used()
            found["named"] = {kind: self.where(client) for kind, client in one_of_each(clients)}
            found["told"] = self.group([client for name, client in clients if "Ours" in name])
            ask_for_restart()
            found["after a restart"] = [
                say(client, f"{kind} again") for kind, client in one_of_each(clients)
            ]
            found["used after a restart"] = self.used()
        return found

    def where(self, client: ClientConnection) -> str:
        """Return where `poolstatus` says that a consumer's lease is, while it has one."""
        with locked(settings.DATABASES["default"], site.LOCK):
            client.send("wait")

            def leases() -> list[Any]:
                found = answers.status({"leases": True, "databases": ["default"]})["leases"]
                return [lease for lease in found if lease["statement"] == "SELECT"]

            (lease,) = wait_until(leases, PATIENCE)
        assert client.recv(PATIENCE) == "waited"
        return str(lease["where"])

    @staticmethod
    def group(clients: list[ClientConnection]) -> list[str]:
        """Have one say something that all are told."""
        clients[0].send("all: hello")
        return [str(client.recv(PATIENCE)) for client in clients]

    def restart(self) -> dict[str, Any]:
        """Have the server restarted under messages; who is disconnected connects again."""
        here = threading.local()

        def write(name: str) -> None:
            kind = KINDS[int(name[len("writer ")]) % len(KINDS)]
            if getattr(here, "client", None) is None:
                here.client = self.connect(kind)
            try:
                say(here.client, name)
            except BaseException:
                here.client.close()
                here.client = None
                raise

        kept = through_restart(
            ask_for_restart, write, (WebSocketException, OSError), threads=len(KINDS)
        )
        stored = list(Item.objects.filter(name__startswith="writer").values_list("name", flat=True))
        connection.close()
        return {"lost": kept.lost(stored), "forged": kept.forged(stored)}

    def bare(self) -> dict[str, int]:
        """Do without leases by message."""
        with self.connect("Bare") as client:
            say(client, "bare")
            between = self.used()
        return {"between messages": between, "at the end": self.used()}


def say(client: ClientConnection, text: str) -> str:
    """Say something, and return the answer."""
    client.send(text)
    return str(client.recv(PATIENCE))


def one_of_each(clients: list[tuple[str, ClientConnection]]) -> list[tuple[str, ClientConnection]]:
    """Return the first of each kind."""
    return [(name.split()[0], client) for name, client in clients if name.endswith(" 0")]


def prepare() -> str:
    """Make tables and a user; return the cookie of its session."""
    call_command("migrate", run_syncdb=True, interactive=False, verbosity=0)
    browser = Browser()
    browser.force_login(User.objects.create(username="visitor"))
    connection.close()
    return browser.cookies["sessionid"].value


def main(server: str) -> None:
    """Serve, and tell the story."""
    cookie = prepare()
    found: dict[str, Any] = {}

    def tell(port: int) -> None:
        story = Story(port, cookie)
        found["messages"] = story.messages()
        found["restart"] = story.restart()
        found["bare"] = story.bare()
        with urlopen(f"http://127.0.0.1:{port}/count/", timeout=PATIENCE) as answered:
            found["view"] = answered.status
        stats = story.pool.stats()
        found["end"] = {"used": story.used(), "leaks": stats.leaks, "size": stats.size}

    servers.SERVERS[server](application, tell)
    print(json.dumps(found))


if __name__ == "__main__":
    main(json.loads(os.environ["CHANNELS"])["server"])
