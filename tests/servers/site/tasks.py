"""Tasks for Celery workers."""

from __future__ import annotations

import os

from celery import shared_task

from tests.servers.site.views import run


@shared_task
def slow(seconds: float) -> int:
    """Run a statement that takes long; return which worker this is."""
    run("SELECT pg_sleep(%s)", seconds)
    return os.getpid()
