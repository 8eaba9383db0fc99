"""A child that is forked while its parent asks replicas how far they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.routing.conftest import entry

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, os, threading, warnings
import django
from django.conf import settings
settings.configure(
    SECRET_KEY="x", USE_TZ=True, INSTALLED_APPS=["django_poolkit", "tests.app"],
    DATABASES=json.loads(os.environ["ENTRIES"]),
    DATABASE_ROUTERS=["django_poolkit.routing.ReadWriteRouter"],
    POOLKIT={"CLUSTERS": {"default": {"replicas": ["replica"]}}, "CONTROL": {"ENABLED": False},
             "ROUTING": {"WAIT": 20.0}},
)
django.setup()
from django.db import connections, transaction
from django_poolkit.routing import carry, scope
from django_poolkit.testing.waiting import wait_until
from tests.app.models import Item

def journey(name, block):
    with scope():
        if block:
            with transaction.atomic():
                Item.objects.create(name=name)
        else:
            Item.objects.create(name=name)
        token = carry()
    with scope(token):
        [found] = Item.objects.filter(name=name)
        # Where the primary takes long to say where it is, that is read for a while.
        return "replica" if not block else found._state.db

def asking():
    return [each for each in threading.enumerate() if each.name == "poolkit-positions"]

def sessions():
    query = "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"
    with connections["replica"].cursor() as cursor:
        cursor.execute(query)
        return {pid for pid, in cursor.fetchall()}

for block in (True, False):
    assert journey(f"parent {block}", block) == "replica"
assert asking()
before = sessions()
read, write = os.pipe()
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads: which this is about
child = os.fork()
if not child:
    try:
        assert not asking()
        said = [journey(f"child {block}", block) for block in (True, False)]
        assert asking()
    except BaseException as error:
        said = repr(error)
    os.write(write, json.dumps(said).encode())
    os._exit(0)
os.close(write)
for number in range(6):
    assert journey(f"beside {number}", number % 2) == "replica"
with os.fdopen(read) as pipe:
    said = json.loads(pipe.read())
    assert said == ["replica", "replica"], said
os.waitpid(child, 0)
assert journey("after", True) == "replica"
# The child has ended none of its parent's connections, and used none of them.
wait_until(lambda: before <= sessions() | before and asking(), 10.0, "the parent asks no more")
assert before <= sessions()
connections.close_all()
print("ok")
"""


def test_a_child_asks_for_itself(routed: Any) -> None:
    nodes = {"default": routed.primary, "replica": routed.replicas[0]}
    entries = {
        alias: {**entry(node), "OPTIONS": {"pool": {"mode": "session", "max_size": 4}}}
        for alias, node in nodes.items()
    }
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        env={**os.environ, "PYTHONPATH": path, "ENTRIES": json.dumps(entries, default=str)},
        capture_output=True,
        text=True,
        timeout=100.0,
    )
    assert done.stdout == "ok\n", done.stderr
