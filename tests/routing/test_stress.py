"""Visitors write and read, while replicas stand still and go on: nobody reads its past."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connections, transaction

from django_poolkit.backends import ports
from django_poolkit.routing import choice, scope
from django_poolkit.routing.outgoing import outgoing
from django_poolkit.routing.settling import settle
from tests.app.models import Item
from tests.routing.conftest import alias_of
from tests.routing.test_settling import Floors, to_hosts

SECONDS = 6.0
VISITORS = 6


class Visitor:
    """Writes rows under its own name, and looks for what it has seen before."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.floors: Floors = {}
        self.mine = 0
        self.seen = 0
        self.stale: list[str] = []
        self.read: Counter[str] = Counter()

    def live(self, end: float) -> None:
        dice = random.Random(self.name)
        try:
            while time.monotonic() < end:
                if dice.random() < 0.2:
                    self._write(dice.random() < 0.5)
                else:
                    self._read()
        finally:
            connections.close_all()

    def _write(self, alone: bool) -> None:
        with scope() as here:
            self._arrive(here)
            if alone:
                Item.objects.create(name=self.name)
            else:
                with transaction.atomic():
                    Item.objects.create(name=self.name)
            self.floors = outgoing(here)
        self.mine += 1

    def _read(self) -> None:
        with scope() as here:
            self._arrive(here)
            settle(here)
            alias = alias_of()
            everything = Item.objects.count()
            mine = Item.objects.filter(name=self.name).count()
            where = here.hosts.get(alias, alias)
            self.floors = outgoing(here)
        self.read[where] += 1
        if mine != self.mine:
            self.stale.append(f"{self.name} has written {self.mine} and finds {mine} on {where}")
        if everything < self.seen:
            self.stale.append(f"{self.name} has seen {self.seen} and finds {everything} on {where}")
        self.seen = everything

    def _arrive(self, here: Any) -> None:
        here.visitor = self.name.encode()
        for name, floor in self.floors.items():
            here.raise_floor(name, floor)


def disturb(nodes: Any, end: float) -> None:
    dice = random.Random(7)
    while time.monotonic() < end:
        node = dice.choice(nodes)
        if dice.random() < 0.5:
            node.pause_replay()
        else:
            node.resume_replay()
        time.sleep(dice.uniform(0.01, 0.15))
    for node in nodes:
        node.resume_replay()


@pytest.mark.parametrize(("mode", "by"), [("transaction", "visitor"), ("transaction", "random")])
def test_nobody_reads_its_past(routed, monkeypatch, settings, mode, by):
    monkeypatch.setattr(ports, "choose_host", choice.host_for)
    clusters = {"default": {"replicas": ["replica"], "choice": by}}
    settings.POOLKIT = {**settings.POOLKIT, "CLUSTERS": clusters}
    to_hosts(routed, mode=mode)
    end = time.monotonic() + SECONDS
    visitors = [Visitor(f"visitor {n}") for n in range(VISITORS)]
    disturber = threading.Thread(target=disturb, args=(routed.replicas, end))
    disturber.start()
    with ThreadPoolExecutor(VISITORS) as threads:
        for outcome in [threads.submit(visitor.live, end) for visitor in visitors]:
            outcome.result()
    disturber.join()
    assert [text for visitor in visitors for text in visitor.stale] == []
    read = sum((visitor.read for visitor in visitors), Counter[str]())
    assert all(read[where] for where in ("r1", "r2", "default")), read
    assert all(visitor.mine and visitor.read for visitor in visitors)
