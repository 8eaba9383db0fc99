"""Pools under faults by chance, for minutes or hours: nothing may leak, grow, or be miscounted.

Threads make requests in session and in transaction mode, tasks take leases and are cancelled,
threads die with a lease. Meanwhile connections are killed and statements cancelled, the server is
restarted and hangs. The pools' figures are looked at every 100 ms, and the whole process at quiet
moments. It starts a server of its own.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import random
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import django
from django.conf import settings

from django_poolkit.testing import Cluster, Node
from django_poolkit.testing.waiting import wait_until
from tests.benchmarks.figures import Row, number
from tests.benchmarks.soak_faults import NAME, Faults
from tests.benchmarks.soak_watch import SAMPLE_EVERY, Moment, Sampler, growth, look

SIZE: Final = 6
QUIET_WITHIN: Final = 60.0
PATIENCE: Final = 10.0

READING: Final = f"""
what is watched:
  every {SAMPLE_EVERY * 1000:g} ms, of each pool: size is idle + used + connecting, none is below 0,
  and size is not above max_size
  at quiet moments, when nobody makes a request, at the end of each --every seconds: nothing is
  leased and nobody waits; and what this process has of threads, open files (beside the sockets of
  the pools' connections), objects and memory
  always: nobody sees what another has left in a session, and nobody meets an error that is not one
  of the database or of the pool
  at the end: each pool can still be emptied to its last connection, and the server has no more
  sessions than the pools have connections

how to read the table:
  "early" is the first quiet moment after a quarter of the run, "late" the last one, "allowed" what
  it may be: what Python keeps by itself now and then is in that. Below stand the faults, the
  requests that were served and that failed by error, which are the faults' own, and the verdict.

exit code:
  0 if all of it held, 1 if something was found: it is named.

examples:
  python -m tests.benchmarks.soak                    two minutes
  python -m tests.benchmarks.soak --minutes 60       an hour
  python -m tests.benchmarks.soak --seed 7           the same faults in the same order
"""


@contextmanager
def project(node: Node) -> Iterator[dict[str, Any]]:
    """Be a Django project with a pool in each mode; provide the pools by alias."""
    base = {"ENGINE": "django_poolkit.backends.postgresql", **node.django_settings()}
    pool = {"max_size": SIZE, "timeout": 3.0}

    def entry(**more: Any) -> dict[str, Any]:
        return {**base, "OPTIONS": {"application_name": NAME, "pool": {**pool, **more}}}

    settings.configure(
        INSTALLED_APPS=["django_poolkit"],
        DATABASES={"default": entry(), "statements": entry(mode="transaction")},
        POOLKIT={"CONTROL": {"ENABLED": False}},
        LOGGING_CONFIG=None,
    )
    django.setup()
    logging.getLogger("django_poolkit").setLevel(logging.CRITICAL)  # faults are no news here
    warnings.simplefilter("ignore")  # leases are dropped on purpose
    node.execute("CREATE TABLE soak (id int PRIMARY KEY, n int NOT NULL)")
    node.execute("INSERT INTO soak SELECT g, 0 FROM generate_series(1, 50) g")
    from django.db import connections

    from django_poolkit import connection_pools, registry

    for alias in ("default", "statements"):
        connections[alias].ensure_connection()
        connections[alias].close()
    try:
        yield {alias: connection_pools[alias] for alias in ("default", "statements")}
    finally:
        registry.pools.close_all()


def quiet(gate: Any, pools: dict[str, Any], findings: list[str]) -> Moment | None:
    """Have all rest, and look; None where they do not come to rest, which is a finding."""
    try:
        if not gate.shut(QUIET_WITHIN):
            findings.append(f"somebody was not done within {QUIET_WITHIN:g} s")
            return None
        for alias, pool in pools.items():
            try:
                wait_until(lambda pool=pool: at_rest(pool.stats()), QUIET_WITHIN, interval=0.05)  # type: ignore[misc]
            except TimeoutError:
                findings.append(f"{alias}: not at rest: {pool.stats().summary()}")
        return look(pools)
    finally:
        gate.open()


def at_rest(stats: Any) -> bool:
    """Return whether nothing is leased, nobody waits, and nothing is being connected."""
    if stats.used:
        gc.collect()  # a lease that was lost in a circle
    return not (stats.used or stats.waiters or stats.connecting)


def last_connection(pool: Any) -> str | None:
    """Return what is wrong where not all connections of a pool can be had, else None."""
    leases = []
    try:
        for _ in range(SIZE):
            leases.append(pool.acquire(PATIENCE))
    except Exception as error:
        return f"only {len(leases)} of {SIZE} connections can be had: {error}"
    finally:
        for lease in leases:
            lease.release()
    return None


def soak(node: Node, pools: dict[str, Any], options: argparse.Namespace, out: Any) -> Row:
    """Have it all happen; return what was found."""
    from tests.benchmarks.soak_users import Gate, Users

    gate, findings, moments = Gate(), list[str](), list[tuple[float, Moment]]()
    users, sampler = Users(gate, pools, options.users), Sampler(pools)
    faults = Faults(node, users, options.seed)
    begun = time.monotonic()
    length = options.minutes * 60
    told = begun
    try:
        while (now := time.monotonic()) < begun + length:
            if now >= told + options.every:
                if moment := quiet(gate, pools, findings):
                    moments.append((now - begun, moment))
                told = now
                counts = f"{users.served.total():,} served, {faults.done.total()} faults"
                print(f"{now - begun:6.0f} of {length:.0f} s: {counts}", file=out, flush=True)
            faults.strike()
            time.sleep(faults.pause())
        if moment := quiet(gate, pools, findings):
            moments.append((time.monotonic() - begun, moment))
    finally:
        gate.end()
        if not users.join(QUIET_WITHIN):
            findings.append("somebody did not go home")
        sampler.end()
    findings += ending(node, pools)
    findings += users.findings + sampler.findings
    late = [moment for at, moment in moments if at >= length / 4] or [m for _, m in moments]
    rows, grown = growth(late)
    idle = [name for name in names(options.users) if not users.served[name]]
    findings += grown + [f"{name} was never served" for name in idle]
    return {
        "counts": rows,
        "samples": sampler.samples,
        "faults": dict(faults.done),
        "served": users.served.total(),
        "failed": dict(users.failed),
        "findings": findings[:50],
        "seed": options.seed,
        "seconds": round(time.monotonic() - begun, 1),
    }


def names(users: int) -> Iterator[str]:
    """Provide the names of all users."""
    for number_of_user in range(users):
        yield f"thread {number_of_user}"
        yield f"task {number_of_user}"


def ending(node: Node, pools: dict[str, Any]) -> Iterator[str]:
    """Provide what is wrong at the end."""
    for alias, pool in pools.items():
        if wrong := last_connection(pool):
            yield f"{alias}: {wrong}"

    def surplus() -> int:
        stats = [pool.stats() for pool in pools.values()]
        known: int = sum(each.size + each.probing for each in stats)
        return len(node.sessions(NAME)) - known

    try:
        wait_until(lambda: surplus() <= 0, QUIET_WITHIN, interval=0.1)
    except TimeoutError:
        yield f"the server has {surplus()} sessions more than the pools have connections"


def show(found: Row) -> str:
    """Return what was found, for people."""
    lines = [f"{'':12} {'early':>10} {'late':>10} {'allowed':>10}"]
    counts = found["counts"]
    for three in zip(counts[::3], counts[1::3], counts[2::3], strict=True):
        cells = " ".join(f"{number(each['value']):>10}" for each in three)
        lines.append(f"{three[0]['measure']:12} {cells}")
    for what in ("faults", "failed"):
        each = ", ".join(f"{count} {name}" for name, count in sorted(found[what].items()))
        lines.append(f"{what:12} {each or 'none'}")
    lines.append(f"{'served':12} {found['served']:,} in {found['seconds']:.0f} s")
    lines.append(f"{'samples':12} {found['samples']:,}")
    verdict = found["findings"] or [f"all of it held (seed {found['seed']})"]
    return "\n".join([*lines, *(f"{'verdict':12} {each}" for each in verdict)])


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.soak",
        description=__doc__,
        epilog=READING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    parser.add_argument("--minutes", type=float, default=2.0, help="for so long (2)")
    parser.add_argument("--every", type=float, default=15.0, help="s between quiet moments (15)")
    parser.add_argument("--users", type=int, default=10, help="threads, and as many tasks (10)")
    parser.add_argument("--seed", type=int, default=None, help="of the dice (by chance)")
    options = parser.parse_args(arguments)
    if min(options.minutes, options.every) <= 0 or options.users < 2:
        parser.error("--minutes and --every have to be above 0, --users above 1")
    if options.seed is None:
        options.seed = random.randrange(10_000)
    return options


def main(arguments: list[str] | None = None) -> int:
    """Soak, print, and return 1 where something was found, else 0."""
    options = parsed(arguments)
    out = sys.stderr if options.json else sys.stdout
    with Cluster() as cluster, project(cluster.primary) as pools:
        found = soak(cluster.primary, pools, options, out)
    print(json.dumps(found) if options.json else show(found))
    return 1 if found["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
