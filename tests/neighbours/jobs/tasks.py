"""What the worker does: procrastinate finds it by the name of this module."""

from __future__ import annotations

from django.db import transaction
from procrastinate.contrib.django import app

from tests.app.models import Item


@app.task(queue="items")
def rename(pk: int, name: str) -> None:
    """Rename an item, in a block."""
    with transaction.atomic():
        item = Item.objects.select_for_update().get(pk=pk)
        item.name = f"{name} by a thread"
        item.save()


@app.task(queue="items")
async def rename_soon(pk: int, name: str) -> None:
    """Rename an item from a coroutine."""
    item = await Item.objects.aget(pk=pk)
    item.name = f"{name} by a coroutine"
    await item.asave()


@app.task(queue="items")
def fail(pk: int) -> None:
    """Change an item, and fail: nothing of it may stay."""
    with transaction.atomic():
        Item.objects.filter(pk=pk).update(name="changed in vain")
        raise ValueError("as it should")


@app.task(queue="notes")
def note(name: str) -> None:
    """Write something in a block."""
    with transaction.atomic():
        Item.objects.create(name=name)


@app.task(queue="notes")
async def note_soon(name: str) -> None:
    """Write something from a coroutine."""
    await Item.objects.acreate(name=name)
