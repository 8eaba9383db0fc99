"""Tasks for Celery workers."""

from __future__ import annotations

import os
import time
from threading import Thread
from typing import Any

from celery import shared_task
from django.db import InterfaceError, OperationalError, connection

from tests.servers.site.views import run


@shared_task
def slow(seconds: float) -> int:
    """Run a statement that takes long; return which worker this is."""
    run("SELECT pg_sleep(%s)", seconds)
    return os.getpid()


@shared_task
def ask(seconds: float = 0.0) -> str:
    """Return which process this is, and which of the server's it talks to."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid(), pg_sleep(%s)", [seconds])
        return f"{os.getpid()}/{cursor.fetchone()[0]}"


@shared_task
def fail() -> None:
    """Raise with a connection in hand."""
    run("SELECT 1")
    raise RuntimeError("on purpose")


@shared_task(bind=True, max_retries=1)
def again(this: Any) -> str:
    """Be tried again with a connection in hand; then return which process this is."""
    run("SELECT 1")
    if not this.request.retries:
        raise this.retry(countdown=0)
    return "again"


@shared_task(
    bind=True,
    acks_late=True,
    autoretry_for=(OperationalError, InterfaceError),
    retry_kwargs={"max_retries": None, "countdown": 0.2},
)
def note(this: Any, number: int) -> str:
    """Write a number down, and try again for as long as there is no server."""
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO noted VALUES (%s) ON CONFLICT DO NOTHING", [number])
    return f"noted {number}"


@shared_task
def leave() -> str:
    """Have a thread query that closes nothing."""
    thread = Thread(target=run, args=("SELECT 1",))
    thread.start()
    thread.join()
    return "left"


@shared_task
def beat() -> str:
    """Let others run for a while, without the database."""
    for _ in range(20):
        time.sleep(0.01)
    return "beaten"
