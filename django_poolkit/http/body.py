"""The body of a response, up to a bound: counted as it is read, after it was decompressed.

aiohttp has no bound: 51 kB of gzip became 50 MB in one `read()`. It does stop taking from the
socket while nobody reads, at half a megabyte; so what is counted is what is read.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import Any, Final

from aiohttp import ClientResponse
from aiohttp.streams import StreamReader

from django_poolkit.http.errors import BodyTooLarge
from django_poolkit.pools.errors import WrongLoop

_PIECE: Final = 2**18
"""Bytes that are read at once, as aiohttp does where nobody asks for more."""


def bound(
    response: ClientResponse, limit: int | None, failed: Callable[[BaseException], None]
) -> None:
    """Have at most `limit` bytes of the body read, on its own event loop.

    `failed` is told of what is raised to those who read.
    """
    reader = response.content
    if type(reader) is StreamReader:  # one without a body has another
        response.content = BoundedReader(response, limit, failed)
        # The connection would keep alive a response that nobody has any more, and that one the
        # connection (aiohttp 3.14, client_reqrep.py, `ClientResponse.start`): for ever, since
        # only the finalizer of a response gives back what its owner did not.
        reader._eof_callbacks[:] = [
            _weakly(callback) if callback == response._response_eof else callback
            for callback in reader._eof_callbacks
        ]


def _weakly(method: Callable[[], None]) -> Callable[[], None]:
    reference = weakref.WeakMethod(method)

    def call() -> None:
        if (found := reference()) is not None:
            found()

    return call


class BoundedReader(StreamReader):
    """Stands before aiohttp's reader. Each of its methods is handed on to that one."""

    __slots__ = ("_failed", "_left", "_limit", "_reader", "_response")

    def __init__(
        self, response: ClientResponse, limit: int | None, failed: Callable[[BaseException], None]
    ) -> None:
        # Of the base class no other attribute is set: all of its methods are overridden that
        # need one.
        self._loop = asyncio.get_running_loop()
        self._response = response
        self._reader = response.content
        self._limit = limit
        self._left = limit
        self._failed = failed

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._reader!r}>"

    # -- reading

    async def read(self, n: int = -1) -> bytes:
        """Read up to `n` bytes, or all."""
        if n >= 0:
            return await self._read(self._reader.read, min(n, self._most()))
        # aiohttp's own would lift its bound on decompression to read everything.
        blocks = []
        while block := await self.readany():
            blocks.append(block)
        return b"".join(blocks)

    async def readany(self) -> bytes:
        """Read what is there, or comes next."""
        return await self.read(_PIECE)

    async def readexactly(self, n: int) -> bytes:
        """Read `n` bytes. Raises IncompleteReadError where there are fewer."""
        blocks = []
        while n > 0 and (block := await self.read(n)):
            blocks.append(block)
            n -= len(block)
        found = b"".join(blocks)
        if n > 0:
            raise asyncio.IncompleteReadError(found, len(found) + n)
        return found

    async def readline(self, **options: Any) -> bytes:
        """Read a line."""
        return await self._read(self._reader.readline, **options)

    async def readuntil(self, separator: bytes = b"\n", **options: Any) -> bytes:
        """Read up to a separator."""
        return await self._read(self._reader.readuntil, separator, **options)

    async def readchunk(self) -> tuple[bytes, bool]:
        """Read a chunk, and whether it is the end of one that the server sent."""
        end = False

        async def read() -> bytes:
            nonlocal end
            data, end = await self._reader.readchunk()
            return data

        return await self._read(read), end

    def read_nowait(self, n: int = -1) -> bytes:
        """Read what is there."""
        return self._count(self._reader.read_nowait(n))

    def unread_data(self, data: bytes) -> None:
        """Put back what was read last."""
        self._reader.unread_data(data)
        if self._left is not None:
            self._left += len(data)

    async def _read(self, method: Callable[..., Any], *args: Any, **options: Any) -> bytes:
        if asyncio.get_running_loop() is not self._loop:
            raise WrongLoop(
                "this response belongs to another event loop: read it where it was asked for"
            )
        try:
            return self._count(await method(*args, **options))
        except BaseException as error:
            self._failed(error)
            raise

    def _most(self) -> int:
        # aiohttp gets ready to buffer twice as much as is asked for.
        return _PIECE if self._left is None else min(_PIECE, self._left + 1)

    def _count(self, data: bytes) -> bytes:
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                self._response.close()
                raise BodyTooLarge(f"the body has more than {self._limit} bytes")
        return data

    # -- all else

    async def wait_eof(self) -> None:
        """Wait until all has been received."""
        await self._reader.wait_eof()

    def get_read_buffer_limits(self) -> tuple[int, int]:
        """Return the low and the high water mark."""
        return self._reader.get_read_buffer_limits()

    def set_read_chunk_size(self, n: int) -> None:
        """Do nothing: how much is buffered is decided by what is read."""

    def exception(self) -> BaseException | None:
        """Return why reading fails."""
        return self._reader.exception()

    def set_exception(self, *args: Any, **kwargs: Any) -> None:
        """Let reading fail."""
        self._reader.set_exception(*args, **kwargs)

    def on_eof(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when all has been received."""
        self._reader.on_eof(callback)

    def is_eof(self) -> bool:
        """Return whether all has been received."""
        return self._reader.is_eof()

    def at_eof(self) -> bool:
        """Return whether all has been read."""
        return self._reader.at_eof()

    @property
    def total_bytes(self) -> int:  # type: ignore[override]
        """Bytes received, decompressed."""
        return self._reader.total_bytes

    @property
    def total_raw_bytes(self) -> int:
        """Bytes received."""
        return self._reader.total_raw_bytes
