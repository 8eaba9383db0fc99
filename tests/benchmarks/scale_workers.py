"""What a lease costs a process by how many processes lease from one server at once.

Run as a program it is one of these: contestant and seconds are its arguments, the first line of
its input has the server's parameters, and the second one says that all are there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Final

from django_poolkit.testing import Node
from tests.benchmarks.figures import Row, summed
from tests.benchmarks.scale_one import OURS, THEIRS, make

ROOT: Final = Path(__file__).parents[2]
SECONDS: Final = 1.0
"""For which each of them leases, one after the other."""


def workers(node: Node, counts: list[int], rounds: int, seconds: float = SECONDS) -> Iterator[Row]:
    """Provide what a lease with a statement takes of the CPU of each, and what all get done."""
    for count in counts:
        took: dict[str, list[float]] = {OURS: [], THEIRS: []}
        done: dict[str, list[float]] = {OURS: [], THEIRS: []}
        for _ in range(rounds):
            for name in took:
                crew = _together(name, node, count, seconds)
                took[name].append(sum(each["us"] for each in crew) / count)
                done[name].append(sum(each["per second"] for each in crew))
        for name in took:
            row = {"of": "workers", "count": count, "contestant": name}
            yield row | summed(took[name], "us") | summed(done[name], "leases", 0)


def _together(contestant: str, node: Node, count: int, seconds: float) -> list[dict[str, float]]:
    """Have so many processes lease at the same time, and return what each says."""
    with ExitStack() as stack:
        crew = [stack.enter_context(_worker(contestant, seconds)) for _ in range(count)]
        for worker in crew:
            worker.stdin.write(json.dumps(node.conninfo()) + "\n")
            worker.stdin.flush()
        for worker in crew:
            if not worker.stdout.readline():
                raise RuntimeError(f"a process of {contestant} has ended before it began")
        for worker in crew:
            worker.stdin.write("go\n")
            worker.stdin.flush()
        return [json.loads(worker.stdout.readline()) for worker in crew]


@contextmanager
def _worker(contestant: str, seconds: float) -> Iterator[Any]:
    worker = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.scale_workers", contestant, str(seconds)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with worker:
        try:
            yield worker
        except BaseException:
            worker.kill()
            raise


def leases(contestant: str, pool: Any) -> Callable[[], object]:
    """Return a lease with a statement, by the names that the pool itself prefers."""
    enter = pool.lease if contestant == OURS else pool.connection

    def lease() -> None:
        with enter() as connection:
            connection.execute("SELECT 1")

    return lease


def main() -> None:
    """Be one of the processes, and print what it has done."""
    contestant, seconds = sys.argv[1], float(sys.argv[2])
    pool = make(contestant, json.loads(sys.stdin.readline()), 2)
    lease = leases(contestant, pool)
    for _ in range(20):
        lease()
    print("ready", flush=True)
    sys.stdin.readline()
    count, began, computed = 0, perf_counter(), process_time()
    while perf_counter() < began + seconds:
        lease()
        count += 1
    per_second = count / (perf_counter() - began)
    us = (process_time() - computed) / count * 1e6
    print(json.dumps({"us": us, "per second": per_second}), flush=True)
    pool.close()


if __name__ == "__main__":
    main()
