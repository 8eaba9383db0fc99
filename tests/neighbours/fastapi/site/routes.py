"""Endpoints of each kind that FastAPI knows, on the pools of Django."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from asgiref.sync import sync_to_async
from django.db import connection, transaction
from fastapi import APIRouter, BackgroundTasks, Depends, HTTPException, WebSocket
from fastapi.responses import StreamingResponse
from psycopg import AsyncConnection
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from django_poolkit import connection_pools
from django_poolkit.aio import aatomic, bridged
from django_poolkit.contrib.fastapi import asyncpg_leased, leased
from django_poolkit.contrib.sqlalchemy import create_async_engine
from tests.app.models import Item

router = APIRouter()

Psycopg = Annotated[AsyncConnection, leased("default")]
Asyncpg = Annotated[Any, asyncpg_leased("default")]

sessions = async_sessionmaker(create_async_engine("default"))
INSERT = "INSERT INTO app_item (name, created) VALUES ({}, now()) RETURNING id"

# What the endpoints saw, for tests in the same process.
seen: list[Any] = []


async def sqlalchemy_session() -> AsyncIterator[AsyncSession]:
    async with sessions.begin() as session:
        yield session


SQLAlchemy = Annotated[AsyncSession, Depends(sqlalchemy_session, scope="function")]


def _said(item: int, **more: Any) -> dict[str, Any]:
    return {"pid": os.getpid(), "item": item, "thread": threading.current_thread().name, **more}


def _create(name: str) -> int:
    return Item.objects.create(name=name).pk


@router.get("/pid")
async def pid() -> dict[str, int]:
    """Say which worker this is."""
    return {"pid": os.getpid()}


@router.get("/pools")
async def pools() -> dict[str, Any]:
    """Say how the pool stands, without a lease."""
    stats = connection_pools["default"].stats()
    return {name: getattr(stats, name) for name in ("size", "used", "waiters", "leaks", "max_size")}


# -- writing, in each way


@router.get("/write/plain/{number}")
def write_plain(number: int) -> dict[str, Any]:
    """Write in a thread of anyio's."""
    return _said(_create(f"plain {number}"))


@router.get("/write/atomic/{number}")
@transaction.atomic
def write_atomic(number: int) -> dict[str, Any]:
    """Write in a transaction, in a thread of anyio's."""
    return _said(_create(f"atomic {number}"))


@router.get("/write/threaded/{number}")
@sync_to_async
def write_threaded(number: int) -> dict[str, Any]:
    """Write in the thread of the request."""
    return _said(_create(f"threaded {number}"))


@router.get("/write/bridged/{number}")
@bridged
def write_bridged(number: int) -> dict[str, Any]:
    """Write on the loop."""
    return _said(_create(f"bridged {number}"))


@router.get("/write/methods/{number}")
async def write_methods(number: int) -> dict[str, Any]:
    """Write by Django's async methods."""
    return _said((await Item.objects.acreate(name=f"methods {number}")).pk)


@router.get("/write/aatomic/{number}")
@aatomic
async def write_aatomic(number: int) -> dict[str, Any]:
    """Write in a transaction of async code."""
    return _said((await Item.objects.acreate(name=f"aatomic {number}")).pk)


@router.get("/write/psycopg/{number}")
async def write_psycopg(number: int, connection: Psycopg) -> dict[str, Any]:
    """Write by a connection of psycopg's."""
    cursor = await connection.execute(INSERT.format("%s"), [f"psycopg {number}"])
    [item] = await cursor.fetchone() or [0]
    return _said(item)


@router.get("/write/asyncpg/{number}")
async def write_asyncpg(number: int, connection: Asyncpg) -> dict[str, Any]:
    """Write by a connection of asyncpg's."""
    return _said(await connection.fetchval(INSERT.format("$1"), f"asyncpg {number}"))


@router.get("/write/sqlalchemy/{number}")
async def write_sqlalchemy(number: int, session: SQLAlchemy) -> dict[str, Any]:
    """Write by a session of SQLAlchemy's."""
    found = await session.execute(text(INSERT.format(":name")), {"name": f"sqlalchemy {number}"})
    return _said(found.scalar_one())


KINDS = (
    "plain", "atomic", "threaded", "bridged", "methods", "aatomic", "psycopg", "asyncpg",
    "sqlalchemy",
)  # fmt: skip


# -- writing, and failing


