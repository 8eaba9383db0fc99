"""`python -m tests.checker.site.worker`: runs jobs, and says what each has found."""

from __future__ import annotations

import json
import os
import threading
import time
from typing import Any


def main() -> None:
    """Run jobs for ever, in several threads."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.checker.site.settings"
    import django

    django.setup()
    from tests.checker.site import planted, queue

    planted.plant()
    jobs = queue.take()
    taking, saying = threading.Lock(), threading.Lock()  # the iterator; the output

    def serve() -> None:
        while True:
            with taking:
                job = next(jobs)
            line = json.dumps(run(job))
            with saying:
                print(line, flush=True)

    threads = [threading.Thread(target=serve) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run one job, as a library of jobs does."""
    from django.db import connections

    from django_poolkit.routing import carry, scope
    from tests.checker.site import actions
    from tests.checker.site.telling import told

    began = time.monotonic()
    answer: dict[str, Any] = {"number": job["number"], "began": began, "error": ""}
    try:
        with scope(job["token"]):
            if (place := job.get("append")) is not None:
                actions.append(place[0], place[1], together=True)
                answer["told"] = told(carry())
            answer["reads"] = actions.look(job["look"])
    except Exception as error:
        state = getattr(error.__cause__, "sqlstate", None)
        answer["error"] = f"{type(error).__name__} {state}"
    finally:
        connections.close_all()
    return {**answer, "ended": time.monotonic()}


if __name__ == "__main__":
    main()
