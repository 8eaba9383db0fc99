"""What a crowd of probes costs a site whose pool is full: its users' throughput with and without.

Threads use a small pool as fast as it lets them, so that some of them always wait. Meanwhile a
crowd of tasks asks `/health/db`'s report, again and again. It starts a server of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from statistics import mean, median
from typing import Any

import django
from django.conf import settings

from django_poolkit.testing import Cluster

READING = """
how to read it:
  Rounds without and with probes take turns, so that whatever else the machine does hits both.
  "ratio" is what users get in a round with probes over the mean of the two without beside it;
  "noise" is by how much two neighbours without differ. Of both it is the median. A ratio that
  differs from 1 by less than the noise says nothing.
  "questions" is how often the database was asked, in all rounds with probes; "at most" how often it
  may have been: once in each period of the cache, and once at the beginning of each round.
  Users and probes share one process, and so one interpreter lock: its price is in the ratio.

examples:
  python -m tests.benchmarks.health                     200 probes once a second, 10 s a round
  python -m tests.benchmarks.health --interval 0.05     4,000 a second, if the machine can
  python -m tests.benchmarks.health --json > run.json   the same figures, for another program
"""

POOL, USERS = 4, 8
STATEMENT = "SELECT pg_sleep(0.005)"


@contextmanager
def project() -> Iterator[None]:
    """Be a Django project on a server of its own."""
    with Cluster() as cluster:
        database = {
            "ENGINE": "django_poolkit.backends.postgresql",
            "OPTIONS": {"pool": {"max_size": POOL, "timeout": 30.0}},
            **cluster.primary.django_settings("postgres"),
        }
        settings.configure(
            INSTALLED_APPS=["django_poolkit"],
            DATABASES={"default": database},
            POOLKIT={"CONTROL": {"ENABLED": False}},
        )
        django.setup()
        yield


def throughput(seconds: float) -> float:
    """Return how many statements a second users get through a pool that is always full."""
    from django_poolkit import connection_pools

    pool = connection_pools["default"]
    until = time.monotonic() + seconds
    served: list[int] = []

    def use() -> None:
        count = 0
        while time.monotonic() < until:
            with pool.lease() as connection:
                connection.execute(STATEMENT)
            count += 1
        served.append(count)

    threads = [threading.Thread(target=use) for _ in range(USERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(served) / seconds


class Crowd:
    """Asks for so many seconds, on an event loop in a thread of its own."""

    def __init__(self, probes: int, interval: float, seconds: float) -> None:
        self.answers: Counter[str] = Counter()
        self.slowest = 0.0
        self._facts = probes, interval, seconds
        self._thread = threading.Thread(target=lambda: asyncio.run(self._ask()))
        self._thread.start()

    def end(self) -> None:
        """Wait for the last answer."""
        self._thread.join()

    async def _ask(self) -> None:
        from django_poolkit import health

        probes, interval, seconds = self._facts
        until = time.monotonic() + seconds

        async def one(number: int) -> None:
            await asyncio.sleep(interval * number / probes)
            while (begun := time.monotonic()) < until:
                report = await health.areport("db")
                self.slowest = max(self.slowest, time.monotonic() - begun)
                self.answers[str(report.results[0].reason or report.status)] += 1
                await asyncio.sleep(interval)

        await asyncio.gather(*(one(number) for number in range(probes)))


class Questions:
    """Counts how often the database is asked."""

    def __init__(self) -> None:
        from django_poolkit.pools.postgres.prober import Prober

        self.count = 0
        ask = Prober.ask

        def counted(prober: Prober, seconds: float) -> Any:
            self.count += 1
            return ask(prober, seconds)

        setattr(Prober, "ask", counted)  # noqa: B010 - for the rest of the process


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return all figures of a run."""
    questions = Questions()
    throughput(min(2.0, options.seconds))  # a warm-up
    without, with_probes = [throughput(options.seconds)], []
    answers: Counter[str] = Counter()
    slowest = 0.0
    for _ in range(options.rounds):
        crowd = Crowd(options.probes, options.interval, options.seconds)
        with_probes.append(throughput(options.seconds))
        crowd.end()
        answers += crowd.answers
        slowest = max(slowest, crowd.slowest)
        without.append(throughput(options.seconds))
    around = list(pairwise(without))
    ratios = [rate / mean(beside) for rate, beside in zip(with_probes, around, strict=True)]
    return {
        "without": without,
        "with": with_probes,
        "ratio": median(ratios),
        "noise": median([abs(after / before - 1) for before, after in around]),
        "answers": dict(answers),
        "slowest": slowest,
        "questions": questions.count,
        "at_most": options.rounds * (int(options.seconds) + 1),
    }


def show(found: dict[str, Any]) -> str:
    """Return the figures for people."""
    lines = []
    for name in ("without", "with"):
        rates = found[name]
        low, middle, high = min(rates), median(rates), max(rates)
        lines.append(f"{name:9} {middle:8.1f} statements/s ({low:.1f}-{high:.1f})")
    answers = ", ".join(f"{count} {word}" for word, count in found["answers"].items())
    return "\n".join(
        (
            *lines,
            f"ratio     {found['ratio']:8.3f}",
            f"noise     {found['noise']:8.3f}",
            f"questions {found['questions']:8d} (at most {found['at_most']})",
            f"answers   {answers}; the slowest after {found['slowest']:.3f} s",
        )
    )


def main() -> None:
    """Measure what the command line asks for, and print it."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.health",
        description=__doc__,
        epilog=READING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--probes", type=int, default=200, help="probes at once (200)")
    parser.add_argument(
        "--interval", type=float, default=1.0, help="seconds between two questions of one (1.0)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds with probes (5)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a round (10.0)")
    options = parser.parse_args()
    if min(options.probes, options.interval, options.rounds, options.seconds) <= 0:
        parser.error("all numbers have to be above 0")
    # Where the figures are JSON, what is said about them goes elsewhere.
    out = sys.stderr if options.json else sys.stdout
    print(f"Python {sys.version.split()[0]}, Django {django.__version__}", file=out, flush=True)
    with project():
        found = measure(options)
    print(json.dumps(found) if options.json else show(found))


if __name__ == "__main__":
    main()
