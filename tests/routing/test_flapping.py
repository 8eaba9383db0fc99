"""Forked workers with many threads read while replicas come and go: nothing leaks, nobody waits.

How long a read takes, `python -m tests.benchmarks.routing` measures. Here it is looked whether
anybody waits for a server while holding a lock that others need.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from django_poolkit.testing.faults import TCPProxy
from tests.routing.conftest import entry

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WORKERS, THREADS, READS = 2, 50, 100
SCRIPT = """
import json, os, sys, threading, warnings
import django
from django.conf import settings
settings.configure(
    SECRET_KEY="x", USE_TZ=True, INSTALLED_APPS=["django_poolkit", "tests.app"],
    DATABASES=json.loads(os.environ["ENTRIES"]),
    DATABASE_ROUTERS=["django_poolkit.routing.ReadWriteRouter"],
    POOLKIT={"CLUSTERS": {"default": {"replicas": ["replica"]}}, "CONTROL": {"ENABLED": False}},
)
django.setup()
from collections import Counter
import psycopg
from django.db import Error, connections
from django_poolkit import registry
from django_poolkit.routing import monitor as module, scope
from tests.app.models import Item

module.CALM = module.ALERT = (0.1, 0.2)
workers, threads, reads = map(int, sys.argv[1:])
held, look = [], psycopg.Connection.wait

def wait(self, *args, **kwargs):
    # All that is sent to a server, or read from it, passes here. The locks are those of pools; the
    # monitor's is no lock of a thread's own, so it is one here that knows its owner.
    locks = [pool._lock for pool in registry.pools] + [module.monitor._lock]
    if any(lock._is_owned() for lock in locks):
        held.append(threading.current_thread().name)
    return look(self, *args, **kwargs)

psycopg.Connection.wait = wait
begin = module.Monitor._begin
def begun(self):
    begin(self)
    self._lock = threading.RLock()
module.Monitor._begin = begun
module.monitor._lock = threading.RLock()

def read():
    with scope():
        return Item.objects.count()

def work():
    found, errors, counting = Counter(), Counter(), threading.Lock()
    def visit():
        for _ in range(reads):
            try:
                read()
                kind = ""
            except Error as error:
                kind = type(error).__name__
            connections.close_all()
            with counting:
                errors[kind] += 1
    crowd = [threading.Thread(target=visit) for _ in range(threads)]
    [each.start() for each in crowd]
    [each.join() for each in crowd]
    for pool in registry.pools:
        stats = pool.stats()
        found[pool.name] = stats.used, stats.waiters, stats.size <= stats.max_size
    evictions = sum(sum(pool.stats().evictions.values()) for pool in registry.pools)
    return {"errors": errors, "pools": found, "held": held, "evictions": evictions,
            "retries": sum(sum(p.stats().read_retries.values()) for p in registry.pools)}

read()  # the parent has pools, connections, and a monitor by now
connections.close_all()
print("ready", flush=True)
sys.stdin.readline()
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads: which this is about
pipes = []
for _ in range(workers):
    ours, theirs = os.pipe()
    if not os.fork():
        os.write(theirs, json.dumps(work()).encode())
        os.close(theirs)
        registry.pools.close_all()
        os._exit(0)
    os.close(theirs)
    pipes.append(ours)
found = [json.loads(os.fdopen(pipe).read()) for pipe in pipes]
print(json.dumps(found), flush=True)
"""


def flap(proxies: list[TCPProxy], done: threading.Event) -> int:
    """Have one after the other refuse and cut all, for a moment each; return how often."""
    dice, times = random.Random(39), 0
    while not done.wait(dice.uniform(0.05, 0.2)):
        proxy = proxies[times % len(proxies)]
        proxy.refuse()
        proxy.drop()
        done.wait(dice.uniform(0.1, 0.4))
        proxy.accept()
        times += 1
    return times


def test_crowds_in_forked_workers_read_on_while_replicas_come_and_go(routed: Any) -> None:
    # Scenario 39.
    with ExitStack() as stack:
        proxies = [stack.enter_context(TCPProxy(n.host, n.port)) for n in routed.replicas]
        plain = {"sslmode": "disable", "gssencmode": "disable"}
        pool = {"max_size": 8, "mode": "transaction", "timeout": 20.0}
        places = [{"HOST": proxy.host, "PORT": proxy.port} for proxy in proxies]
        entries = {
            "default": entry(routed.primary, OPTIONS={**plain, "pool": pool}),
            "replica": entry(
                routed.replicas[0], OPTIONS={**plain, "pool": pool, "hosts": places}
            ),
        }  # fmt: skip
        program = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-W", "error", "-c", SCRIPT, *map(str, (WORKERS, THREADS, READS))],
                cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env={**os.environ, "ENTRIES": json.dumps(entries, default=str)},
            )
        )  # fmt: skip
        assert program.stdin
        assert program.stdout
        assert program.stdout.readline() == "ready\n"
        done, times = threading.Event(), []
        disturber = threading.Thread(target=lambda: times.append(flap(proxies, done)))
        disturber.start()
        try:
            program.stdin.write("\n")
            program.stdin.flush()
            found = json.loads(program.stdout.readline())
        finally:
            done.set()
            disturber.join()
        program.stdin.close()
        assert program.wait(60) == 0
        assert times[0] > 3
    for worker in found:
        assert worker["errors"] == {"": THREADS * READS}
        assert worker["held"] == []
        assert all(state == [0, 0, True] for state in worker["pools"].values()), worker["pools"]
    assert sum(worker["evictions"] for worker in found) > 0
    assert not routed.primary.sessions()
