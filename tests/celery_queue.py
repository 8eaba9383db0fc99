"""Tasks for a Celery worker that takes them from a folder, left there by somebody outside."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from celery import Celery


def leave_tasks(
    folder: Path, name: str, arguments: Sequence[Any] = (), *, times: int = 1, **options: Any
) -> list[str]:
    """Leave tasks in the folder, each of them whole at once; return what each is known by.

    The transport creates a message's file and then writes it (kombu/transport/filesystem.py,
    `Channel._put()`): a worker that looks in between takes an empty one, and fails.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent) as outbox:
        ways = {f"data_folder_{way}": outbox for way in ("in", "out")}
        with Celery("outside", broker="filesystem://", set_as_current=False) as celery:
            celery.conf.broker_transport_options = {**ways, "control_folder": outbox}
            known = [
                str(celery.send_task(name, list(arguments), **options).id) for _ in range(times)
            ]
        for message in sorted(Path(outbox).glob("*.msg")):
            message.rename(folder / message.name)
    return known
