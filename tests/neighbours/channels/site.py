"""Consumers of each kind, and a view beside them."""

from __future__ import annotations

from typing import Any

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import path

from django_poolkit.contrib.channels import LeasesByMessage
from tests.app.models import Item

LOCK = 4711
"""What a consumer waits for that is told to `wait`."""


def work(text: str) -> str:
    """Do what a message asks for, and return the answer."""
    with transaction.atomic():
        if text == "wait":
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
            return "waited"
        Item.objects.create(name=text)
    return f"{text}: {Item.objects.filter(name=text).count()}"


class Sync(LeasesByMessage, WebsocketConsumer):  # type: ignore[misc]
    """A synchronous one: it runs in threads."""

    def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
        self.send(text_data=work(text_data))


class Hops(AsyncWebsocketConsumer):  # type: ignore[misc]
    """An asynchronous one, as Channels' documentation has it."""

    async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
        await self.send(text_data=await database_sync_to_async(work)(text_data))


class Bare(AsyncWebsocketConsumer):  # type: ignore[misc]
    """One that uses the asynchronous methods of the ORM."""

    async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
        await Item.objects.acreate(name=text_data)
        found = await Item.objects.filter(name=text_data).acount()
        await self.send(text_data=f"{text_data}: {found}")


class Ours(LeasesByMessage, Bare):
    """The same, with leases by message. All of them are in one group."""

    groups = ("everybody",)

    async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
        if text_data.startswith("all: "):
            told = {"type": "everybody.told", "text": text_data}
            await self.channel_layer.group_send("everybody", told)
        elif text_data == "wait":
            await self.send(text_data=await database_sync_to_async(work)(text_data))
        else:
            await super().receive(text_data, bytes_data)

    async def everybody_told(self, event: dict[str, str]) -> None:
        """Hear what one of the group has said, and look something up for it."""
        seen = await Item.objects.filter(name="seen by all").acount()
        await self.send(text_data=f"{event['text']}, {seen}")


def count(request: HttpRequest) -> HttpResponse:
    """A view of the same site."""
    return HttpResponse(str(Item.objects.count()))


urlpatterns = [path("count/", count)]
websockets = [path(f"{kind.__name__}/", kind.as_asgi()) for kind in (Sync, Hops, Bare, Ours)]
