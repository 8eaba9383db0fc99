"""The site under ASGI: Django's application, and a websocket that answers."""

from __future__ import annotations

import os
from typing import Any

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.lifespan.site.settings"

from django.core.asgi import get_asgi_application

from django_poolkit.asgi import Poolkit
from tests.lifespan.site.journal import note

_django = get_asgi_application()


async def _site(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "websocket":
        # Also a lifespan, which Django refuses by an exception.
        await _django(scope, receive, send)
        return
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    try:
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"].upper()})
    finally:
        note("websocket ends")


application = Poolkit(_site)