@router.get("/fail/plain")
@transaction.atomic
def fail_plain() -> None:
    """Write, and fail."""
    _create("lost")
    raise HTTPException(418)


@router.get("/fail/aatomic")
@aatomic
async def fail_aatomic() -> None:
    """The same on the loop."""
    await Item.objects.acreate(name="lost")
    raise HTTPException(418)


@router.get("/fail/psycopg")
async def fail_psycopg(connection: Psycopg) -> None:
    """The same by a connection of psycopg's."""
    async with connection.transaction():
        await connection.execute(INSERT.format("%s"), ["lost"])
        raise HTTPException(418)


@router.get("/fail/sqlalchemy")
async def fail_sqlalchemy(session: SQLAlchemy) -> None:
    """The same by a session of SQLAlchemy's, which the dependency commits."""
    await session.execute(text(INSERT.format("'lost'")))
    raise HTTPException(418)


@router.get("/refused")
async def refused(session: SQLAlchemy) -> dict[str, str]:
    """Write what only the commit finds out to be wrong."""
    await session.execute(text("CREATE TEMP TABLE parent (id int PRIMARY KEY) ON COMMIT DROP"))
    await session.execute(
        text(
            "CREATE TEMP TABLE child (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)"
            " ON COMMIT DROP"
        )
    )
    await session.execute(text("INSERT INTO child VALUES (1)"))
    return {"said": "well done"}


# -- holding


@router.get("/hold/plain/{secret}")
def hold_plain(secret: str, seconds: float) -> dict[str, int]:
    """Hold a lease in a thread of anyio's."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        time.sleep(seconds)
    return {"pid": os.getpid()}


@router.get("/hold/methods/{secret}")
async def hold_methods(secret: str, seconds: float) -> dict[str, int]:
    """Hold one in the request's thread, in session mode."""
    async with aatomic():
        await Item.objects.acount()
        await asyncio.sleep(seconds)
    return {"pid": os.getpid()}


@router.get("/hold/psycopg/{secret}")
async def hold_psycopg(secret: str, seconds: float, connection: Psycopg) -> dict[str, int]:
    """Hold a connection of psycopg's."""
    await asyncio.sleep(seconds)
    return {"pid": os.getpid()}


@router.get("/hold/asyncpg/{secret}")
async def hold_asyncpg(secret: str, seconds: float, connection: Asyncpg) -> dict[str, int]:
    """Hold a connection of asyncpg's."""
    await asyncio.sleep(seconds)
    return {"pid": os.getpid()}


@router.get("/stream")
async def stream() -> StreamingResponse:
    """Send for ever, with a lease."""

    async def ticks() -> AsyncIterator[str]:
        async with connection_pools["default"].alease() as held:
            while True:
                await held.execute("SELECT 1")
                yield "tick\n"
                await asyncio.sleep(0.01)

    return StreamingResponse(ticks(), media_type="text/plain")


@router.get("/background")
async def background(tasks: BackgroundTasks) -> dict[str, int]:
    """Answer, and write after that."""
    tasks.add_task(_create, "in the background")
    return {"pid": os.getpid()}


@router.websocket("/ws/{number}")
async def websocket(socket: WebSocket, number: int) -> None:
    """Write for each message."""
    await socket.accept()
    async for message in socket.iter_text():
        item = await Item.objects.acreate(name=message)
        await socket.send_json({"item": item.pk})


# -- sessions: who sees what of whom


@router.get("/session/set")
def session_set() -> dict[str, str]:
    """Leave session state behind, in a thread of anyio's."""
    with connection.cursor() as cursor:
        cursor.execute("SET work_mem = '77MB'")
    return session_look()


@router.get("/session/look")
def session_look() -> dict[str, str]:
    """Say what this thread finds there."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('work_mem')")
        [found] = cursor.fetchone()
    return {"work_mem": found, "thread": threading.current_thread().name}


def owner() -> str:
    """A dependency that queries, in a thread of anyio's."""
    seen.append(threading.current_thread().name)
    return str(Item.objects.count())


def watched() -> Iterator[str]:
    """One that has an end as well."""
    seen.append(Item.objects.count())
    yield "watched"
    seen.append(Item.objects.count())


@router.get("/dependent")
def dependent(
    owner: Annotated[str, Depends(owner)], watched: Annotated[str, Depends(watched)]
) -> dict[str, int]:
    """Query with a dependency that has queried, and perhaps holds what it used for that."""
    return {"items": Item.objects.count()}
