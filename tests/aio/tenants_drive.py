"""Requests of two tenants to async views on a pool of two: `python -m tests.aio.tenants_drive`.

Prints as JSON what each request saw, what each schema has in the end, and what is leased then.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

from tests.neighbours.tenants import drive  # sets Django up

TENANTS, REQUESTS = drive.TENANTS, 24


async def get(app: Any, host: str) -> str:
    """Serve a request to its end, as a server does; return the body."""
    scope = {
        "type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "path": "/",
        "raw_path": b"/", "query_string": b"", "root_path": "",
        "headers": [(b"host", host.encode())],
        "server": (host, 80), "client": ("127.0.0.1", 1),
    }  # fmt: skip
    asked, body = asyncio.Event(), bytearray()

    async def receive() -> dict[str, Any]:
        if asked.is_set():
            await asyncio.get_running_loop().create_future()  # the client stays
        asked.set()
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        body.extend(message.get("body", b""))

    await app(scope, receive, send)
    return body.decode()


async def visit(app: Any, number: int, found: Counter[str]) -> None:
    """Make a request for the one or the other tenant."""
    tenant = TENANTS[number % 2]
    body = await get(app, f"{tenant}.example")
    if not body.startswith("{"):
        found[f"{tenant} got {body[:300]}"] += 1
        return
    answer = json.loads(body)
    whose = sorted({text.partition(":")[0] for text in answer["seen"]})
    found[f"{answer['tenant']} saw {', '.join(whose)}"] += 1


async def crowd(app: Any) -> Counter[str]:
    """Make all requests at once."""
    found: Counter[str] = Counter()
    await asyncio.gather(*(visit(app, number, found) for number in range(REQUESTS)))
    return found


def main() -> None:
    """Run it all."""
    from django.conf import settings

    from django_poolkit.asgi import get_asgi_application

    drive.make_tenants()
    settings.ROOT_URLCONF = "tests.aio.tenants_site"
    found = asyncio.run(crowd(get_asgi_application()))
    used = drive.connection.pool.stats().used
    rows: dict[str, Any] = {}
    for schema in (*TENANTS, "public"):
        with drive.connection.cursor() as cursor:
            cursor.execute(f"SELECT text FROM {schema}.notes_note")
            rows[schema] = Counter(text for (text,) in cursor.fetchall())
    drive.connection.close()
    print(json.dumps({"requests": found, "rows": rows, "used": used}))


if __name__ == "__main__":
    main()
