"""What a process says to one client: one request, one reply, and never more than that costs.

The client may be slow, half gone, or somebody's fuzzer: its time, its bytes and what it may ask
for are bounded, and whatever it sends ends in a reply or a closed socket.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import socket
import traceback
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any, Final

from django_poolkit.conf.control import ROOT, ControlConfig
from django_poolkit.control import protocol
from django_poolkit.control.protocol import Peer, ProtocolError, Request

logger = logging.getLogger("django_poolkit.control")

Handler = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""A command: gets the arguments, returns the result. Runs in the server's thread, so it neither
blocks nor takes long. Raises BadArguments for what it cannot honour."""

Wish = tuple[int, float]
"""What a conversation waits for: an event of `selectors`, and the moment at which it waits no more
and gets a TimeoutError, on the monotonic clock."""

REQUEST_TIME: Final = 2.0
"""Seconds that a client may take to send its request."""
REPLY_TIME: Final = 5.0
"""Seconds that it may take to receive the reply."""
_LONGEST_LOGGED: Final = 200


class Conversation:
    """The commands of one process, and who may give them."""

    def __init__(
        self,
        config: ControlConfig,
        handlers: Mapping[str, Handler],
        steering_commands: Collection[str],
    ) -> None:
        self._config = config
        self._handlers = handlers
        self._steering = frozenset(steering_commands)

    def hold(self, client: socket.socket) -> Generator[Wish, None, None]:
        """Serve one client to its end; yields whenever that would block.

        Raises OSError where it is gone, or takes no reply.
        """
        peer = protocol.peer_of(client)
        if peer.uid not in (os.geteuid(), ROOT):
            logger.warning("event=stranger uid=%d pid=%d", peer.uid, peer.pid)
            return
        reply = yield from self._reply(client, peer)
        deadline = monotonic() + REPLY_TIME
        left = memoryview(reply)
        while left:
            yield selectors.EVENT_WRITE, deadline
            with suppress(BlockingIOError):
                left = left[client.send(left) :]

    def _reply(self, client: socket.socket, peer: Peer) -> Generator[Wish, None, bytes]:
        deadline = monotonic() + REQUEST_TIME
        try:
            header = yield from _receive(client, protocol.HEADER.size, deadline)
            length = protocol.length_of(header, protocol.LONGEST_REQUEST)
            payload = yield from _receive(client, length, deadline)
            return self._carry_out(protocol.read_request(payload), peer)
        except TimeoutError:
            return protocol.failure("bad_frame", f"no whole request within {REQUEST_TIME:g} s")
        except ProtocolError as error:
            return protocol.failure(error.code, str(error))

    def _carry_out(self, request: Request, peer: Peer) -> bytes:
        handler = self._handlers.get(request.command)
        if handler is None:
            raise ProtocolError("unknown_command", "this process knows no such command")
        if request.command not in self._steering:
            return _call(handler, request)
        if peer.uid not in self._config.steerers():
            _log_steering(logging.WARNING, request, peer, "refused")
            raise ProtocolError("refused", _why_refused(self._config))
        try:
            reply = _call(handler, request)
        except ProtocolError as error:
            _log_steering(logging.INFO, request, peer, error.code)
            raise
        _log_steering(logging.INFO, request, peer, "done")
        return reply


def _receive(client: socket.socket, size: int, deadline: float) -> Generator[Wish, None, bytes]:
    received = bytearray()
    while len(received) < size:
        yield selectors.EVENT_READ, deadline
        try:
            part = client.recv(size - len(received))
        except BlockingIOError:
            continue
        if not part:
            raise ProtocolError("bad_frame", f"it ends after {len(received)} of {size} bytes")
        received += part
    return bytes(received)


def _call(handler: Handler, request: Request) -> bytes:
    try:
        return protocol.success(handler(request.arguments))
    except ProtocolError:
        raise
    except Exception as error:
        text = "event=command_failed what=%s error=%s\n%s"
        logger.error(text, request.command, *traced(error))
        raise ProtocolError("failed", type(error).__name__) from None


def _why_refused(config: ControlConfig) -> str:
    if config.steering:
        return "POOLKIT['CONTROL']['STEERING'] is 'root' there, so nobody else may"
    return (
        "POOLKIT['CONTROL']['STEERING'] is False there, so nobody may. Set it to True (for the "
        "user of the process, and root) or to 'root', and restart the process"
    )


def _log_steering(level: int, request: Request, peer: Peer, result: str) -> None:
    arguments = json.dumps(request.arguments)  # one line of ASCII, whatever is in it
    if len(arguments) > _LONGEST_LOGGED:
        arguments = f"{arguments[:_LONGEST_LOGGED]}..."
    logger.log(
        level,
        "event=steer command=%s uid=%d pid=%d arguments=%s result=%s",
        request.command, peer.uid, peer.pid, arguments, result,
    )  # fmt: skip


def traced(error: BaseException) -> tuple[str, str]:
    """Return the class of an error and where it came from, without its text.

    The text of a driver's error may hold what nobody is to read, as a part of a password.
    """
    return type(error).__name__, "".join(traceback.format_tb(error.__traceback__))
