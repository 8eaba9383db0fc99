"""The conversations with several clients at once, in one thread.

It waits by poll(). That shares no kernel object with a forked child, as an epoll would, which goes
on telling the one of the other's sockets. And it is not asyncio: where gevent makes threads of
greenlets, the whole process would seem to run inside of an event loop, and Django refuse to work.
"""

from __future__ import annotations

import logging
import selectors
import socket
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Final

from django_poolkit.control.conversation import Conversation, Wish, traced

logger = logging.getLogger("django_poolkit.control")

MOST_CLIENTS: Final = 32
"""At once; more wait until one of these is done."""


@dataclass(slots=True, eq=False)
class _Visit:
    client: socket.socket
    steps: Generator[Wish, None, None]
    deadline: float = 0.0


class Visits:
    """Those who call at a socket. Not locked: of one thread."""

    def __init__(self, talk: Conversation, sockets: set[socket.socket]) -> None:
        """`sockets` is where every open one is noted for those who have to close them all."""
        self._talk = talk
        self._sockets = sockets
        self._selector = selectors.PollSelector()
        self._visits: set[_Visit] = set()
        self._listener: socket.socket | None = None

    def open_to(self, listener: socket.socket, bell: socket.socket | None = None) -> None:
        """Take in who calls there, and nowhere else; `bell` only ends a round of waiting."""
        if self._listener is not listener:
            self._shut()
            self._listener = listener
        if bell is not None:
            self._selector.register(bell, selectors.EVENT_READ)
        self.take_in()

    def take_in(self) -> None:
        """Listen, if there is room for one more. Those who find the house full wait outside."""
        if self._listener is not None and len(self._visits) < MOST_CLIENTS:
            with suppress(KeyError):  # it is listened to
                self._selector.register(self._listener, selectors.EVENT_READ)

    def attend(self, until: float) -> None:
        """Wait for something to happen, and see to it; return by `until` on the monotonic clock."""
        first = min([visit.deadline for visit in self._visits] + [until])
        for key, _ in self._selector.select(max(0.0, first - monotonic())):
            if isinstance(key.data, _Visit):
                self._advance(key.data)
            elif key.fileobj is self._listener:
                self._welcome(self._listener)
        now = monotonic()
        for visit in [visit for visit in self._visits if visit.deadline <= now]:
            self._advance(visit, late=True)

    def _shut(self) -> None:
        if self._listener is not None:
            with suppress(KeyError):
                self._selector.unregister(self._listener)

    def _welcome(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError:  # no descriptor left, say; there may be again at the next take_in()
            self._shut()
            return
        self._sockets.add(client)
        client.setblocking(False)
        visit = _Visit(client, self._talk.hold(client))
        self._visits.add(visit)
        self._selector.register(client, selectors.EVENT_READ, visit)
        if len(self._visits) >= MOST_CLIENTS:
            self._shut()
        self._advance(visit)

    def _advance(self, visit: _Visit, *, late: bool = False) -> None:
        """Go on with a conversation that got what it waits for, or did not in time."""
        try:
            event, visit.deadline = visit.steps.throw(TimeoutError()) if late else next(visit.steps)
        except (StopIteration, OSError):  # it is over; or the client is gone, and nobody to tell
            self._end(visit)
        except Exception as error:
            logger.error("event=command_failed what=- error=%s\n%s", *traced(error))
            self._end(visit)
        else:
            self._selector.modify(visit.client, event, visit)

    def _end(self, visit: _Visit) -> None:
        self._visits.discard(visit)
        self._selector.unregister(visit.client)
        self._sockets.discard(visit.client)
        visit.client.close()
        self.take_in()
