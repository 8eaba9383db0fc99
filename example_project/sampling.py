"""Watch from outside how many connections the shop has open."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import psycopg

from django_poolkit.testing import Node
from django_poolkit.testing.server import ADMIN_NAME
from example_project.measures import Measures

_COUNT = """
SELECT count(*) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND datname = %s
"""


class Sampler:
    """Asks the server every few milliseconds, on a connection that it does not count."""

    def __init__(self, node: Node, database: str, measures: Measures, every: float = 0.05) -> None:
        # To another database, so that it is not counted; under this name it is not killed either.
        self._connection = node.connect(application_name=ADMIN_NAME)
        self._database = database
        self._measures = measures
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                row = self._connection.execute(_COUNT, (self._database,)).fetchone()
            except psycopg.OperationalError:
                # The server is going down with us: there is nothing left to count.
                return
            self._measures.saw_connections(int(row[0]) if row else 0)
            self._stop.wait(self._every)
