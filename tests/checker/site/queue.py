"""A queue of jobs in a folder, each of them whole at once."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.checker.site.settings import FACTS


def put(job: dict[str, Any], token: str | None) -> None:
    """Enqueue a job, with the token of what enqueues it."""
    folder = Path(FACTS["queue"])
    path = folder / f"{job['number']}.new"
    path.write_text(json.dumps({**job, "token": token}))
    path.rename(folder / f"{job['number']}.job")


def take() -> Iterator[dict[str, Any]]:
    """Yield jobs as they come, for ever."""
    folder = Path(FACTS["queue"])
    while True:
        for path in sorted(folder.glob("*.job"), key=lambda each: int(each.stem)):
            job: dict[str, Any] = json.loads(path.read_text())
            path.unlink()
            yield job
        time.sleep(0.01)
