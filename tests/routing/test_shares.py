"""Who reads where without being told: shares of replicas, and commands that need none of them."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from django.utils import timezone

from django_poolkit.backends import ports
from django_poolkit.backends.rota import rota
from django_poolkit.routing import choice, scope
from django_poolkit.testing import Node
from django_poolkit.testing.faults import SilentServer
from django_poolkit.testing.waiting import wait_until
from example_project.shop.models import Customer, Order
from tests.app.models import Item
from tests.routing.conftest import entry, in_thread

ROOT = Path(__file__).parents[2]


def test_what_nobody_has_told_anything_reads_the_replica_and_writes_to_the_primary(routed):
    def sources() -> list[str | None]:
        return [item._state.db for item in Item.objects.all()]

    def write() -> tuple[str | None, list[str | None]]:
        return Item.objects.create(name="new")._state.db, sources()

    assert in_thread(sources) == []
    assert in_thread(write) == ("default", ["default"])
    routed.primary.wait_caught_up(routed.replicas[0])
    assert in_thread(sources) == ["replica"]


# -- two hosts behind one alias


@pytest.fixture
def two_hosts(routed: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], Customer]]:
    """Return a function that leads `replica` to both by weights, and returns their customer.

    She has one order on the first, and two on the second: so an answer shows whose it is.
    """
    monkeypatch.setattr(ports, "choose_host", choice.host_for)
    first, second = routed.replicas
    ada = Customer.objects.create(name="Ada", email="ada@example.com", city="Rome")
    for last in (first, second):
        Order.objects.create(customer=ada, placed=timezone.now(), total=Decimal(1))
        routed.primary.wait_caught_up(last)
        first.pause_replay()

    def lead(weights: tuple[int, int]) -> Customer:
        hosts = [
            {"HOST": node.host, "PORT": node.port, "weight": weight}
            for node, weight in zip(routed.replicas, weights, strict=True)
        ]
        options = {"pool": {"max_size": 4, "mode": "transaction"}, "hosts": hosts}
        connections["replica"].close()
        del connections["replica"]
        connections.settings["replica"] = entry(first, OPTIONS=options)
        rota._turns.clear()
        return ada

    yield lead
    rota._turns.clear()


READS: dict[str, Callable[[Customer], int]] = {
    "related": lambda parent: len(parent.orders.all()),
    "iterator": lambda parent: len(list(parent.orders.iterator())),
    "count": lambda parent: parent.orders.count(),
    "prefetch": lambda parent: len(Customer.objects.prefetch_related("orders").get().orders.all()),
}


@pytest.mark.parametrize("read", READS.values(), ids=list(READS))
@pytest.mark.parametrize(("weights", "share"), [((1, 1), 125), ((3, 1), 187)])
def test_each_host_gets_its_share_however_django_asks(two_hosts, read, weights, share):
    ada = two_hosts(weights)

    def work() -> Counter[int]:
        found: Counter[int] = Counter()
        for _ in range(250):
            ada._state.db = "replica"
            with scope():
                found[read(ada)] += 1
        return found

    found = in_thread(work)
    assert set(found) == {1, 2}
    assert abs(found[1] - share) <= 3


# -- commands


SETTINGS = """
import json, os
SECRET_KEY = "x"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "example_project.shop",
                  "django_poolkit"]
USE_TZ = True
def entry(node):
    return {"ENGINE": "django_poolkit.backends.postgresql", **node, "OPTIONS": {
            "pool": {"max_size": 2, "timeout": 1.0}, "options": "-c search_path=apart"}}
primary, replica = json.loads(os.environ["NODES"])
DATABASES = {"default": entry(primary), "replica": entry(replica)}
DATABASE_ROUTERS = ["django_poolkit.routing.ReadWriteRouter"]
POOLKIT = {"CLUSTERS": {"default": {"replicas": ["replica"]}}, "CONTROL": {"ENABLED": False}}
"""


@pytest.fixture
def listening() -> Iterator[tuple[SilentServer, socket.socket]]:
    """A server that is there and never answers, and the socket to see who has come."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield SilentServer(*listener.getsockname()), listener


def has_come(listener: socket.socket) -> bool:
    """Return whether anybody has connected."""
    return bool(select.select([listener], [], [], 0)[0])


def manage(folder: Path, primary: Node, replica: SilentServer, *arguments: str) -> Any:
    (folder / "project.py").write_text(SETTINGS)
    there = {"HOST": replica.host, "PORT": str(replica.port)}
    environment = {
        **os.environ,
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
        "DJANGO_SETTINGS_MODULE": "project",
        "NODES": json.dumps([primary.django_settings(), primary.django_settings() | there]),
    }
    command = [sys.executable, "-W", "error", "-m", "django", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100.0
    )


READING = """
from django_poolkit.routing import scope
from example_project.shop.models import Order
with scope():
    Order.objects.exists()
"""


def test_commands_do_not_even_knock_at_a_replica(tmp_path, servers, listening):
    replica, listener = listening
    servers.primary.execute("DROP SCHEMA IF EXISTS apart CASCADE; CREATE SCHEMA apart")
    try:
        for command in (
            ["check", "--database", "default"],
            ["makemigrations", "--check", "--dry-run"],
            ["migrate", "--verbosity", "0"],
        ):
            done = manage(tmp_path, servers.primary, replica, *command)
            assert done.returncode == 0, (command, done.stdout, done.stderr)
            assert not has_come(listener), command
        # Whoever does read there is seen.
        done = manage(tmp_path, servers.primary, replica, "shell", "-c", READING)
        assert "PoolTimeout" in done.stderr
        wait_until(lambda: has_come(listener), 10.0, "nobody has come")
    finally:
        servers.primary.execute("DROP SCHEMA apart CASCADE")
