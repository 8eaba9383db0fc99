"""What is said over a control socket: one request and one reply, each a length and a JSON object.

4 bytes of length, big-endian, then UTF-8. A request is `{"version": 1, "command": …,
"arguments": {…}}`; a reply `{"version": 1, "ok": true, "result": {…}}`, or `{"version": 1,
"ok": false, "error": code, "message": sentence}`.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

VERSION: Final = 1
HEADER: Final = struct.Struct(">I")
LONGEST_REQUEST: Final = 64 * 1024
LONGEST_REPLY: Final = 16 * 1024 * 1024


class ProtocolError(Exception):
    """A message that is none; `code` says why, in one of the words of the protocol."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class BadArguments(ProtocolError):
    """Raised by a command whose arguments it cannot honour. The message reaches who asked."""

    def __init__(self, message: str) -> None:
        super().__init__("bad_arguments", message)


@dataclass(frozen=True, slots=True)
class Request:
    """What one process asks of another."""

    command: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a socket; `pid` is 0 where the system does not say."""

    uid: int
    pid: int


def frame(message: Mapping[str, Any], longest: int) -> bytes:
    """Return a message as it is sent.

    Raises ProtocolError for one that is too long, TypeError or ValueError for what JSON lacks.
    """
    payload = json.dumps(message, allow_nan=False, separators=(",", ":")).encode()
    if len(payload) > longest:
        raise ProtocolError("too_large", f"{len(payload)} bytes are more than {longest}")
    return HEADER.pack(len(payload)) + payload


def length_of(header: bytes, longest: int) -> int:
    """Return how many bytes come after these four.

    Raises ProtocolError for none, or more than `longest`: nothing of them is to be read.
    """
    [length] = HEADER.unpack(header)
    if length > longest:
        raise ProtocolError("too_large", f"{length} bytes are announced; at most {longest} may be")
    if not length:
        raise ProtocolError("bad_frame", "an empty frame")
    return int(length)


def request(command: str, arguments: Mapping[str, Any]) -> bytes:
    """Return a request as it is sent. Raises as `frame()`."""
    message = {"version": VERSION, "command": command, "arguments": arguments}
    return frame(message, LONGEST_REQUEST)


def success(result: Mapping[str, Any]) -> bytes:
    """Return the reply to a command that was carried out. Raises as `frame()`."""
    return frame({"version": VERSION, "ok": True, "result": dict(result)}, LONGEST_REPLY)


def failure(code: str, message: str) -> bytes:
    """Return the reply to what was not."""
    reply = {"version": VERSION, "ok": False, "error": code, "message": message}
    return frame(reply, LONGEST_REPLY)


def read_request(payload: bytes) -> Request:
    """Return the request in a frame. Raises ProtocolError for anything else."""
    message = _read(payload)
    command, arguments = message.get("command"), message.get("arguments", {})
    if not isinstance(command, str) or not isinstance(arguments, dict):
        raise ProtocolError("bad_frame", "'command' must be a string, 'arguments' an object")
    return Request(command, arguments)


def read_reply(payload: bytes) -> Mapping[str, Any]:
    """Return the result in a frame. Raises ProtocolError for a failure, or for anything else."""
    message = _read(payload)
    if message.get("ok") is True and isinstance(message.get("result"), dict):
        result: dict[str, Any] = message["result"]
        return result
    code, text = message.get("error"), message.get("message")
    if isinstance(code, str) and isinstance(text, str):
        raise ProtocolError(code, text)
    raise ProtocolError("bad_frame", "neither a result nor an error")


def _read(payload: bytes) -> dict[str, Any]:
    try:
        message = json.loads(payload.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):  # deep enough a nesting ends in the latter
        raise ProtocolError("bad_frame", "the frame holds no JSON") from None
    if not isinstance(message, dict):
        raise ProtocolError("bad_frame", "the frame holds no JSON object")
    if message.get("version") != VERSION:
        text = f"this process speaks version {VERSION}; both sides need one django_poolkit"
        raise ProtocolError("bad_version", text)
    return message


def _refuse(constant: str) -> None:
    raise ValueError(constant)  # NaN and Infinity, which are no JSON


def peer_of(connection: socket.socket) -> Peer:
    """Ask the system who is at the other end. Raises OSError where it does not know."""
    if hasattr(socket, "SO_PEERCRED"):  # Linux
        size = struct.calcsize("=3i")
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        pid, uid, _ = struct.unpack("=3i", raw)
        return Peer(uid & 0xFFFFFFFF, pid)
    return _peer_of_bsd(connection)


def _peer_of_bsd(connection: socket.socket) -> Peer:
    # <sys/un.h>: SOL_LOCAL, LOCAL_PEERCRED; <sys/ucred.h>: struct xucred, of which the version,
    # 0, and the user id come first. Python has names for none of them.
    raw = connection.getsockopt(0, 1, 76)
    version, uid = struct.unpack_from("=2I", raw)
    if version != 0:
        raise OSError(f"credentials of version {version}, which is not known")
    return Peer(uid, 0)
