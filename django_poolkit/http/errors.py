"""What a client session of ours raises beside aiohttp's own errors. Both are `ClientError`s."""

from __future__ import annotations

import aiohttp


class RequestRefused(aiohttp.ClientError):
    """The policy of the client session does not allow this request, or where it would lead.

    Nothing was sent there. The text names origins at most, never a path or a query.
    """


class BodyTooLarge(aiohttp.ClientPayloadError):
    """The body of a response is larger than `MAX_BODY`. Its connection has been closed."""
