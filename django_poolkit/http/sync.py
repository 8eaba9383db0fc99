"""The client session for code that has no event loop: `client_sessions["x"].sync.get(url)`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any

from django.core.exceptions import SynchronousOnlyOperation

from django_poolkit.http.background import background


@dataclass(frozen=True, slots=True)
class SyncResponse:
    """An answer that has been read whole."""

    status: int
    headers: Mapping[str, str]
    """By names in any case."""
    url: str
    """Where it came from, in the end."""
    body: bytes

    def text(self) -> str:
        """Return the body as text: by the charset of its Content-Type, else as UTF-8.

        Raises UnicodeDecodeError.
        """
        message = Message()
        message["Content-Type"] = self.headers.get("Content-Type", "")
        charset = message.get_content_charset("utf-8")
        try:
            return self.body.decode(charset)
        except LookupError:  # there is no such charset
            return self.body.decode()

    def json(self) -> Any:
        """Return what the body says in JSON, whatever its Content-Type. Raises ValueError."""
        return json.loads(self.body)


Fetch = Callable[..., Coroutine[Any, Any, SyncResponse]]


class SyncClientSession:
    """The same client session, on the event loop that the process keeps in a thread for this.

    Takes what aiohttp takes, and blocks the calling thread until the answer is there, which the
    timeouts bound. Raises aiohttp's errors, and SynchronousOnlyOperation in the thread of a
    running event loop, which would stand still.
    """

    def __init__(self, name: str, fetch: Fetch) -> None:
        self._name = name
        self._fetch = fetch

    def request(self, method: str, url: Any, **options: Any) -> SyncResponse:
        """Send a request, and return the answer."""
        if asyncio._get_running_loop() is None:
            return background.run(lambda: self._fetch(method, url, **options))
        raise SynchronousOnlyOperation(
            f"client_sessions[{self._name!r}].sync would block the event loop that runs in this "
            f"thread. Write: await client_sessions[{self._name!r}].{method.lower()}(...)"
        )

    def get(self, url: Any, **options: Any) -> SyncResponse:
        """Send a GET request."""
        return self.request("GET", url, **options)

    def options(self, url: Any, **options: Any) -> SyncResponse:
        """Send an OPTIONS request."""
        return self.request("OPTIONS", url, **options)

    def head(self, url: Any, **options: Any) -> SyncResponse:
        """Send a HEAD request. Redirects are not followed."""
        return self.request("HEAD", url, **{"allow_redirects": False, **options})

    def post(self, url: Any, **options: Any) -> SyncResponse:
        """Send a POST request."""
        return self.request("POST", url, **options)

    def put(self, url: Any, **options: Any) -> SyncResponse:
        """Send a PUT request."""
        return self.request("PUT", url, **options)

    def patch(self, url: Any, **options: Any) -> SyncResponse:
        """Send a PATCH request."""
        return self.request("PATCH", url, **options)

    def delete(self, url: Any, **options: Any) -> SyncResponse:
        """Send a DELETE request."""
        return self.request("DELETE", url, **options)
