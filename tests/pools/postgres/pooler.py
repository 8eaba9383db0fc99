"""A pooler in miniature: it speaks as much of the protocol as it takes to drop an option."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Self

# Requests for encryption, by their codes in place of a protocol version.
_SSL, _GSS = 80877103, 80877104
_REFUSAL = b"SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter: options\0\0"


class Pooler:
    """Stands in front of a server and deals with the start-up options of its clients.

    `refuses` answers them as PgBouncer does where `ignore_startup_parameters` lacks
    `options`; else they are dropped without a word, as where it is listed there.

    It makes up the number of the backend, as they all do. `tracks` says that it gives prepared
    statements names of its own, as PgBouncer does since 1.21.
    """

    def __init__(
        self, host: str, port: int, *, refuses: bool = False, tracks: bool = False
    ) -> None:
        self._target = host, port
        self._refuses = refuses
        self._tracks = tracks
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self._listener.getsockname()
        self._ends: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []
        self.refused = 0
        """How many clients were refused."""
        self._run(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        for thread in self._threads:
            thread.join(5.0)

    def _run(self, work: Callable[..., None], *args: object) -> None:
        self._threads.append(threading.Thread(target=work, args=args, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._ends.append(client)
            self._run(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        try:
            protocol, words = self._startup(client)
        except (OSError, struct.error):
            return  # it went away, as a cancel request does
        parameters = dict(zip(words[::2], words[1::2], strict=False))
        if parameters.pop(b"options", None) is not None and self._refuses:
            self.refused += 1
            client.sendall(b"E" + struct.pack("!i", len(_REFUSAL) + 4) + _REFUSAL)
            client.shutdown(socket.SHUT_RDWR)
            return
        server = socket.create_connection(self._target)
        self._ends.append(server)
        body = protocol + b"".join(k + b"\0" + v + b"\0" for k, v in parameters.items()) + b"\0"
        server.sendall(struct.pack("!i", len(body) + 4) + body)
        self._run(self._forward, server, client, self._disguised)
        self._forward(client, server, self._renamed if self._tracks else None)

    def _startup(self, client: socket.socket) -> tuple[bytes, list[bytes]]:
        while True:
            [length] = struct.unpack("!i", client.recv(4, socket.MSG_WAITALL))
            body = client.recv(length - 4, socket.MSG_WAITALL)
            [code] = struct.unpack("!i", body[:4])
            if code not in (_SSL, _GSS):
                return body[:4], body[4:].split(b"\0")[:-2]
            client.sendall(b"N")

    @staticmethod
    def _disguised(kind: bytes, body: bytes) -> bytes:
        return struct.pack("!i", 4_000_000) + body[4:] if kind == b"K" else body

    @staticmethod
    def _renamed(kind: bytes, body: bytes) -> bytes:
        """Give the statement of a message the pooler's own name. One without a name has none."""
        start = {b"P": 0, b"B": body.find(b"\0") + 1, b"D": 1, b"C": 1}.get(kind)
        named = start is not None and body[start : start + 1] != b"\0"
        if start is None or not named or (kind in b"DC" and body[:1] != b"S"):
            return body
        return body[:start] + b"POOLER_" + body[start:]

    @staticmethod
    def _forward(
        source: socket.socket,
        sink: socket.socket,
        change: Callable[[bytes, bytes], bytes] | None = None,
    ) -> None:
        """Pass messages on, by way of `change`."""
        rest = b""
        try:
            while data := source.recv(65_536):
                if change is None:
                    sink.sendall(data)
                    continue
                rest, out = rest + data, b""
                while len(rest) > 4:
                    [length] = struct.unpack("!i", rest[1:5])
                    if len(rest) <= length:
                        break
                    kind, body, rest = rest[:1], rest[5 : length + 1], rest[length + 1 :]
                    body = change(kind, body)
                    out += kind + struct.pack("!i", len(body) + 4) + body
                sink.sendall(out)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass
