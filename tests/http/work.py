"""A Celery worker whose tasks ask an upstream: `celery -A tests.http.work worker`."""

from __future__ import annotations

import json
import os
from pathlib import Path

from celery import Celery
from django.http import HttpRequest

from tests.http import site

app = Celery("work", broker="filesystem://")
app.conf.broker_transport_options = json.loads(os.environ["QUEUE"])


@app.task(name="ask")  # type: ignore[untyped-decorator,unused-ignore]
def ask() -> None:
    """Ask, and write down what came of it."""
    with Path(os.environ["NOTES"]).open("a") as notes:
        notes.write(site.in_sync(HttpRequest()).content.decode() + "\n")
